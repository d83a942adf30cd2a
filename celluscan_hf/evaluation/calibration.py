"""Whether a probability means what it says: of the cells told with 80 %, four of five should be right."""

from typing import Any

import numpy as np

from .intervals import proportion
from .predictions import Predictions
from .wbc_metrics.wbc_metrics import BINS


def bins(cells: Predictions) -> list[dict[str, Any]]:
    """The cells in equal bins of the highest probability, those behind `ece`; empty bins are left out.

    For each bin its edges `low` and `high`, `n`, mean `confidence`, `accuracy` and its `ci95`.
    """
    right = cells.predicted == cells.labels
    number = np.minimum((cells.confidence * BINS).astype(int), BINS - 1)
    return [
        {
            "low": one / BINS,
            "high": (one + 1) / BINS,
            "n": int(here.sum()),
            "confidence": float(cells.confidence[here].mean()),
            "accuracy": float(right[here].mean()),
            "ci95": proportion(right[here], cells.groups[here]),
        }
        for one in range(BINS)
        for here in [number == one]
        if here.any()
    ]
