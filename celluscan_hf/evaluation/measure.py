"""From predictions to the figures of `metrics.json`."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np

from .. import taxonomy
from ..modeling.reliability_celluscan import Reliability
from . import calibration, clinical_metrics
from .intervals import proportion
from .predictions import Predictions
from .selective_metrics import brier, risk_coverage, sets
from .wbc_metrics.wbc_metrics import RESAMPLES, figures


def measure(cells: Predictions, resamples: int = RESAMPLES, known: Reliability | None = None) -> dict[str, Any]:
    """The figures of `wbc_metrics`, and beside them, with None where the cells say nothing about it:

    `groups`, how many there are; `majority_share`, the accuracy of always answering the most frequent class;
    `recall_ci95` {class: [low, high]}; `related` (names), `maturation`, `abnormal`, `hard_sets` of `haematology`;
    `calibration`, the bins behind `ece`; `brier`; `risk_coverage` and, of a calibrated model, `sets` of `trust`, over
    all cells and by class. `parent_level` has the classes of the taxonomy without a parent. `resamples` is of the
    bootstrap; 0 leaves its intervals out.
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
        "related": clinical_metrics.related_names(cells),
        "maturation": clinical_metrics.maturation(cells),
        "abnormal": clinical_metrics.abnormal(cells, resamples),
        "hard_sets": clinical_metrics.hard_sets(cells),
        "calibration": calibration.bins(cells),
        "brier": brier(cells.probabilities, cells.labels),
        "risk_coverage": risk_coverage(cells),
        "sets": [*sets(cells, known), *sets(cells, known, by_class=True)] if known else None,
    }


def measure_place(
    cells: Predictions, resamples: int = RESAMPLES, learned: Collection[int] = range(len(taxonomy.NAMES))
) -> dict[str, Any]:
    """What `metrics.json` says of the cells of one external source, to stand beside the figures of the split.

    `n`, `groups`, the scalars and `ci95` of `wbc_metrics`, `related` as `measure` has it, and `classes`, of how many
    classes there are cells: the means count these alone. `unlearned` {class: cells} are of classes that are not among
    the `learned` ones (class numbers), so no answer can be right; `accuracy_learned` (`n`, `accuracy`, `ci95`) leaves
    them out. `resamples` 0 leaves `ci95` out.
    """
    result = figures(
        cells.probabilities.astype(np.float64),
        cells.labels,
        taxonomy.NAMES,
        groups=cells.groups.tolist(),
        resamples=resamples,
    )
    del result["per_class"], result["confusion_matrix"]
    known = np.isin(cells.labels, list(learned))
    right = (cells.predicted == cells.labels)[known]
    unknown = Counter(taxonomy.NAMES[label] for label in cells.labels[~known])
    return result | {
        "groups": int(cells.groups.max()) + 1,
        "classes": len(np.unique(cells.labels)),
        "unlearned": dict(sorted(unknown.items())),
        "accuracy_learned": {
            "n": int(known.sum()),
            "accuracy": float(right.mean()) if len(right) else None,
            "ci95": proportion(right, cells.groups[known]),
        },
        "related": clinical_metrics.related_names(cells),
    }


def _recall_intervals(cells: Predictions) -> dict[str, list[float] | None]:
    right = cells.predicted == cells.labels
    return {
        name: proportion(right[here], cells.groups[here])
        for label, name in enumerate(taxonomy.NAMES)
        for here in [cells.labels == label]
    }
