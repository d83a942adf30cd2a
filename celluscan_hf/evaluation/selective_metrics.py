"""Metrics of probabilities, of prediction sets, and of abstention.

The Brier score is that of Brier 1950, summed over classes; risk and coverage as El-Yaniv & Wiener 2010, the area under
their curve as Geifman et al. 2019 (https://arxiv.org/abs/1805.08206).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from ..modeling.reliability_celluscan import Reliability, conformity
from .intervals import proportion
from .predictions import Predictions
from .wbc_metrics.wbc_metrics import BINS, compute_metrics

COVERAGES = (0.9, 0.95)
_POINTS = 101  # of a curve
_LOWEST_THRESHOLD, _HIGHEST_THRESHOLD = 0.5, 0.99
Floats = NDArray[np.floating]


def brier(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Compute the mean squared distance of probabilities (n, classes) from the truth, 0 to 2."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def calibration_metrics(logits: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    """Compute `accuracy`, `nll`, `ece` and `brier` of logits (n, classes)."""
    probabilities = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    names = [str(number) for number in range(probabilities.shape[1])]
    metrics = compute_metrics(probabilities, labels, names, resamples=0)
    return {name: metrics[name] for name in ("accuracy", "nll", "ece")} | {"brier": brier(probabilities, labels)}


def calibration_bins(cells: Predictions) -> list[dict[str, Any]]:
    """Bin the cells by confidence, as for `ece`; empty bins are left out.

    For each bin its edges `low` and `high`, `n`, mean `confidence`, `accuracy` and its `ci95`.
    """
    right = cells.predicted == cells.labels
    number = np.minimum((cells.confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "low": bin / BINS,
            "high": (bin + 1) / BINS,
            "n": int(inside.sum()),
            "confidence": float(cells.confidence[inside].mean()),
            "accuracy": float(right[inside].mean()),
            "ci95": proportion(right[inside], cells.groups[inside]),
        }
        for bin in range(BINS)
        for inside in [number == bin]
        if inside.any()
    ]


def fit_confidence_threshold(probabilities: Floats, labels: NDArray[np.int64], right: float) -> float:
    """Find the lowest confidence from which on a share `right` of the answers is right; clipped to 0.5–0.99."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(-confidence)
    share = np.cumsum(hit[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(share >= right)
    lowest = confidence[order[enough[-1]]] if len(enough) else _HIGHEST_THRESHOLD
    return float(np.clip(lowest, _LOWEST_THRESHOLD, _HIGHEST_THRESHOLD))


def risk_coverage(cells: Predictions) -> dict[str, Any]:
    """Compute the risk–coverage curve: cells are answered in order of confidence.

    `share` of cells answered, `accuracy` among them, in equal steps, and `aurc`, the mean share of mistakes.
    """
    hit = (cells.predicted == cells.labels)[np.argsort(-cells.confidence, kind="stable")]
    accuracy = np.cumsum(hit) / np.arange(1, len(hit) + 1)
    places = np.unique(np.linspace(0, len(hit) - 1, _POINTS).round().astype(int))
    return {
        "share": ((places + 1) / len(hit)).tolist(),
        "accuracy": accuracy[places].tolist(),
        "aurc": float(1 - accuracy.mean()),
    }


def set_metrics(cells: Predictions, reliability: Reliability, by_class: bool = False) -> list[dict[str, Any]]:
    """Measure prediction sets for each of `COVERAGES`.

    `asked` and measured `coverage`, mean `size`, share `single` of sets of one class, and `per_class`, the coverage of
    each class that occurs.
    """
    rows = []
    order = [[cell.name for cell in reliability.classes].index(name) for name in cells.names]
    for coverage in COVERAGES:
        limits = reliability.thresholds(coverage, by_class)[order]
        within = conformity(cells.probabilities) <= limits
        covered, size = within[np.arange(len(cells)), cells.labels], within.sum(axis=1)
        rows.append(
            {
                "asked": coverage,
                "by_class": by_class,
                "coverage": float(covered.mean()),
                "size": float(size.mean()),
                "single": float((size == 1).mean()),
                "per_class": {
                    name: float(covered[cells.labels == label].mean())
                    for label, name in enumerate(cells.names)
                    if (cells.labels == label).any()
                },
            }
        )
    return rows
