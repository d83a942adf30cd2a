"""The job of `celluscan calibrate`, and the last step of a training: validation cells -> what the model is worth.

The temperature goes into the head's weights. Everything else goes into `reliability.json` and
`reliability.safetensors` beside them, which plain pipelines ignore. No test cell is read.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.special import softmax
from transformers import BaseImageProcessor, PreTrainedModel

from .. import __version__, taxonomy
from ..atomic_io import atomic_write
from ..dataset.workers import progress
from ..errors import BadImage, CelluScanError
from ..evaluation.cells import Cell, load_cells_of_split
from ..evaluation.plots import calibrated
from ..evaluation.predictions import columns_of
from ..evaluation.selective_metrics import least_sure, scalars
from ..inference.loading import load_classifier
from ..inference.prediction import best_device, outputs
from ..modeling.reliability_celluscan import (
    ARRAYS,
    FACTS,
    PARTS,
    VERSION,
    MahalanobisScorer,
    Reliability,
    conformity,
    head_norm,
    same_head,
    stored,
)
from .head import fold
from .outliers import QUANTILE, fit_nearby, some_of_each
from .temperature import Adjustment, fit_temperature

logger = logging.getLogger(__name__)
PICTURE = "calibration.png"
RIGHT = 0.95  # share of plain answers that are to be right, on validation
_DECIMALS = 6
_SOFTWARE = ("numpy", "scipy", "torch", "transformers")


@dataclass(frozen=True)
class ModelOutputs:
    """What a model gives for cells: `logits` (n, classes), `features` (n, D + 9), `labels` (n,), in its order."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def rows(self, chosen: NDArray[Any]) -> "ModelOutputs":
        return ModelOutputs(self.logits[chosen], self.features[chosen], self.labels[chosen])


def calibrate(model: Path, dataset: str, *, batch_size: int = 64, command: str = "") -> dict[str, Any]:
    """Calibrate a checkpoint folder on the validation cells of a built data set; the content of `reliability.json`.

    Done twice it gives the same: the second temperature is 1. Centres of known cells come from some train cells.

    Raises:
        CelluScanError: The folder is none of a classifier of our 14 classes that ends in one linear map, or the data
            set cannot be used.
    """
    classifier, processor = load_folder(model)
    cells, train = load_cells_of_split(dataset, "validation"), load_cells_of_split(dataset, "train")
    chosen = some_of_each(np.array([cell.label for cell in train.kept], np.int64))
    seen = run_model(cells.kept, classifier, processor, batch_size)
    known = run_model([train.kept[row] for row in chosen.tolist()], classifier, processor, batch_size)
    temperature = fit_temperature(seen.logits, seen.labels)
    adjustment = Adjustment(temperature, np.zeros(seen.logits.shape[1]))
    before, after = (scalars(logits, seen.labels) for logits in (seen.logits, adjustment(seen.logits)))
    record = {
        "temperature": round(temperature, _DECIMALS),
        "total_temperature": round(temperature * total_temperature(classifier), _DECIMALS),
        "validation": {"n": len(seen.labels), "before": before, "after": after},
        "data": {"dataset": dataset, "split": "validation", "fingerprint": cells.described["fingerprint"]},
        "command": command or f"celluscan calibrate {model} --dataset {dataset}",
    }
    calibrated(seen.logits, adjustment(seen.logits), seen.labels, "validation", model / PICTURE)
    fold(model, adjustment)
    nearby = fit_nearby(known.features, known.labels, seen.features)
    found = measured(seen, adjustment, nearby, classes_of(classifier))
    return write(model, classifier, found, temperature, record)


def summary(record: dict[str, Any]) -> str:
    """What was done, in a few lines."""
    found = record["validation"]
    changed = ", ".join(f"{name} {found['before'][name]:.3f} -> {found['after'][name]:.3f}" for name in found["after"])
    return (
        f"temperature {record['temperature']:.3f} (in all {record['total_temperature']:.3f})\n"
        f"{found['n']:,} validation cells: {changed}\n"
        f"plain answers from a probability of {record['sure']['threshold']:.2f} on"
    )


def load_folder(model: Path) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The classifier of a folder here, on the best device, and its processor. Raises as `calibrate`."""
    if not model.is_dir():
        raise CelluScanError(f"{model} is no folder here: fetch the model first (hf download NAME --local-dir FOLDER)")
    classifier, processor = load_classifier(model)
    columns_of(classifier)
    try:
        head_norm(classifier)
    except ValueError as error:
        raise CelluScanError(f"{model} cannot be calibrated: {error}") from error
    classifier.to(best_device())
    return classifier, processor


def run_model(
    cells: Sequence[Cell], model: PreTrainedModel, processor: BaseImageProcessor, batch_size: int = 64
) -> ModelOutputs:
    """What a model gives for cells. Those whose image cannot be used are left out. Raises where none is left."""
    columns, labels, rows = columns_of(model), [], []
    reads = (cell.read for cell in cells)
    with progress("looking", len(cells), "cell") as advance:
        found = outputs(reads, model, processor, batch_size=batch_size, with_features=True)
        for cell, outcome in zip(cells, found, strict=True):
            if not isinstance(outcome, BadImage):
                labels.append(columns[cell.label])
                rows.append((outcome.logits, outcome.features))
            advance(1)
    if not rows:
        raise CelluScanError("no cell is left to calibrate on; check the images")
    logits, features = (np.stack(part) for part in zip(*rows, strict=True))
    return ModelOutputs(logits, features, np.array(labels, np.int64))


def total_temperature(classifier: PreTrainedModel) -> float:
    """What the head was divided by before, as far as it is recorded."""
    path = Path(classifier.name_or_path) / FACTS
    if not path.is_file():
        return 1.0
    try:  # of whatever version the files are
        record = json.loads(path.read_text("utf-8"))
        if same_head(classifier, float(record["head_norm"])):
            return float(record["total_temperature"])
        logger.warning("%s is of other weights than the model has, and is not counted", path)
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read (%r), and is not counted", path, error)
    return 1.0


def measured(
    seen: ModelOutputs,
    adjustment: Adjustment,
    nearby: tuple[MahalanobisScorer, ...],
    classes: Sequence[taxonomy.CellClass],
) -> Reliability:
    """Sets, ood_score and the least sure probability, from validation cells."""
    probabilities = softmax(adjustment(seen.logits), axis=1)
    scores = conformity(probabilities)[np.arange(len(seen.labels)), seen.labels]
    sure = least_sure(probabilities, seen.labels, RIGHT)
    found = Reliability(tuple(classes), scores, seen.labels, nearby, np.inf, sure)
    return replace(found, ood_threshold=float(np.quantile(found.ood_score(seen.features), QUANTILE)))


def write(
    folder: Path, classifier: PreTrainedModel, found: Reliability, temperature: float, said: dict[str, Any]
) -> dict[str, Any]:
    """Write the two files, `reliability.json` last; its content.

    `temperature` is what the head on disk was divided by since the classifier was loaded; `said` goes into the record.
    """
    record = {
        "version": VERSION,
        **said,
        "classes": stored(found.classes),
        "confidence_threshold": {"threshold": found.confidence_threshold, "right": RIGHT},
        "ood_threshold": {"threshold": found.ood_threshold, "quantile": QUANTILE},
        "head_norm": head_norm(classifier) / temperature,
        "versions": {"celluscan_hf": __version__} | {name: version(name) for name in _SOFTWARE},
    }
    arrays: dict[str, NDArray[Any]] = {
        "scores": found.scores,
        "labels": found.labels.astype(np.int32),
    }
    for name, part in zip(PARTS, found.scorers, strict=True):
        arrays |= {f"{name}_centres": part.centres.astype(np.float32)}
        arrays |= {f"{name}_whitening": part.whitening.astype(np.float32)}
    with atomic_write(folder / ARRAYS) as partial:
        save_file(arrays, partial)
    with atomic_write(folder / FACTS) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return record


def classes_of(classifier: PreTrainedModel) -> list[taxonomy.CellClass]:
    """The classes of a model in its own order."""
    labels = classifier.config.id2label
    return [taxonomy.CLASSES[taxonomy.LABEL2ID[labels[number]]] for number in range(len(labels))]
