"""A run and its evaluation become the folder of a model repository: weights, processor, card, figures, recipe."""

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
from ..curation.splits import SPLITS
from ..errors import CelluScanError
from ..evaluation.folder import CONFUSION, EXAMPLES, METRICS, RECALL, RELIABILITY, ROC
from ..evaluation.job import preparation
from ..inference.loading import load_classifier
from ..modeling.checkpoints import start_model
from ..modeling.exporting import export_hand_built, export_native
from ..modeling.key_mapping import WeightsError
from ..modeling.reliability_celluscan import ARRAYS, FACTS
from ..reliability.calibrate import PLOT as CALIBRATION
from ..training.record import ASKED, DONE
from .model_card import ModelFacts, evaluation_results, render

CURVES = "curves.png"
RESULTS = ".eval_results/celluscan.yaml"
_PICTURES = (CONFUSION, RECALL, RELIABILITY, ROC)
_PLACES = {"logging_dir", "output_dir", "resume_from_checkpoint", "run_name"}  # of settings: the user's, not the run's
# A path from the root, a home or a parent folder; its last name is kept. In quotes it may hold spaces; else it begins a
# word, or stands behind `=`, `NAME:` or `file://`. Web addresses, shares (1/2) and folders of the project are none.
_BEGINNING = r"(?:~[\w.-]*[/\\]|[A-Za-z]:[/\\]|(?:\.\.[/\\])+|/)"
_QUOTED = re.compile(rf"(['\"]){_BEGINNING}[^'\"]*?([^'\"/\\]+)[/\\]*\1")
_BARE = re.compile(
    rf"(?<![\w./\\~-])(?:file://|(?<!:)|(?<=\w:)(?!//)){_BEGINNING}(?:[^\s'\"/\\]+[/\\]+)*([^\s'\"/\\]+)[/\\]*"
)
_WHOLE = re.compile(rf"^{_BEGINNING}(?!.*\s--)(?:.*[/\\])?([^/\\]+)[/\\]*$")


@dataclass(frozen=True)
class TrainedModel:
    """A finished run with the evaluation of its model on a test split."""

    run: Path
    evaluation: Path

    def __post_init__(self) -> None:
        for folder, files, script in (
            (self.run, (ASKED, DONE, CURVES, "config.json", "model.safetensors"), "scripts/train.py"),
            (self.evaluation, (METRICS, EXAMPLES, CONFUSION, RELIABILITY), "scripts/evaluate.py"),
        ):
            if missing := [name for name in files if not (folder / name).is_file()]:
                raise CelluScanError(f"{folder} has no {missing[0]}: expected a finished folder of {script}")
        with (self.run / "model.safetensors").open("rb") as stream:
            weights = hashlib.file_digest(stream, "sha256").hexdigest()
        judged = self.metrics["model"]
        if judged["sha256"] != weights:
            raise CelluScanError(
                f"{self.evaluation} is of other weights ({judged['name']}) than {self.run} has: run "
                "scripts/evaluate.py on this run"
            )
        processor = AutoImageProcessor.from_pretrained(self.run)
        if judged.get("preparation") != preparation(processor):
            raise CelluScanError(
                f"{self.evaluation} prepared images otherwise than {self.run}/preprocessor_config.json says: run "
                "scripts/evaluate.py on this run"
            )
        if self.metrics["data"].get("split", SPLITS[-1]) != SPLITS[-1]:
            raise CelluScanError(
                f"{self.evaluation} is of the {self.metrics['data']['split']} split: cards state figures of the "
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

    @property
    def examples(self) -> list[Mapping[str, Any]]:
        return list(_read(self.evaluation / EXAMPLES))

    @property
    def images(self) -> list[Path]:
        """Example images, one for each class that has one."""
        return [self.evaluation / example["file"] for example in self.examples]


@dataclass(frozen=True)
class Variant:
    """One of the two repositories of a model.

    - `hand_built`: our own architecture with its Python files; else the library's ViT.
    - `counterpart`: the repository of the other variant, where both are published.
    - `dataset`: the Hub id of the data set it was trained on.
    - `revision`: the tag to publish under; without one, the hand-built variant gets a tag that follows from its files.
    """

    repository: str
    hand_built: bool
    counterpart: str | None
    dataset: str
    revision: str | None


def assemble(trained: TrainedModel, variant: Variant, folder: Path) -> str | None:
    """Write the folder of one variant; the tag to publish it under, if any.

    Raises:
        CelluScanError: The library's ViT has no room for this model.
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
    _copy_figures(trained, variant, folder)
    parameters = model.num_parameters()
    revision = variant.revision
    if revision is None and variant.hand_built:
        revision = f"content-{_digest(folder, _card(trained, variant, folder, '', parameters))[:12]}"
    (folder / "README.md").write_text(_card(trained, variant, folder, revision or "main", parameters), "utf-8")
    return revision


def _copy_reliability(trained: TrainedModel, variant: Variant, folder: Path) -> None:
    """What is known of how far to trust the model, for both variants: their logits are equal."""
    if not (trained.run / FACTS).is_file():  # trained with --calibrate false
        return
    _write(folder / FACTS, public(_read(trained.run / FACTS), trained, variant))
    shutil.copyfile(trained.run / ARRAYS, folder / ARRAYS)
    shutil.copyfile(trained.run / CALIBRATION, folder / CALIBRATION)


def _copy_figures(trained: TrainedModel, variant: Variant, folder: Path) -> None:
    for name in _PICTURES:
        if (trained.evaluation / name).is_file():  # no ROC without both kinds of cells
            shutil.copyfile(trained.evaluation / name, folder / name)
    shutil.copyfile(trained.run / CURVES, folder / CURVES)
    shutil.copyfile(trained.evaluation / EXAMPLES, folder / EXAMPLES)
    for example, image in zip(trained.examples, trained.images, strict=True):
        (folder / example["file"]).parent.mkdir(exist_ok=True)
        shutil.copyfile(image, folder / example["file"])
    _write(folder / ASKED, public(trained.settings, trained, variant))
    _write(folder / DONE, trained.training)
    _write(folder / METRICS, public(trained.metrics, trained, variant))


def _card(trained: TrainedModel, variant: Variant, folder: Path, revision: str, parameters: int) -> str:
    """The text of the card; writes the figures for the Hub's tables beside."""
    facts = ModelFacts(
        repository=variant.repository,
        hand_built=variant.hand_built,
        counterpart=variant.counterpart,
        revision=revision,
        dataset=variant.dataset,
        settings=public(trained.settings, trained, variant),
        training=trained.training,
        metrics=public(trained.metrics, trained, variant),
        config=_read(folder / "config.json"),
        parameters=parameters,
        examples=trained.examples,
    )
    (folder / RESULTS).parent.mkdir(exist_ok=True)
    (folder / RESULTS).write_text(evaluation_results(facts), "utf-8")
    return render(facts)


def public(record: Any, trained: TrainedModel, variant: Variant) -> Any:
    """A record of a run without what is only of the machine it ran on: folders become names of the Hub, or go."""
    named = {trained.settings["data"]["name"]: variant.dataset, str(trained.run): variant.repository}

    def cleaned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: cleaned(item) for key, item in value.items() if key not in _PLACES}
        if isinstance(value, list):
            return [cleaned(item) for item in value]
        if not isinstance(value, str):
            return value
        for place, name in named.items():
            value = re.sub(rf"(?<!\S){re.escape(place)}(?!\S)", name, value)
        return _BARE.sub(r"\1", _QUOTED.sub(r"\1\2\1", _WHOLE.sub(r"\1", value)))

    return cleaned(record)


def _digest(folder: Path, card: str) -> str:
    """Of all files of a folder and the card that is still to come."""
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
        raise CelluScanError(f"{path} cannot be read ({error}); make its folder again") from error


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
