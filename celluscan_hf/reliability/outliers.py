"""Fit out-of-distribution scores on train cells, by the features of the classifier and by colours.

Mahalanobis distance to the nearest class mean, with one covariance for all classes (Lee et al. 2018,
https://arxiv.org/abs/1807.03888), shrunk towards a multiple of the identity so that it can be inverted.
"""

import numpy as np
from numpy.typing import NDArray

from ..modeling.reliability_celluscan import COLOURS, MahalanobisScorer

PER_CLASS = 100  # train cells per class; more did not improve any metric
SHRINKAGE = 0.01  # weight of the identity in the covariance
MIN_CELLS = 5  # a class with fewer has no centre of its own
QUANTILE = 0.98  # of validation scores, as threshold; at 0.99 a tenth more of the out-of-distribution images pass


def fit_scorers(
    features: NDArray[np.floating], labels: NDArray[np.int64], validation: NDArray[np.floating]
) -> tuple[MahalanobisScorer, MahalanobisScorer]:
    """Fit one scorer on the classifier's features and one on colours, from train and validation cells.

    `features` of train cells (n, D + `COLOURS`), their `labels` (n,), and the same features of `validation` cells. Each
    scorer is scaled so that a share `QUANTILE` of the validation cells has a distance within 1.
    """
    by_features, by_colours = (
        _scaled(fit_mahalanobis(train_part, labels), validation_part)
        for train_part, validation_part in zip(_parts(features), _parts(validation), strict=True)
    )
    return by_features, by_colours


def _parts(features: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    return features[:, :-COLOURS], features[:, -COLOURS:]


def _scaled(scorer: MahalanobisScorer, validation: NDArray[np.floating]) -> MahalanobisScorer:
    limit = max(float(np.quantile(scorer.distance(validation), QUANTILE)), 1e-12)
    return MahalanobisScorer(scorer.centres, scorer.whitening / limit**0.5)


def fit_mahalanobis(values: NDArray[np.floating], labels: NDArray[np.int64]) -> MahalanobisScorer:
    """Fit class centres and whitening on values of train cells (n, D) and their labels (n,).

    After whitening the variance within classes is 1. Classes with fewer than `MIN_CELLS` cells have no centre; if all
    have fewer, all cells share one.
    """
    wide = values.astype(np.float64)
    groups = [wide[labels == label] for label in np.unique(labels)]
    groups = [group for group in groups if len(group) >= MIN_CELLS] or [wide]
    centres = np.stack([group.mean(axis=0) for group in groups])
    residuals = np.concatenate([group - centre for group, centre in zip(groups, centres, strict=True)])
    covariance = residuals.T @ residuals / len(residuals)
    mean_variance = max(np.trace(covariance) / len(covariance), 1e-12)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * mean_variance * np.eye(len(covariance))
    whitening = np.linalg.cholesky(np.linalg.inv(shrunk))  # |x W|^2 = x (W W') x'
    return MahalanobisScorer(centres, whitening)


def sample_per_class(labels: NDArray[np.int64], count: int = PER_CLASS, seed: int = 0) -> NDArray[np.int64]:
    """Sample the rows of at most `count` cells of each class, in their order."""
    rng = np.random.default_rng(seed)
    rows = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([rng.permutation(rows_of_class)[:count] for rows_of_class in rows]))
