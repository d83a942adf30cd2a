"""Assemble the folder of a model repository from a run and its evaluation: weights, processor, card, plots, recipe."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor

from .. import taxonomy
from ..adaptation.adapt import RECORD
from ..curation.splits import SPLITS
from ..errors import CelluScanError
from ..evaluation.folder import CONFUSION, EXAMPLES, METRICS, RECALL, RELIABILITY, ROC
from ..evaluation.job import preparation
from ..inference.loading import load_classifier
from ..modeling.checkpoints import start_model
from ..modeling.exporting import export_hand_built, export_native
from ..modeling.key_mapping import WeightsError
from ..modeling.modeling_celluscan import CelluScanForImageClassification
from ..modeling.reliability_celluscan import ARRAYS, FACTS
from ..reliability.calibrate import PLOT as CALIBRATION
from ..training.record import ASKED, CURVES, DONE
from .model_card import ModelFacts, evaluation_results, render

RESULTS = ".eval_results/celluscan.yaml"
_PLOTS = (CONFUSION, RECALL, RELIABILITY, ROC)
_LOCAL_SETTINGS = {  # not published
    "logging_dir",
    "output_dir",
    "resume_from_checkpoint",
    "run_name",
}
# A path from the root, a home or a parent folder; only its last name is kept. In quotes it may contain spaces; else it
# starts a word or follows `=`, `NAME:` or `file://`. URLs, fractions (1/2) and relative paths do not match.
_PATH_START = r"(?:~[\w.-]*[/\\]|[A-Za-z]:[/\\]|(?:\.\.[/\\])+|/)"
_QUOTED_PATH = re.compile(rf"(['\"]){_PATH_START}[^'\"]*?([^'\"/\\]+)[/\\]*\1")
_BARE_PATH = re.compile(
    rf"(?<![\w./\\~-])(?:file://|(?<!:)|(?<=\w:)(?!//)){_PATH_START}(?:[^\s'\"/\\]+[/\\]+)*([^\s'\"/\\]+)[/\\]*"
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_ONLY_PATH = re.compile(rf"^{_PATH_START}(?!.*\s--)(?:.*[/\\])?([^/\\]+)[/\\]*$")


@dataclass(frozen=True)
class TrainedModel:
    """A finished run and the evaluation of its model on the test split."""

    run: Path
    evaluation: Path

    def __post_init__(self) -> None:
        for folder, files, command in (
            (self.run, (ASKED, DONE, CURVES, "config.json", "model.safetensors"), "train"),
            (self.evaluation, (METRICS, EXAMPLES, CONFUSION, RELIABILITY), "evaluate"),
        ):
            if missing := [name for name in files if not (folder / name).is_file()]:
                raise CelluScanError(f"{folder} has no {missing[0]}: expected a finished folder of celluscan {command}")
        with (self.run / "model.safetensors").open("rb") as stream:
            weights = hashlib.file_digest(stream, "sha256").hexdigest()
        model = self.metrics["model"]
        if model["sha256"] != weights:
            raise CelluScanError(
                f"{self.evaluation} evaluates other weights ({model['name']}) than {self.run} has: they changed "
                "after this evaluation (calibrated or trained again?) or are of another run; run "
                "celluscan evaluate on this run"
            )
        if (views := model.get("views")) not in (None, own := _read(self.run / "config.json").get("views", 1)):
            raise CelluScanError(
                f"{self.evaluation} evaluates the model with {views} views, its config has {own}: run celluscan "
                "evaluate without --views"
            )
        if self.adaptation and self.adaptation.get("classes", list(taxonomy.NAMES)) != list(taxonomy.NAMES):
            raise CelluScanError(
                f"{self.run} has classes of its own, which are not evaluated on our sets; its folder is complete, with "
                f"a card: publish it with hf upload OWNER/NAME {self.run}"
            )
        processor = AutoImageProcessor.from_pretrained(self.run)
        if model.get("preparation") != preparation(processor):
            raise CelluScanError(
                f"{self.evaluation} preprocessed images differently from {self.run}/preprocessor_config.json: run "
                "celluscan evaluate on this run"
            )
        if self.metrics["data"].get("split", SPLITS[-1]) != SPLITS[-1]:
            raise CelluScanError(
                f"{self.evaluation} evaluates the {self.metrics['data']['split']} split: cards report results on the "
                f"{SPLITS[-1]} split"
            )

    @cached_property
    def settings(self) -> Any:
        return _read(self.run / ASKED)

    @cached_property
    def training(self) -> Any:
        return _read(self.run / DONE)

    @cached_property
    def metrics(self) -> Any:
        return _read(self.evaluation / METRICS)

    @cached_property
    def adaptation(self) -> Any:
        """What `celluscan adapt` wrote beside the model; None if it was not adapted."""
        return _read(self.run / RECORD) if (self.run / RECORD).is_file() else None

    @property
    def data(self) -> str:
        """The dataset as the training was given it."""
        return str(self.settings["data"]["name"])

    @property
    def dataset(self) -> str | None:
        """The Hub id of the dataset; None for a local folder."""
        local = self.settings["data"].get("local", Path(self.data).exists())  # runs of version 0.1 do not say
        return None if local or not _HUB_ID.fullmatch(self.data) else self.data

    @property
    def examples(self) -> list[Mapping[str, Any]]:
        return list(_read(self.evaluation / EXAMPLES))

    @property
    def images(self) -> list[Path]:
        """Example images, at most one per class."""
        return [self.evaluation / example["file"] for example in self.examples]


@dataclass(frozen=True)
class Variant:
    """One of the two repositories of a model.

    - `hand_built`: our own architecture with its Python files; else the library's ViT.
    - `counterpart`: the repository of the other variant, if both are published.
    - `dataset`: the Hub id of the dataset it was trained on; None if it is not published.
    - `revision`: the tag to publish under; by default the hand-built variant gets a tag derived from its files.
    - `packaged`: comes with this package instead of in a repository, without code and without images of cells.
    - `left_out`: as in `ModelFacts`.
    """

    repository: str
    hand_built: bool
    counterpart: str | None
    dataset: str | None
    revision: str | None
    packaged: bool = False
    left_out: tuple[Mapping[str, Any], ...] = ()


def assemble(trained: TrainedModel, variant: Variant, folder: Path) -> str | None:
    """Write the folder of one variant; return the tag to publish it under, if any.

    Raises:
        CelluScanError: The library's ViT does not support this model.
    """
    _, processor = load_classifier(trained.run)
    model = start_model(str(trained.run), taxonomy.ID2LABEL)
    try:
        (export_hand_built if variant.hand_built else export_native)(model, folder, processor)
    except WeightsError as error:
        raise CelluScanError(
            f"{trained.run} cannot be published as {variant.repository}, which needs transformers alone ({error}): "
            "give --handbuilt OWNER/NAME and no other repository"
        ) from error
    _copy_reliability(trained, variant, folder)
    _copy_results(trained, variant, folder)
    if variant.packaged:
        for code in folder.glob("*.py"):  # the package has it
            code.unlink()
    revision = variant.revision
    if revision is None and variant.hand_built and not variant.packaged:
        revision = f"content-{_digest(folder, _card(trained, variant, folder, '', model))[:12]}"
    (folder / "README.md").write_text(_card(trained, variant, folder, revision or "main", model), "utf-8")
    return revision


def _copy_reliability(trained: TrainedModel, variant: Variant, folder: Path) -> None:
    """Copy the calibration files, the same for both variants since their logits are equal."""
    if not (trained.run / FACTS).is_file():  # trained with --calibrate false
        return
    _write(folder / FACTS, public(_read(trained.run / FACTS), trained, variant))
    shutil.copyfile(trained.run / ARRAYS, folder / ARRAYS)
    if (trained.run / CALIBRATION).is_file():  # an adapted model has none
        shutil.copyfile(trained.run / CALIBRATION, folder / CALIBRATION)


def _copy_results(trained: TrainedModel, variant: Variant, folder: Path) -> None:
    for name in _PLOTS:
        if (trained.evaluation / name).is_file():  # no ROC without both normal and abnormal cells
            shutil.copyfile(trained.evaluation / name, folder / name)
    shutil.copyfile(trained.run / CURVES, folder / CURVES)
    if not variant.packaged:
        _copy_examples(trained, folder)
    _write(folder / ASKED, public(trained.settings, trained, variant))
    _write(folder / DONE, trained.training)
    _write(folder / METRICS, public(trained.metrics, trained, variant))
    if trained.adaptation:
        _write(folder / RECORD, public(trained.adaptation, trained, variant))


def _copy_examples(trained: TrainedModel, folder: Path) -> None:
    shutil.copyfile(trained.evaluation / EXAMPLES, folder / EXAMPLES)
    for example, image in zip(trained.examples, trained.images, strict=True):
        (folder / example["file"]).parent.mkdir(exist_ok=True)
        shutil.copyfile(image, folder / example["file"])


def _card(
    trained: TrainedModel, variant: Variant, folder: Path, revision: str, model: CelluScanForImageClassification
) -> str:
    """Render the card, and write the evaluation results for the Hub."""
    facts = ModelFacts(
        repository=variant.repository,
        hand_built=variant.hand_built,
        counterpart=variant.counterpart,
        revision=revision,
        dataset=variant.dataset,
        settings=public(trained.settings, trained, variant),
        training=trained.training,
        metrics=public(trained.metrics, trained, variant),
        config=model.config.to_dict(),
        parameters=model.num_parameters(),
        examples=[] if variant.packaged else trained.examples,
        packaged=variant.packaged,
        left_out=variant.left_out,
        adaptation=public(trained.adaptation, trained, variant),
    )
    if not variant.packaged:
        (folder / RESULTS).parent.mkdir(exist_ok=True)
        (folder / RESULTS).write_text(evaluation_results(facts), "utf-8")
    return render(facts)


def public(record: Any, trained: TrainedModel, variant: Variant) -> Any:
    """Remove paths of this machine from a record of a run: folders become Hub ids, or are dropped."""
    dataset = variant.dataset or Path(trained.data).name
    hub_ids = {trained.data: dataset, str(trained.run): variant.repository}

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if key not in _LOCAL_SETTINGS}
        if isinstance(value, list):
            return [clean(item) for item in value]
        if not isinstance(value, str):
            return value
        for path, hub_id in hub_ids.items():
            value = re.sub(rf"(?<!\S){re.escape(path)}(?!\S)", hub_id, value)
        return _BARE_PATH.sub(r"\1", _QUOTED_PATH.sub(r"\1\2\1", _ONLY_PATH.sub(r"\1", value)))

    return clean(record)


def _digest(folder: Path, card: str) -> str:
    """Hash all files of a folder and the card that is not written yet."""
    digest = hashlib.sha256(card.encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CelluScanError(f"{path} cannot be read ({error}); create its folder again") from error


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
