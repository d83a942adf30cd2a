"""Image quality metrics. Outliers are flagged for review, never dropped."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_OUTLIER_Z = 3.5  # Iglewicz and Hoaglin, How to Detect and Handle Outliers, 1993
_MAD_TO_Z = 0.6745
_LEVELS = np.arange(256)
_MIN_ROWS = 20  # fewer are too few for a median absolute deviation


@dataclass(frozen=True, slots=True)
class Quality:
    """Sharpness (variance of the Laplacian, grey levels²); brightness and contrast (mean and std of grey in [0, 1])."""

    sharpness: float
    brightness: float
    contrast: float


def measure(grey: Image.Image) -> Quality:
    """Measure a grey image. Compare only images of one size, since sharpness depends on it."""
    level = np.asarray(grey).astype(np.int16)
    counts = np.asarray(grey.histogram())
    mean = counts @ _LEVELS / level.size
    variance = counts @ (_LEVELS - mean) ** 2 / level.size
    laplacian = level[1:-1, :-2] + level[1:-1, 2:] + level[:-2, 1:-1] + level[2:, 1:-1] - 4 * level[1:-1, 1:-1]
    edges = laplacian.astype(np.int32)  # integer sums are the same on every processor
    return Quality(
        sharpness=round(int((edges * edges).sum()) / edges.size - (int(edges.sum()) / edges.size) ** 2, 2),
        brightness=round(float(mean) / 255, 4),
        contrast=round(float(np.sqrt(variance)) / 255, 4),
    )


def outliers(values: NDArray[np.float64], strata: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Flag values more than 3.5 robust z-scores from the median of their stratum (class and source), (N,)."""
    flagged = np.zeros(len(values), bool)
    order = np.argsort(strata, kind="stable")
    starts = np.flatnonzero(np.diff(strata[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        if len(rows) >= _MIN_ROWS:
            deviation = np.abs(values[rows] - np.median(values[rows]))
            spread = np.median(deviation)
            flagged[rows] = _MAD_TO_Z * deviation > _OUTLIER_Z * spread if spread > 0 else deviation > 0
    return flagged
