"""A linear head for new cells: logistic regression on frozen features, held near the head that the model has.

Multinomial logistic regression with a Gaussian prior on the difference from the source's head (the maximum a
posteriori). Features are whitened by the scatter of the new cells around the means of their classes, as in a linear
discriminant analysis, so that what differs within a class counts less. That is folded into the weights, so that the
head stays one linear layer. Classes without cells stay as they were.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

STRENGTHS = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3)  # of the prior; one is chosen by cross-validation
DEFAULT_STRENGTH = 10.0  # unless another one is clearly better
_BIAS_SPREAD = 3.0  # prior standard deviation of the change of a bias, in logits
_TOLERANCE = 1e-6  # of the fit, relative
_SHRINKAGE = 0.5
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
    """Fit a head with a prior of one strength (`fit_heads`)."""
    return fit_heads(source, looks, labels, (strength,))[0]


def fit_heads(
    source: LinearHead, looks: NDArray[np.floating], labels: NDArray[np.int64], strengths: Sequence[float]
) -> list[LinearHead]:
    """Fit a head for each strength of the prior, to features of several looks at each cell (looks, n, D), labels (n,).

    The prior holds it near `source`. Each look is a sample of its own, so that the head learns what does not depend on
    it, and all looks at a cell together weigh as one cell. Each fit starts from that of the strength before.
    """
    number, _, width = looks.shape
    features, labels = looks.reshape(-1, width).astype(np.float64), np.tile(labels, number)
    mean, whitening = whitener(features, labels)
    values = (features - mean) @ whitening
    present, targets = np.unique(labels, return_inverse=True)
    weights = balanced_weights(labels) / number
    count, rows = len(present), np.arange(len(labels))
    start = source(features)
    absent = np.delete(start, present, axis=1)  # logits that stay as they are: together, one more class
    others = logsumexp(absent, axis=1, keepdims=True) if absent.shape[1] else np.full((len(rows), 1), -np.inf)
    start = np.concatenate((start[:, present], others), axis=1)

    def energy(parameters: Floats, strength: float) -> tuple[float, Floats]:
        change, bias = parameters[: count * width].reshape(count, width), parameters[count * width :]
        logits = start.copy()
        logits[:, :count] += values @ change.T + bias
        logits -= logits.max(axis=1, keepdims=True)
        probabilities = np.exp(logits)
        total = probabilities.sum(axis=1, keepdims=True)
        loss = weights @ (np.log(total[:, 0]) - logits[rows, targets])
        prior = strength * (change**2).sum() / 2 + ((bias / _BIAS_SPREAD) ** 2).sum() / 2
        residual = probabilities[:, :count] / total
        residual[rows, targets] -= 1
        residual *= weights[:, None]
        gradient = (residual.T @ values + strength * change).ravel(), residual.sum(axis=0) + bias / _BIAS_SPREAD**2
        return float(loss + prior), np.concatenate(gradient)

    heads, optimum = [], np.zeros(count * (width + 1))
    for strength in strengths:
        with threadpool_limits(1):  # products of such small matrices take ten times as long on two threads
            optimum = minimize(energy, optimum, (strength,), jac=True, method="L-BFGS-B", tol=_TOLERANCE).x
        weight, bias = source.weight.astype(np.float64).copy(), source.bias.astype(np.float64).copy()
        change = optimum[: count * width].reshape(count, width) @ whitening.T
        weight[present] += change
        bias[present] += optimum[count * width :] - change @ mean
        heads.append(LinearHead(weight, bias))
    return heads


def whitener(features: Floats, labels: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean (D,) and whitening (D, D) of features (n, D) with labels (n,): `(features - mean) @ whitening`.

    Features are scaled to a standard deviation of 1, and their covariance within classes is shrunk by `_SHRINKAGE`
    towards the identity, as cells are few. The mean standard deviation of the whitened features is 1.
    """
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > _SMALLEST_SCALE * np.abs(mean), scale, 1.0)
    class_of = np.unique(labels, return_inverse=True)[1]
    counts = np.bincount(class_of)
    centres = np.stack([np.bincount(class_of, column) for column in features.T], axis=1) / counts[:, None]
    scatter = (features - centres[class_of]) / scale
    covariance = scatter.T @ scatter / len(scatter)
    size = np.trace(covariance) / len(covariance)
    if size < _SMALLEST_SCALE:  # no cell differs from another of its class
        return mean, np.diag(1 / scale)
    shrunk = (1 - _SHRINKAGE) * covariance / size + _SHRINKAGE * np.eye(len(covariance))
    variances, directions = np.linalg.eigh(shrunk)
    whitening = directions / np.sqrt(variances) / scale[:, None]
    spread = ((features - mean) @ whitening).std(axis=0).mean()
    return mean, whitening / spread
