"""One number that makes probabilities mean what they say, and for a new microscope a shrunken bias beside it.

Temperature scaling is that of Guo et al. 2017 (https://arxiv.org/abs/1706.04599). Logits z become z / T, and for a new
microscope z / T + b, "bias-corrected" (Alexandari et al. 2020, https://arxiv.org/abs/1901.06852), with both held near
doing nothing by Gaussian priors: where cells are few, little changes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import log_softmax

from ..errors import CelluScanError

_RANGE = (0.02, 50.0)  # of a temperature
TEMPERATURE_SPREAD = 0.5  # prior standard deviation of the logarithm of the temperature
BIAS_SPREAD = 0.5  # prior standard deviation of a class's bias, in logits
Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Adjustment:
    """Logits z become z / `temperature` + `bias` (classes,)."""

    temperature: float
    bias: NDArray[np.float64]

    def __call__(self, logits: Floats) -> NDArray[np.float64]:
        """Logits (n, classes), adjusted."""
        adjusted: NDArray[np.float64] = logits.astype(np.float64) / self.temperature + self.bias
        return adjusted


def nll(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The mean negative log-likelihood of the true classes, in nats: logits (n, classes), labels (n,)."""
    likelihood = log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return float(-likelihood.mean())


def fit_temperature(logits: Floats, labels: NDArray[np.int64]) -> float:
    """The temperature with the smallest `nll`. Raises `CelluScanError` where there is nothing to fit it on."""
    if len(labels) == 0:
        raise CelluScanError("no cell to calibrate on; give a data set with validation cells")
    low, high = np.log(_RANGE)
    found = minimize_scalar(
        lambda log_t: nll(logits / np.exp(log_t), labels), bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(found.x))


def fit_adjustment(logits: Floats, labels: NDArray[np.int64]) -> Adjustment:
    """Temperature and bias of a new microscope, from a few of its cells: the most probable under both priors.

    Cells without a class among them leave its bias near 0.
    """
    classes = logits.shape[1]

    def energy(parameters: NDArray[np.float64]) -> float:
        log_t, bias = parameters[0], parameters[1:]
        prior = (log_t / TEMPERATURE_SPREAD) ** 2 + ((bias / BIAS_SPREAD) ** 2).sum()
        return len(labels) * nll(logits / np.exp(log_t) + bias, labels) + float(prior) / 2

    bounds = [tuple(np.log(_RANGE)), *[(None, None)] * classes]
    found = minimize(energy, np.zeros(1 + classes), method="L-BFGS-B", bounds=bounds)
    return Adjustment(float(np.exp(found.x[0])), found.x[1:])
