"""Temperature scaling, and for a new microscope a shrunk bias of each class in addition.

Temperature scaling: Guo et al. 2017 (https://arxiv.org/abs/1706.04599), logits z become z / T. For a new microscope
"bias-corrected" (Alexandari et al. 2020, https://arxiv.org/abs/1901.06852), z / T + b, with Gaussian priors on both
that favour no change: with few cells, little changes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from ..errors import CelluScanError

_TEMPERATURES = (0.02, 50.0)  # bounds of the fit
TEMPERATURE_SPREAD = 0.5  # prior standard deviation of the logarithm of the temperature
BIAS_SPREAD = 0.5  # prior standard deviation of a class's bias, in logits
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Adjustment:
    """Logits z become z / `temperature` + `bias` (classes,)."""

    temperature: float
    bias: NDArray[np.float64]

    def __call__(self, logits: Floats) -> NDArray[np.float64]:
        """Adjust logits (n, classes)."""
        adjusted: NDArray[np.float64] = logits.astype(np.float64) / self.temperature + self.bias
        return adjusted


def nll(logits: Floats, labels: NDArray[np.int64]) -> float:
    """Compute the mean negative log-likelihood of the true classes, in nats: logits (n, classes), labels (n,)."""
    likelihood = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return float(-likelihood.mean())


def fit_temperature(logits: Floats, labels: NDArray[np.int64], spread: float = np.inf) -> float:
    """Find the temperature with the smallest `nll`. Raises `CelluScanError` without cells.

    With `spread`, the standard deviation of a Gaussian prior on its logarithm, few cells change little: if all of them
    are right, the likeliest temperature would be as low as allowed, and every answer certain.
    """
    if len(labels) == 0:
        raise CelluScanError("no cell to calibrate on; give a dataset with validation cells")
    low, high = np.log(_TEMPERATURES)
    optimum = minimize_scalar(
        lambda log_t: nll(logits / np.exp(log_t), labels) + (log_t / spread) ** 2 / 2 / len(labels),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(optimum.x))


def fit_adjustment(logits: Floats, labels: NDArray[np.int64]) -> Adjustment:
    """Fit temperature and bias for a new microscope to a few of its cells: the maximum a posteriori.

    The bias of a class without cells stays near 0.
    """
    classes = logits.shape[1]

    def energy(parameters: NDArray[np.float64]) -> float:
        log_t, bias = parameters[0], parameters[1:]
        prior = (log_t / TEMPERATURE_SPREAD) ** 2 + ((bias / BIAS_SPREAD) ** 2).sum()
        return len(labels) * nll(logits / np.exp(log_t) + bias, labels) + float(prior) / 2

    bounds = [tuple(np.log(_TEMPERATURES)), *[(None, None)] * classes]
    optimum = minimize(energy, np.zeros(1 + classes), method="L-BFGS-B", bounds=bounds)
    return Adjustment(float(np.exp(optimum.x[0])), optimum.x[1:])
