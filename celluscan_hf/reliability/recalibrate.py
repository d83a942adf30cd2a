"""A calibrated model meets another microscope: some 16 to 64 of its cells, with labels, fit the head anew.

Only temperature and a shrunken bias of each class change, so that few cells cannot do harm. Sets then rest on these
cells, each scored by a fit that has not seen it (cross-conformal, Vovk 2015, https://arxiv.org/abs/1208.0806); where
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
from ..evaluation.selective_metrics import scalars
from ..inference.loading import load_reliability
from ..modeling.reliability_celluscan import FACTS, Reliability, conformity
from .calibrate import ModelOutputs, load_folder, run_model, write
from .head import fold
from .temperature import fit_adjustment

LEAST = 8  # cells; fewer say nothing
_FOLDS = 8
_COPIED = ("*.json", "*.safetensors", "*.py")


def recalibrate(model: Path, sources: Sequence[str], output: Path, *, batch_size: int = 64) -> dict[str, Any]:
    """Write a model fitted to the cells of raw sources (`KEY=PATH` each); the content of its `reliability.json`.

    `cells` has figures on these cells: `before`, and `after`, each cell by a fit without it. The model's own folder
    stays as it is.

    Raises:
        CelluScanError: The model was not calibrated, the output exists, or there are fewer than `LEAST` cells.
    """
    if output.exists():
        raise CelluScanError(f"{output} exists already; give another name, or remove it")
    classifier, processor = load_folder(model)
    known = load_reliability(classifier)
    if known is None:
        raise CelluScanError(f"{model} has no {FACTS}: run celluscan calibrate {model} --dataset FOLDER first")
    with tempfile.TemporaryDirectory() as scratch:
        cells = load_cells_of_sources(sources, Path(scratch))
        seen = run_model(cells.kept, classifier, processor, batch_size) if cells.kept else None
    if seen is None or len(seen.labels) < LEAST:
        raise CelluScanError(f"{len(cells.kept)} usable cells: expected at least {LEAST}, better 16 to 64")
    adjustment, held_out = fit_adjustment(seen.logits, seen.labels), cross_fitted(seen.logits, seen.labels)
    command = ["celluscan", "recalibrate", str(model), *(f"--source={one}" for one in sources), f"--output={output}"]
    record = {
        **{name: known.record[name] for name in ("temperature", "validation", "data")},
        "total_temperature": known.record["total_temperature"] * adjustment.temperature,
        "cells": {
            "n": len(seen.labels),
            "temperature": adjustment.temperature,
            "bias": adjustment.bias.tolist(),
            "fingerprint": cells.described["fingerprint"],
            "before": scalars(seen.logits, seen.labels),
            "after": scalars(held_out, seen.labels),
        },
        "command": shlex.join(command),
    }
    with atomic_write_folder(output) as partial:
        for pattern in _COPIED:
            for file in model.glob(pattern):
                shutil.copyfile(file, partial / file.name)
        fold(partial, adjustment)
        return write(partial, classifier, _fitted(known, seen, held_out), adjustment.temperature, record)


def cross_fitted(logits: NDArray[np.floating], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Logits (n, classes) of each cell, adjusted by a fit to the cells of other folds."""
    fold_of = np.arange(len(labels)) % min(_FOLDS, len(labels))
    adjusted = np.empty(logits.shape)
    for one in np.unique(fold_of):
        here = fold_of == one
        adjusted[here] = fit_adjustment(logits[~here], labels[~here])(logits[here])
    return adjusted


def _fitted(known: Reliability, seen: ModelOutputs, held_out: NDArray[np.float64]) -> Reliability:
    """Sets from these cells, whose mean is one more centre of known cells.

    A picture is strange where it lies farther than before, and than all these cells.
    """
    scores = conformity(softmax(held_out, axis=1))[np.arange(len(seen.labels)), seen.labels]
    ends = np.cumsum([part.centres.shape[1] for part in known.scorers])
    means = np.split(seen.features.mean(axis=0), ends[:-1])
    nearby = tuple(
        replace(part, centres=np.vstack((part.centres, mean))) for part, mean in zip(known.scorers, means, strict=True)
    )
    found = replace(known, scores=scores, labels=seen.labels, scorers=nearby)
    return replace(found, ood_threshold=max(known.ood_threshold, float(found.ood_score(seen.features).max())))


def summary(record: dict[str, Any]) -> str:
    """What was done, in a few lines."""
    found = record["cells"]
    changed = ", ".join(f"{name} {found['before'][name]:.3f} -> {found['after'][name]:.3f}" for name in found["after"])
    return f"{found['n']:,} cells, each by a fit without it: {changed}\ntemperature {found['temperature']:.3f}"
