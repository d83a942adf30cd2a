"""A linear head for new cells: logistic regression on frozen features, held near the head that the model has.

Multinomial logistic regression with a Gaussian prior on the difference from the source's head (the maximum a
posteriori). Features are standardized by the new cells, and the standardization is folded into the weights, so that the
head stays one linear layer. Classes without cells stay as they were.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from threadpoolctl import threadpool_limits

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)  # of the prior; one is chosen by cross-validation
DEFAULT_STRENGTH = 30.0  # where cells are too few to choose
_BIAS_SPREAD = 3.0  # prior standard deviation of the change of a bias, in logits
_SMALLEST_SCALE = 1e-6  # of a feature that varies, relative to its mean
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


def fit_head(source: LinearHead, looks: NDArray[np.floating], labels: NDArray[np.int64], strength: float) -> LinearHead:
    """Fit a head to features of several looks at each cell (looks, n, D) and labels (n,).

    It is held near `source` by a prior of that strength. Each look is a sample of its own, so that the head learns what
    does not depend on it, and all looks at a cell together weigh as one cell.
    """
    number, _, width = looks.shape
    features, labels = looks.reshape(-1, width), np.tile(labels, number)
    mean, scale = standardization(features)
    values = (features - mean) / scale
    present = np.unique(labels)
    weights = balanced_weights(labels) / number
    start = source(features)
    one_hot = np.eye(len(source.bias))[labels]
    count = len(present)

    def energy(parameters: Floats) -> tuple[float, Floats]:
        change, bias = parameters[: count * width].reshape(count, width), parameters[count * width :]
        logits = start.copy()
        logits[:, present] += values @ change.T + bias
        loss = -(weights * log_softmax(logits, axis=1)[np.arange(len(labels)), labels]).sum()
        prior = strength * (change**2).sum() / 2 + ((bias / _BIAS_SPREAD) ** 2).sum() / 2
        residual = (weights[:, None] * (softmax(logits, axis=1) - one_hot))[:, present]
        gradient = (residual.T @ values + strength * change).ravel(), residual.sum(axis=0) + bias / _BIAS_SPREAD**2
        return float(loss + prior), np.concatenate(gradient)

    with threadpool_limits(1):  # products of such small matrices take ten times as long on two threads
        optimum = minimize(energy, np.zeros(count * (width + 1)), jac=True, method="L-BFGS-B").x
    weight, bias = source.weight.astype(np.float64).copy(), source.bias.astype(np.float64).copy()
    change = optimum[: count * width].reshape(count, width) / scale
    weight[present] += change
    bias[present] += optimum[count * width :] - change @ mean
    return LinearHead(weight, bias)


def standardization(features: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Mean and scale (D,) of features (n, D); the scale of a feature that does not vary is 1."""
    mean, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return mean, np.where(scale > _SMALLEST_SCALE * np.abs(mean), scale, 1.0)
