"""What known cells look like to the classifier, so that what is none of them can be told.

Mahalanobis' distance from the nearest class, all classes sharing one covariance (Lee et al. 2018,
https://arxiv.org/abs/1807.03888), shrunken towards a round one so that it can be inverted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PER_CLASS = 100  # train cells of a class that are enough; more changed nothing that was measured
SHRINKAGE = 0.01  # of the covariance, share that is round
LEAST = 5  # cells from which a class has a centre of its own


@dataclass(frozen=True)
class Known:
    """`centres` (k, D) of classes and `whitening` (D, D), after which their spread is round and of size 1."""

    centres: NDArray[np.float64]
    whitening: NDArray[np.float64]


def fit_known(features: NDArray[np.floating], labels: NDArray[np.int64]) -> Known:
    """From what the classifier reads of train cells, (n, D), and their classes (n,).

    Classes with fewer than `LEAST` cells have no centre; where no class has more, all cells have one together.
    """
    wide = features.astype(np.float64)
    groups = [wide[labels == label] for label in np.unique(labels)]
    groups = [group for group in groups if len(group) >= LEAST] or [wide]
    centres = np.stack([group.mean(axis=0) for group in groups])
    spread = np.concatenate([group - centre for group, centre in zip(groups, centres, strict=True)])
    covariance = spread.T @ spread / len(spread)
    size = max(np.trace(covariance) / len(covariance), 1e-12)
    shrunken = (1 - SHRINKAGE) * covariance + SHRINKAGE * size * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(shrunken))  # |x W|^2 = x (W W') x'
    return Known(centres, whitening)


def some_of_each(labels: NDArray[np.int64], count: int = PER_CLASS, seed: int = 0) -> NDArray[np.int64]:
    """Rows of at most `count` cells of each class, in their order."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rng.permutation(one)[:count] for one in rows]))
