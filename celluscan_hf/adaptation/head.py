"""A linear head for new cells: logistic regression on frozen features, held near the head that the model has.

Multinomial logistic regression with a Gaussian prior on the difference from the source's head (the maximum a
posteriori). Features are standardized by the new cells, and the standardization is folded into the weights, so that the
head stays one linear layer. Classes without cells keep their weights; what they share is one bias, as all of them may
be rarer than the model expects.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # of the prior; one is chosen by cross-validation
DEFAULT_STRENGTH = 30.0  # where cells are too few to choose
_ABSENT_SPREAD = 2.0  # prior standard deviation of the bias of all classes without cells, in logits
_SMALLEST_SCALE = 1e-3  # of a feature, relative to the mean
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LinearHead:
    """Logits are `features @ weight.T + bias`: `weight` (classes, D), `bias` (classes,)."""

    weight: Floats
    bias: Floats

    def __call__(self, features: NDArray[np.floating]) -> Floats:
        """Compute logits (n, classes) of features (n, D)."""
        logits: Floats = features.astype(np.float64) @ self.weight.T + self.bias
        return logits


def balanced_weights(labels: NDArray[np.int64]) -> Floats:
    """Weight of each cell (n,), so that every class weighs the same; the mean is 1."""
    counts = np.bincount(labels)
    return len(labels) / (np.count_nonzero(counts) * counts[labels])


def fit_head(
    source: LinearHead, features: NDArray[np.floating], labels: NDArray[np.int64], strength: float
) -> LinearHead:
    """Fit a head to features (n, D) and labels (n,), held near `source` by a prior of that strength."""
    mean, scale = standardization(features)
    values = (features - mean) / scale
    present = np.unique(labels)
    weights = balanced_weights(labels)
    start = source(features)
    one_hot = np.eye(len(source.bias))[labels]
    width, count = values.shape[1], len(present)
    absent = np.setdiff1d(np.arange(len(source.bias)), present)

    def energy(parameters: Floats) -> tuple[float, Floats]:
        change = parameters[: count * width].reshape(count, width)
        bias, shared = parameters[count * width : -1], parameters[-1]
        logits = start.copy()
        logits[:, present] += values @ change.T + bias
        logits[:, absent] += shared
        loss = -(weights * log_softmax(logits, axis=1)[np.arange(len(labels)), labels]).sum()
        residual = weights[:, None] * (softmax(logits, axis=1) - one_hot)
        prior = strength * (change**2).sum() / 2 + (shared / _ABSENT_SPREAD) ** 2 / 2
        gradient = [
            (residual[:, present].T @ values + strength * change).ravel(),
            residual[:, present].sum(axis=0),
            [residual[:, absent].sum() + shared / _ABSENT_SPREAD**2],
        ]
        return float(loss + prior), np.concatenate(gradient)

    optimum = minimize(energy, np.zeros(count * width + count + 1), jac=True, method="L-BFGS-B").x
    weight, bias = source.weight.astype(np.float64).copy(), source.bias.astype(np.float64).copy()
    change = optimum[: count * width].reshape(count, width) / scale
    weight[present] += change
    bias[present] += optimum[count * width : -1] - change @ mean
    bias[absent] += optimum[-1]
    return LinearHead(weight, bias)


def standardization(features: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and scale (D,) of features (n, D)."""
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return mean, np.maximum(scale, _SMALLEST_SCALE * max(float(scale.mean()), 1e-12))
