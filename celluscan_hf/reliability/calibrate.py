"""`celluscan calibrate`, also the last step of a training: calibrate a model on validation cells.

The temperature goes into the head's weights. Everything else goes into `reliability.json` and
`reliability.safetensors` beside them, which plain pipelines ignore. No test cell is read.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from scipy.special import softmax
from transformers import BaseImageProcessor, PreTrainedModel

from .. import taxonomy
from ..atomic_io import atomic_write
from ..errors import BadImage, CelluScanError
from ..evaluation.cells import Cell, load_cells_of_split
from ..evaluation.plots import calibration_change
from ..evaluation.predictions import columns_of
from ..evaluation.selective_metrics import calibration_metrics, fit_confidence_threshold
from ..inference.loading import load_classifier
from ..inference.prediction import best_device
from ..inference.prediction import outputs as model_outputs
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
from ..versions import versions
from ..workers import progress
from .head import fold
from .other_laboratories import as_from_elsewhere
from .outliers import QUANTILE, fit_scorers, sample_per_class
from .temperature import Adjustment, fit_temperature

logger = logging.getLogger(__name__)
PLOT = "calibration.png"
RIGHT = 0.95  # target accuracy of confident answers, on validation
_DECIMALS = 6
_UNCHANGED = 1e-4  # a temperature this near to 1 is that of a model that is calibrated already
_SOFTWARE = ("celluscan_hf", "numpy", "scipy", "torch", "transformers")


@dataclass(frozen=True)
class ModelOutputs:
    """Outputs of a model for cells: `logits` (n, classes), `features` (n, D + 9), `labels` (n,), in its class order."""

    logits: NDArray[np.float32]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]

    def rows(self, chosen: NDArray[Any]) -> "ModelOutputs":
        return ModelOutputs(self.logits[chosen], self.features[chosen], self.labels[chosen])


def calibrate(model: Path, dataset: str, *, batch_size: int = 64, command: str = "") -> dict[str, Any]:
    """Calibrate a checkpoint folder on validation cells of a built dataset; return the content of `reliability.json`.

    A second calibration leaves the weights as they are: its temperature is 1. Class centres are fitted on a
    sample of train cells.

    Raises:
        CelluScanError: The folder does not hold a classifier of our 14 classes that ends in one linear layer, or the
            dataset cannot be used.
    """
    classifier, processor = load_folder(model)
    cells, train = load_cells_of_split(dataset, "validation"), load_cells_of_split(dataset, "train")
    sample = sample_per_class(np.array([cell.label for cell in train.kept], np.int64))
    outputs = run_model(cells.kept, classifier, processor, batch_size)
    train_outputs = run_model([train.kept[row] for row in sample.tolist()], classifier, processor, batch_size)
    temperature = fit_temperature(outputs.logits, outputs.labels)
    if abs(temperature - 1) < _UNCHANGED:
        temperature = 1.0
    adjustment = Adjustment(temperature, np.zeros(outputs.logits.shape[1]))
    adjusted = adjustment(outputs.logits)
    before, after = (calibration_metrics(logits, outputs.labels) for logits in (outputs.logits, adjusted))
    record = {
        "temperature": round(temperature, _DECIMALS),
        "total_temperature": round(temperature * total_temperature(classifier), _DECIMALS),
        "validation": {"n": len(outputs.labels), "before": before, "after": after},
        "data": {"dataset": dataset, "split": "validation", "fingerprint": cells.described["fingerprint"]},
        "command": command or f"celluscan calibrate {model} --dataset {dataset}",
    }
    calibration_change(outputs.logits, adjusted, outputs.labels, "validation", model / PLOT)
    if temperature != 1:  # else the file stays, and with it the evaluations of these weights
        fold(model, adjustment)
    scorers = fit_scorers(train_outputs.features, train_outputs.labels, outputs.features)
    elsewhere = run_model(as_from_elsewhere(cells.kept), classifier, processor, batch_size)
    other_temperature = max(1.0, fit_temperature(adjustment(elsewhere.logits), elsewhere.labels))
    reliability = replace(
        fit_reliability(outputs, adjustment, scorers, classes_of(classifier)), other_temperature=other_temperature
    )
    return write(model, classifier, reliability, temperature, record)


def summary(record: dict[str, Any]) -> str:
    """Summarize a calibration in a few lines."""
    validation = record["validation"]
    weights = (
        "unchanged: they were calibrated already"
        if record["temperature"] == 1
        else "changed: evaluations made before are out of date"
    )
    return (
        f"weights {weights}\n"
        f"temperature {record['temperature']:.3f} (in total {record['total_temperature']:.3f})\n"
        f"{validation['n']:,} validation cells: {metric_changes(validation)}\n"
        f"confidence threshold {record['confidence_threshold']['threshold']:.2f}; below it the model abstains"
    )


def metric_changes(metrics: dict[str, Any]) -> str:
    """Format `before` and `after` of each metric."""
    before, after = metrics["before"], metrics["after"]
    return ", ".join(f"{name} {before[name]:.3f} -> {after[name]:.3f}" for name in after)


def load_folder(model: Path) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load the classifier of a local folder, on the best device, and its processor. Raises as `calibrate`."""
    if not model.is_dir():
        raise CelluScanError(
            f"{model} is not a directory: download the model first (hf download NAME --local-dir FOLDER)"
        )
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
    """Run a model on cells; unusable images are left out. Raises a `CelluScanError` if none is left."""
    columns, labels, rows = columns_of(model), [], []
    reads = (cell.read for cell in cells)
    with progress("predicting", len(cells), "cell") as advance:
        results = model_outputs(reads, model, processor, batch_size=batch_size, with_features=True)
        for cell, output in zip(cells, results, strict=True):
            if not isinstance(output, BadImage):
                labels.append(columns[cell.label])
                rows.append((output.logits, output.features))
            advance(1)
    if not rows:
        raise CelluScanError("no cell is left to calibrate on; check the images")
    logits, features = (np.stack(part) for part in zip(*rows, strict=True))
    return ModelOutputs(logits, features, np.array(labels, np.int64))


def total_temperature(classifier: PreTrainedModel) -> float:
    """Product of the temperatures of earlier calibrations, as far as it is recorded."""
    path = Path(classifier.name_or_path) / FACTS
    if not path.is_file():
        return 1.0
    try:  # whatever the version of the files
        record = json.loads(path.read_text("utf-8"))
        if same_head(classifier, float(record["head_norm"])):
            return float(record["total_temperature"])
        logger.warning("%s belongs to other weights; its temperature is ignored", path)
    except (ValueError, KeyError, TypeError) as error:
        logger.warning("%s cannot be read (%r); its temperature is ignored", path, error)
    return 1.0


def fit_reliability(
    outputs: ModelOutputs,
    adjustment: Adjustment,
    scorers: tuple[MahalanobisScorer, ...],
    classes: Sequence[taxonomy.CellClass],
) -> Reliability:
    """Fit prediction sets, the OOD threshold and the confidence threshold on validation cells."""
    probabilities = softmax(adjustment(outputs.logits), axis=1)
    scores = conformity(probabilities)[np.arange(len(outputs.labels)), outputs.labels]
    confidence_threshold = fit_confidence_threshold(probabilities, outputs.labels, RIGHT)
    reliability = Reliability(tuple(classes), scores, outputs.labels, scorers, np.inf, confidence_threshold)
    ood_scores = reliability.ood_score(outputs.features)
    return replace(reliability, ood_threshold=float(np.quantile(ood_scores, QUANTILE)))


def write(
    folder: Path, classifier: PreTrainedModel, reliability: Reliability, temperature: float, facts: dict[str, Any]
) -> dict[str, Any]:
    """Write the two files, `reliability.json` last; return its content.

    The head on disk was divided by `temperature` since the classifier was loaded; `facts` go into the record.
    """
    record = {
        "version": VERSION,
        **facts,
        "classes": stored(reliability.classes),
        "confidence_threshold": {"threshold": reliability.confidence_threshold, "right": RIGHT},
        "other_laboratory": {"temperature": round(reliability.other_temperature, _DECIMALS)},
        "ood_threshold": {"threshold": reliability.ood_threshold, "quantile": QUANTILE},
        "head_norm": head_norm(classifier) / temperature,
        "versions": versions(_SOFTWARE),
    }
    arrays: dict[str, NDArray[Any]] = {
        "scores": reliability.scores,
        "labels": reliability.labels.astype(np.int32),
    }
    for name, part in zip(PARTS, reliability.scorers, strict=True):
        arrays |= {f"{name}_centres": part.centres.astype(np.float32)}
        arrays |= {f"{name}_whitening": part.whitening.astype(np.float32)}
    with atomic_write(folder / ARRAYS) as partial:
        save_file(arrays, partial)
    with atomic_write(folder / FACTS) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return record


def classes_of(classifier: PreTrainedModel) -> list[taxonomy.CellClass]:
    """Classes of a model in its own order."""
    labels = classifier.config.id2label
    return [taxonomy.CLASSES[taxonomy.LABEL2ID[labels[number]]] for number in range(len(labels))]
