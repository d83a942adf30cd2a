"""Recalibrate a calibrated model for another microscope, on some 16 to 64 labelled cells.

Only the temperature and a shrunk bias of each class change, so that few cells cannot do harm. Prediction sets are then
based on these cells, each scored by a fit without it (cross-conformal, Vovk 2015, https://arxiv.org/abs/1208.0806); if
they are too few for a coverage, sets hold all classes.
"""

import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from ..atomic_io import atomic_write_folder
from ..errors import CelluScanError
from ..evaluation.cells import load_cells_of_sources
from ..evaluation.selective_metrics import calibration_metrics
from ..inference.loading import load_reliability
from ..modeling.reliability_celluscan import FACTS, Reliability, conformity
from .calibrate import ModelOutputs, load_folder, metric_changes, run_model, write
from .head import fold
from .temperature import fit_adjustment

MIN_CELLS = 8  # fewer are not enough to fit
_FOLDS = 8
_COPIED = ("*.json", "*.safetensors", "*.py")


def recalibrate(model: Path, sources: Sequence[str], output: Path, *, batch_size: int = 64) -> dict[str, Any]:
    """Write a model fitted to the cells of raw sources (`KEY=PATH` each); return its `reliability.json`.

    `cells` has metrics on these cells: `before`, and `after`, each cell by a fit without it. The model's own folder
    stays unchanged.

    Raises:
        CelluScanError: The model was not calibrated, the output exists, or there are fewer than `MIN_CELLS` cells.
    """
    if output.exists():
        raise CelluScanError(f"{output} already exists; give another name, or remove it")
    classifier, processor = load_folder(model)
    reliability = load_reliability(classifier)
    if reliability is None:
        raise CelluScanError(f"{model} has no {FACTS}: run celluscan calibrate {model} --dataset FOLDER first")
    with tempfile.TemporaryDirectory() as scratch:
        cells = load_cells_of_sources(sources, Path(scratch))
        outputs = run_model(cells.kept, classifier, processor, batch_size) if cells.kept else None
    if outputs is None or len(outputs.labels) < MIN_CELLS:
        raise CelluScanError(f"{len(cells.kept)} usable cells: expected at least {MIN_CELLS}, 16 to 64 recommended")
    adjustment = fit_adjustment(outputs.logits, outputs.labels)
    held_out = cross_fitted(outputs.logits, outputs.labels)
    options = [*(f"--source={source}" for source in sources), f"--output={output}"]
    record = {
        **{name: reliability.record[name] for name in ("temperature", "validation", "data")},
        "total_temperature": reliability.record["total_temperature"] * adjustment.temperature,
        "cells": {
            "n": len(outputs.labels),
            "temperature": adjustment.temperature,
            "bias": adjustment.bias.tolist(),
            "fingerprint": cells.described["fingerprint"],
            "before": calibration_metrics(outputs.logits, outputs.labels),
            "after": calibration_metrics(held_out, outputs.labels),
        },
        "command": shlex.join(["celluscan", "recalibrate", str(model), *options]),
    }
    with atomic_write_folder(output) as partial:
        for pattern in _COPIED:
            for file in model.glob(pattern):
                shutil.copyfile(file, partial / file.name)
        fold(partial, adjustment)
        updated = _update(reliability, outputs, held_out)
        return write(partial, classifier, updated, adjustment.temperature, record)


def cross_fitted(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Adjust the logits (n, classes) of each cell by a fit to the cells of other folds."""
    fold_of = np.arange(len(labels)) % min(_FOLDS, len(labels))
    adjusted = np.empty(logits.shape)
    for fold_number in np.unique(fold_of):
        inside = fold_of == fold_number
        adjusted[inside] = fit_adjustment(logits[~inside], labels[~inside])(logits[inside])
    return adjusted


def _update(reliability: Reliability, outputs: ModelOutputs, held_out: NDArray[np.float64]) -> Reliability:
    """Base prediction sets on these cells, and add their mean as one more centre.

    The OOD threshold becomes the larger of the earlier one and the highest score of these cells.
    """
    scores = conformity(softmax(held_out, axis=1))[np.arange(len(outputs.labels)), outputs.labels]
    ends = np.cumsum([part.centres.shape[1] for part in reliability.scorers])
    means = np.split(outputs.features.mean(axis=0), ends[:-1])
    scorers = tuple(
        replace(part, centres=np.vstack((part.centres, mean)))
        for part, mean in zip(reliability.scorers, means, strict=True)
    )
    updated = replace(reliability, scores=scores, labels=outputs.labels, scorers=scorers)
    highest = float(updated.ood_score(outputs.features).max())
    return replace(updated, ood_threshold=max(reliability.ood_threshold, highest))


def summary(record: dict[str, Any]) -> str:
    """Summarize a recalibration in a few lines."""
    cells = record["cells"]
    return (
        f"{cells['n']:,} cells, each by a fit without it: {metric_changes(cells)}\n"
        f"temperature {cells['temperature']:.3f}"
    )
