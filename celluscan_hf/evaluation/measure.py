"""From predictions to the metrics of `metrics.json`; a new group of metrics is one line of `measure`."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from .. import taxonomy
from ..modeling.reliability_celluscan import Reliability
from . import clinical_metrics, selective_metrics
from .five_classes import five_classes
from .intervals import proportion
from .predictions import Predictions
from .selective_metrics import set_metrics
from .wbc_metrics.wbc_metrics import RESAMPLES, compute_metrics


def measure(cells: Predictions, resamples: int = RESAMPLES, reliability: Reliability | None = None) -> dict[str, Any]:
    """Compute the metrics of `wbc_metrics`, and beside them, None if the cells do not allow it:

    `groups`, their number; `five_classes`, see there; `majority_share`, the accuracy of always answering the most
    frequent class; `recall_ci95` {class: [low, high]}; `related` (names), `maturation`, `abnormal`, `hard_sets`: see
    `clinical_metrics`; `calibration`, the bins behind `ece`; `brier`; `risk_coverage` and, for a calibrated model,
    `sets`, over all cells and by class: see `selective_metrics`. `parent_level` has the classes of the taxonomy without
    a parent. `resamples`: number of bootstrap resamples; 0 leaves their intervals out.
    """
    return _wbc_metrics(cells, resamples, sources=cells.sources, parents=cells.parents) | {
        "five_classes": five_classes(cells, resamples),
        "majority_share": float(np.bincount(cells.labels).max() / len(cells)),
        "recall_ci95": _recall_intervals(cells),
        "maturation": clinical_metrics.maturation(cells),
        "abnormal": clinical_metrics.abnormal(cells, resamples),
        "hard_sets": clinical_metrics.hard_sets(cells),
        "calibration": selective_metrics.calibration_bins(cells),
        "brier": selective_metrics.brier(cells.probabilities, cells.labels),
        "risk_coverage": selective_metrics.risk_coverage(cells),
        "sets": [row for by_class in (False, True) for row in set_metrics(cells, reliability, by_class)]
        if reliability
        else None,
    }


def measure_external(
    cells: Predictions, resamples: int = RESAMPLES, learned: Collection[int] = range(len(taxonomy.NAMES))
) -> dict[str, Any]:
    """Compute the metrics of the cells of one external source, for `external` of `metrics.json`.

    `n`, `groups`, the scalars and `ci95` of `wbc_metrics`, `related` and `five_classes` as in `measure`, and `classes`,
    the number of classes with cells: the means count these alone. `unlearned` {class: cells} are of classes that are
    not among the `learned` ones (class numbers), so no answer can be right; `accuracy_learned` (`n`, `accuracy`,
    `ci95`) leaves them out. `resamples` 0 leaves `ci95` out.
    """
    metrics = _wbc_metrics(cells, resamples)
    del metrics["per_class"], metrics["confusion_matrix"]
    is_learned = np.isin(cells.labels, list(learned))
    right = (cells.predicted == cells.labels)[is_learned]
    unlearned = Counter(cells.names[label] for label in cells.labels[~is_learned])
    return metrics | {
        "classes": len(np.unique(cells.labels)),
        "five_classes": five_classes(cells, resamples),
        "unlearned": dict(sorted(unlearned.items())),
        "accuracy_learned": {
            "n": int(is_learned.sum()),
            "accuracy": float(right.mean()) if len(right) else None,
            "ci95": proportion(right, cells.groups[is_learned]),
        },
    }


def _wbc_metrics(cells: Predictions, resamples: int, **options: Any) -> dict[str, Any]:
    probabilities, groups = cells.probabilities.astype(np.float64), cells.groups.tolist()
    metrics = compute_metrics(probabilities, cells.labels, cells.names, groups=groups, resamples=resamples, **options)
    return metrics | {"groups": int(cells.groups.max()) + 1, "related": clinical_metrics.related_names(cells)}


def _recall_intervals(cells: Predictions) -> dict[str, list[float] | None]:
    right = cells.predicted == cells.labels
    return {
        name: proportion(right[inside], cells.groups[inside])
        for label, name in enumerate(cells.names)
        for inside in [cells.labels == label]
    }
