"""How far answers can be trusted: scores of probabilities, the sets they give, and what not answering would spare.

The Brier score is that of Brier 1950, summed over classes; risk and coverage as El-Yaniv & Wiener 2010, the area under
their curve as Geifman et al. 2019 (https://arxiv.org/abs/1805.08206).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from .. import taxonomy
from ..modeling.reliability_celluscan import Reliability, conformity
from .predictions import Predictions
from .wbc_metrics.wbc_metrics import figures

COVERAGES = (0.9, 0.95)
_POINTS = 101  # of a curve
_SURE_AT_LEAST, _SURE_AT_MOST = 0.5, 0.99
Floats = NDArray[np.floating]


def brier(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """Mean squared distance of probabilities (n, classes) from the truth, 0 to 2."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(((probabilities - truth) ** 2).sum(axis=1).mean())


def scalars(logits: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    """`accuracy`, `nll`, `ece`, `brier` of logits (n, classes)."""
    probabilities = np.exp(log_softmax(logits.astype(np.float64), axis=1))
    names = [str(number) for number in range(probabilities.shape[1])]
    found = figures(probabilities, labels, names, resamples=0)
    return {name: found[name] for name in ("accuracy", "nll", "ece")} | {"brier": brier(probabilities, labels)}


def least_sure(probabilities: Floats, labels: NDArray[np.int64], right: float) -> float:
    """The smallest highest probability from which on a share `right` of answers is right, 0.5 to 0.99."""
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    order = np.argsort(-confidence)
    share = np.cumsum(hit[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(share >= right)
    least = confidence[order[enough[-1]]] if len(enough) else _SURE_AT_MOST
    return float(np.clip(least, _SURE_AT_LEAST, _SURE_AT_MOST))


def risk_coverage(cells: Predictions) -> dict[str, Any]:
    """What remains wrong where only the surest cells are answered.

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


def sets(cells: Predictions, known: Reliability, by_class: bool = False) -> list[dict[str, Any]]:
    """For each of `COVERAGES` what sets do on cells: `asked`, `coverage`, `size` (mean), `single` (share), `per_class`.

    `per_class` has the coverage of each class that occurs.
    """
    found = []
    order = [[cell.name for cell in known.classes].index(name) for name in taxonomy.NAMES]
    for asked in COVERAGES:
        limits = known.thresholds(asked, by_class)[order]
        within = conformity(cells.probabilities) <= limits
        covered, size = within[np.arange(len(cells)), cells.labels], within.sum(axis=1)
        found.append(
            {
                "asked": asked,
                "by_class": by_class,
                "coverage": float(covered.mean()),
                "size": float(size.mean()),
                "single": float((size == 1).mean()),
                "per_class": {
                    name: float(covered[cells.labels == label].mean())
                    for label, name in enumerate(taxonomy.NAMES)
                    if (cells.labels == label).any()
                },
            }
        )
    return found
