"""What known cells look like, to the classifier and by their colours, so that what is none of them can be told.

Mahalanobis' distance from the nearest class, all classes sharing one covariance (Lee et al. 2018,
https://arxiv.org/abs/1807.03888), shrunken towards a round one so that it can be inverted.
"""

import numpy as np
from numpy.typing import NDArray

from ..modeling.reliability_celluscan import COLOURS, MahalanobisScorer

PER_CLASS = 100  # train cells of a class that are enough; more changed nothing that was measured
SHRINKAGE = 0.01  # of the covariance, share that is round
LEAST = 5  # cells from which a class has a centre of its own
QUANTILE = 0.98  # of validation cells that are not strange; at 0.99 a tenth of the made-up strangers more pass


def fit_nearby(
    read: NDArray[np.floating], labels: NDArray[np.int64], validation: NDArray[np.floating]
) -> tuple[MahalanobisScorer, MahalanobisScorer]:
    """From what is read of train cells, (n, D + `COLOURS`), their classes (n,), and what is read of validation cells.

    By what the classifier reads, and by colours. Of each a share `QUANTILE` of the validation cells lies within 1.
    """
    features, colours = (
        _scaled(fit_known(values, labels), others)
        for values, others in zip(_parts(read), _parts(validation), strict=True)
    )
    return features, colours


def _parts(read: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    return read[:, :-COLOURS], read[:, -COLOURS:]


def _scaled(known: MahalanobisScorer, validation: NDArray[np.floating]) -> MahalanobisScorer:
    usual = max(float(np.quantile(known.distance(validation), QUANTILE)), 1e-12)
    return MahalanobisScorer(known.centres, known.whitening / usual**0.5)


def fit_known(values: NDArray[np.floating], labels: NDArray[np.int64]) -> MahalanobisScorer:
    """From numbers of train cells, (n, D), and their classes (n,); the spread within classes is then of size 1.

    Classes with fewer than `LEAST` cells have no centre; where no class has more, all cells have one together.
    """
    wide = values.astype(np.float64)
    groups = [wide[labels == label] for label in np.unique(labels)]
    groups = [group for group in groups if len(group) >= LEAST] or [wide]
    centres = np.stack([group.mean(axis=0) for group in groups])
    spread = np.concatenate([group - centre for group, centre in zip(groups, centres, strict=True)])
    covariance = spread.T @ spread / len(spread)
    size = max(np.trace(covariance) / len(covariance), 1e-12)
    shrunken = (1 - SHRINKAGE) * covariance + SHRINKAGE * size * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(shrunken))  # |x W|^2 = x (W W') x'
    return MahalanobisScorer(centres, whitening)


def some_of_each(labels: NDArray[np.int64], count: int = PER_CLASS, seed: int = 0) -> NDArray[np.int64]:
    """Rows of at most `count` cells of each class, in their order."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rng.permutation(one)[:count] for one in rows]))
