"""From predictions to the figures of `metrics.json`."""

from typing import Any

import numpy as np

from .. import taxonomy
from . import calibration, haematology
from .intervals import proportion
from .predictions import Predictions
from .wbc_metrics.wbc_metrics import RESAMPLES, figures


def measure(cells: Predictions, resamples: int = RESAMPLES) -> dict[str, Any]:
    """The figures of `wbc_metrics`, and beside them, with None where the cells say nothing about it:

    `groups`, how many there are; `majority_share`, the accuracy of always answering the most frequent class;
    `recall_ci95` {class: [low, high]}; `related` (names), `maturation`, `abnormal`, `hard_sets` of `haematology`;
    `calibration`, the bins behind `ece`. `parent_level` has the classes of the taxonomy without a parent.
    `resamples` is of the bootstrap; 0 leaves its intervals out.
    """
    result = figures(
        cells.probabilities.astype(np.float64),
        cells.labels,
        taxonomy.NAMES,
        groups=cells.groups.tolist(),
        sources=cells.sources,
        resamples=resamples,
        parents=taxonomy.PARENTS,
    )
    return result | {
        "groups": int(cells.groups.max()) + 1,
        "majority_share": float(np.bincount(cells.labels).max() / len(cells)),
        "recall_ci95": _recall_intervals(cells),
        "related": haematology.related_names(cells),
        "maturation": haematology.maturation(cells),
        "abnormal": haematology.abnormal(cells, resamples),
        "hard_sets": haematology.hard_sets(cells),
        "calibration": calibration.bins(cells),
    }


def _recall_intervals(cells: Predictions) -> dict[str, list[float] | None]:
    right = cells.predicted == cells.labels
    return {
        name: proportion(right[here], cells.groups[here])
        for label, name in enumerate(taxonomy.NAMES)
        for here in [cells.labels == label]
    }
