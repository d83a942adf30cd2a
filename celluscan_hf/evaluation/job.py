"""The evaluation: cells -> predictions -> metrics -> plots and report, in one folder."""

import csv
import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import BaseImageProcessor, PreTrainedModel

from .. import __version__, taxonomy
from ..atomic_io import atomic_write
from ..bundled_model import default_model
from ..errors import CelluScanError
from ..inference.loading import load_classifier, load_reliability, seen_sources, trained_on
from ..inference.prediction import device_for
from ..modeling.reliability_celluscan import Reliability
from ..processes import ALONE, Processes
from ..sources import Dropped
from ..versions import versions
from . import folder, plots
from .cells import Cells, load_cells_of_sources, load_cells_of_split
from .examples import write_examples
from .external import ExternalPredictions, ExternalResults, load_external_cells, measure_externals, predict_external
from .gallery import draw_mistakes
from .measure import measure
from .predictions import Predictions, class_names, columns_of, predict, shown
from .report import render
from .wbc_metrics.wbc_metrics import RESAMPLES

_PREPARATION = (
    "do_pad",
    "do_resize",
    "size",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
_SOFTWARE = ("datasets", "numpy", "pillow", "torch", "transformers")


@dataclass(frozen=True)
class EvaluationSettings:
    """Settings of one evaluation, of a split of a built `dataset` or of raw `sources` (`KEY=PATH` each).

    - `external`: beside `dataset`, raw sources (`KEY=PATH`) of other laboratories, each measured separately.
    - `target_statistics`: predict each external source with the batch-norm statistics of its own images.
    - `model`: a checkpoint folder, or the name of a model on the Hub.
    - `device`: name of a torch device; None for the best one available.
    - `resamples`: number of bootstrap resamples for the intervals; 0 for none.
    - `views`: mirrored copies of an image that are averaged over; None for those of the model.
    """

    model: str
    output: Path
    dataset: str | None = None
    split: str = "test"
    sources: tuple[str, ...] = ()
    external: tuple[str, ...] = ()
    target_statistics: bool = False
    batch_size: int = 64
    device: str | None = None
    resamples: int = RESAMPLES
    views: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if (self.dataset is None) == (not self.sources):
            raise CelluScanError("expected either --dataset or --source; give one of them")
        if self.external and self.dataset is None:
            raise CelluScanError(
                "--external needs --dataset; give --dataset, or evaluate raw files alone with --source"
            )
        if self.target_statistics and not self.external:
            raise CelluScanError("--target-statistics needs --external: they are estimated on each external source")
        for name, lowest in (("batch_size", 1), ("resamples", 0)):
            if getattr(self, name) < lowest:
                option = "--" + name.replace("_", "-")
                raise CelluScanError(f"{option} {getattr(self, name)}: expected {lowest} or more")

    @property
    def command(self) -> str:
        """The command line of this evaluation, without options at their defaults."""
        words = ["celluscan", "evaluate"]
        if self.model != default_model():
            words += ["--model", self.model]
        if self.dataset is not None:
            words += ["--dataset", self.dataset, "--split", self.split]
        words += [word for source in self.sources for word in ("--source", source)]
        words += [word for source in self.external for word in ("--external", source)]
        words += ["--target-statistics"] * self.target_statistics
        words += ["--output", str(self.output)]
        for name in ("batch_size", "device", "resamples", "views"):
            if getattr(self, name) != getattr(type(self), name):
                words += ["--" + name.replace("_", "-"), str(getattr(self, name))]
        return shlex.join(words + ["--trust-remote-code"] * self.trust_remote_code)


@dataclass(frozen=True)
class _Predicted:
    """The model, the cells, and all predictions for them."""

    model: PreTrainedModel
    processor: BaseImageProcessor
    reliability: Reliability | None
    cells: Cells
    predictions: Predictions
    bad: list[Dropped]
    external_cells: dict[str, Cells]
    external: ExternalPredictions


def evaluate(settings: EvaluationSettings, processes: Processes = ALONE) -> dict[str, Any]:
    """Write the folder of an evaluation; return the content of its `metrics.json`.

    `processes` call this with the same settings and share the cells; only the first one writes, and the others return
    an empty dict.

    Raises:
        CelluScanError: The model, the data or the output cannot be used, or no cell is left to evaluate.
    """
    raw = [source.partition("=")[2] for source in (*settings.sources, *settings.external)]
    paths = [settings.dataset or "", *raw]
    folder.check_outside(settings.output, [Path(path) for path in paths if path])
    if not processes.is_first:
        _predict(settings, settings.output, processes)
        return {}
    with folder.building(settings.output) as building:
        predicted = _predict(settings, building.scratch, processes)
        external = measure_externals(
            predicted.external_cells,
            predicted.external,
            dataset=settings.dataset or "",
            resamples=settings.resamples,
            reliability=predicted.reliability,
            target_statistics=settings.target_statistics,
        )
        metrics = _metrics(settings, predicted) | {
            "external": external.metrics,
            "versions": versions(_SOFTWARE),
            "command": settings.command,
        }
        _write(predicted, external, metrics, building.final)
    return metrics


def _predict(settings: EvaluationSettings, scratch: Path, processes: Processes) -> _Predicted:
    """Predict all cells; the first of the processes lists them, and uses `scratch` for it."""
    model, processor = load_classifier(settings.model, settings.trust_remote_code, views=settings.views)
    names = _classes(settings, model)  # before anything is read
    model.to(_device(settings.device, processes))
    cells, external_cells = processes.from_first(lambda: _load_cells(settings, scratch, names))
    batch_size = settings.batch_size
    with shown("predicting", len(cells.kept), processes) as advance:
        predictions, bad = predict(cells, model, processor, batch_size=batch_size, advance=advance, processes=processes)
    reliability = load_reliability(model)
    external = predict_external(
        external_cells,
        model,
        processor,
        batch_size=batch_size,
        reliability=reliability,
        target_statistics=settings.target_statistics,
        processes=processes,
    )
    return _Predicted(model, processor, reliability, cells, predictions, bad, external_cells, external)


def _classes(settings: EvaluationSettings, model: PreTrainedModel) -> tuple[str, ...]:
    """Return the classes to evaluate: those of the model, which must be ours for a built dataset."""
    names = class_names(model) if settings.dataset is None else taxonomy.NAMES
    columns_of(model, names)
    return names


def _metrics(settings: EvaluationSettings, predicted: _Predicted) -> dict[str, Any]:
    cells, predictions = predicted.cells, predicted.predictions
    return measure(predictions, settings.resamples, predicted.reliability) | {
        "model": describe_model(settings.model, predicted.model, predicted.processor),
        "data": _describe_data(settings.model, cells, len(predictions), [*cells.dropped, *predicted.bad]),
    }


def _write(predicted: _Predicted, external: ExternalResults, metrics: dict[str, Any], final: Path) -> None:
    cells, predictions = predicted.cells, predicted.predictions
    predictions.write(final / folder.PREDICTIONS)
    if external.predictions:
        Predictions.joined(external.predictions).write(final / folder.EXTERNAL)
    _write_dropped([*cells.dropped, *predicted.bad, *external.dropped], final / folder.DROPPED)
    _write_json(metrics, final / folder.METRICS)
    draw(predictions, metrics, cells, final)
    _write_json(write_examples(predictions, cells, final), final / folder.EXAMPLES)
    plot_names = {path.name for path in final.glob("*.png")}
    (final / folder.REPORT).write_text(render(metrics, plot_names), "utf-8")


def _describe_data(model: str, cells: Cells, count: int, dropped: Sequence[Dropped]) -> dict[str, Any]:
    """What was evaluated, and from which of its sources the model may know cells."""
    described = cells.described
    seen = seen_sources(trained_on(model), described["sources"], described.get("fingerprint"))
    return {**described, "n": count, "dropped": _reasons(dropped), "seen_sources": seen}


def _load_cells(settings: EvaluationSettings, scratch: Path, names: tuple[str, ...]) -> tuple[Cells, dict[str, Cells]]:
    """Load the cells to evaluate, and those of each external source."""
    if settings.dataset is not None:
        cells = load_cells_of_split(settings.dataset, settings.split)
    else:
        cells = load_cells_of_sources(settings.sources, scratch, names)
    return cells, load_external_cells(settings.external, settings.dataset or "", scratch)


def _device(name: str | None, processes: Processes) -> torch.device:
    try:
        device = device_for(name, processes)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CelluScanError(f"--device {name} cannot be used ({reason}); give cpu, cuda or mps") from error
    return device


def describe_model(name: str, model: PreTrainedModel, processor: BaseImageProcessor) -> dict[str, Any]:
    """Identify a model: its name, class and size, the SHA-256 of its weights, how images are prepared.

    The SHA-256 is of all `.safetensors` files concatenated; for one file it equals that of `sha256sum`.
    """
    digest = hashlib.sha256()
    files = _weight_files(name, model)
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return {
        "name": Path(name).name if name == default_model() else name,
        "revision": getattr(model.config, "_commit_hash", None),
        "class": type(model).__name__,
        "parameters": model.num_parameters(),
        "views": getattr(model.config, "views", 1),
        "sha256": digest.hexdigest() if files else None,
        "preparation": preparation(processor),
        "celluscan_hf": __version__,
    }


def preparation(processor: BaseImageProcessor) -> dict[str, Any]:
    """Settings of a processor that change `pixel_values`, as JSON values."""
    settings = processor.to_dict()
    as_json: dict[str, Any] = json.loads(json.dumps({name: settings.get(name) for name in _PREPARATION}))
    return as_json


def _weight_files(name: str, model: PreTrainedModel) -> list[Path]:
    checkpoint = Path(name)
    if not checkpoint.is_dir():
        revision = getattr(model.config, "_commit_hash", None)
        config = try_to_load_from_cache(name, "config.json", revision=revision)
        if not isinstance(config, str):
            return []
        checkpoint = Path(config).parent
    single = checkpoint / "model.safetensors"
    return [single] if single.is_file() else sorted(checkpoint.glob("model-*-of-*.safetensors"))


def draw(predictions: Predictions, metrics: dict[str, Any], cells: Cells, output: Path) -> None:
    """Draw all plots of an evaluation that its cells allow."""
    plots.confusion_matrix(metrics, output / folder.CONFUSION)
    plots.recall(metrics, output / folder.RECALL)
    plots.reliability(metrics, output / folder.RELIABILITY)
    plots.risk_coverage(metrics["risk_coverage"], output / folder.RISK)
    if metrics["abnormal"]:
        plots.abnormal_roc(predictions, metrics["abnormal"], output / folder.ROC)
    images = {cell.image_id: cell.read for cell in cells.kept}
    draw_mistakes(predictions, lambda image_id: images[image_id](), output / folder.MISTAKES)


def _reasons(dropped: Sequence[Dropped]) -> dict[str, int]:
    return dict(Counter(item.reason for item in dropped))


def _write_dropped(dropped: Sequence[Dropped], path: Path) -> None:
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "reason", "detail"))
        writer.writerows((item.path, item.reason, item.detail) for item in dropped)


def _write_json(content: dict[str, Any] | list[dict[str, Any]], path: Path) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
