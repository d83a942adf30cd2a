"""The five white cells that nearly all datasets share: what a model is worth on them, whatever the source calls finer.

Band and Segmented Neutrophils count as Neutrophils, in labels and answers; cells of other classes are left out.
"""

from typing import Any

import numpy as np

from .predictions import Predictions
from .wbc_metrics.wbc_metrics import RESAMPLES, TINY, compute_metrics, merge_children

FIVE = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")


def five_classes(cells: Predictions, resamples: int = RESAMPLES) -> dict[str, Any] | None:
    """Compute metrics over the cells of `FIVE`; None if there are none, or the model lacks one of these.

    `any_answer`: another answer than these five is a mistake, as a user meets it. `told_five`: the likeliest of the
    five counts, as if the model was told that it is one of them; comparable with probes that know no other class. Both
    are what `wbc_metrics` gives: the scalars, `ci95` and `per_class`, over the classes that have cells. `resamples` 0
    leaves `ci95` out.
    """
    if not set(cells.names) >= set(FIVE):
        return None
    probabilities = cells.probabilities.astype(np.float64)
    merged, parents, level = merge_children(probabilities, cells.labels, cells.names, cells.parents)
    among = np.array([level.index(name) for name in FIVE])
    chosen = np.isin(parents, among)
    if not chosen.any():
        return None
    probabilities, labels, groups = merged[chosen], parents[chosen], cells.groups[chosen].tolist()
    five = probabilities[:, among] + TINY
    readings = {
        "any_answer": (probabilities, labels, level),
        "told_five": (five / five.sum(axis=1, keepdims=True), np.searchsorted(among, labels), FIVE),
    }
    metrics: dict[str, Any] = {"n": len(labels)}
    for name, (values, true, classes) in readings.items():
        metrics[name] = compute_metrics(values, true, classes, groups=groups, resamples=resamples)
        del metrics[name]["confusion_matrix"], metrics[name]["n"]
        metrics[name]["per_class"] = {cls: scores for cls, scores in metrics[name]["per_class"].items() if cls in FIVE}
    return metrics
