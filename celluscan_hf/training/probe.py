"""A linear probe: the head of a frozen model as a logistic regression on its features, which are computed once.

Features are those of every original cell of train and validation as it is, without augmentation. They are kept in the
folder of the run, so that a run goes on where it stopped. The strength of the regularization is the one with the best
macro-F1 on validation.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from tqdm import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from .. import taxonomy
from ..evaluation.cells import load_cells_of_split
from ..evaluation.wbc_metrics import wbc_metrics
from ..modeling.reliability_celluscan import head_of
from .features import identify, keep_features, labels_of, model_features

FEATURES = "features.safetensors"
STRENGTHS = np.logspace(-4, 2, 13)  # scikit-learn's C
_MOST_STEPS = 500
_ABSENT = 10.0  # how far the bias of a class without cells lies below the lowest other one
Floats = NDArray[np.floating[Any]]
Labelled = tuple[Floats, NDArray[np.int64]]  # features (n, D) and labels (n,)


def fit_probe(
    model: PreTrainedModel, processor: BaseImageProcessor, dataset: str, folder: Path
) -> list[dict[str, float]]:
    """Fit the head of a model, in place, to the train split of a built dataset.

    Returns:
        For each strength: `strength`, and the metrics on validation (`eval_macro_f1`, …), the best one last.
    """
    of, parts = identify(model, processor), []
    for split in ("train", "validation"):
        cells = load_cells_of_split(dataset, split)
        compute = partial(model_features, model, processor, cells)
        parts.append((keep_features(folder / f"{split}-{FEATURES}", cells, of, compute), labels_of(cells)))
    best, history = fit_logistic(*parts)
    head = head_of(model)
    with torch.no_grad():
        for parameter, values in zip((head.weight, head.bias), best, strict=True):
            parameter.copy_(torch.from_numpy(values))
    return history


def fit_logistic(train: Labelled, validation: Labelled) -> tuple[tuple[Floats, Floats], list[dict[str, float]]]:
    """Fit a logistic regression to features (n, D) with labels (n,), its strength chosen on validation.

    Returns:
        Weight (14, D) and bias (14,) of the best strength; and the history of `fit_probe`.
    """
    (features, labels), (held_out, truth) = train, validation
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    history, heads = [], []
    for strength in tqdm(STRENGTHS, desc="fitting the head", unit="strength", leave=False, disable=None):
        fitted = LogisticRegression(C=strength, max_iter=_MOST_STEPS).fit((features - mean) / scale, labels)
        weight, bias = _all_classes(fitted)
        heads.append((weight / scale, bias - weight @ (mean / scale)))
        history.append({"strength": float(strength)} | _metrics(held_out @ heads[-1][0].T + heads[-1][1], truth))
    best = int(np.argmax([line["eval_macro_f1"] for line in history]))
    return heads[best], [*history[:best], *history[best + 1 :], history[best]]


def _all_classes(fitted: LogisticRegression) -> tuple[Floats, Floats]:
    """Return weight (14, D) and bias (14,); a class without train cells gets no weight and the lowest bias."""
    coefficients, intercepts = fitted.coef_, fitted.intercept_
    if len(coefficients) == 1:  # of two classes scikit-learn keeps the difference
        halves = np.array([[-0.5], [0.5]])
        coefficients, intercepts = halves * coefficients, halves[:, 0] * intercepts
    weight = np.zeros((len(taxonomy.NAMES), coefficients.shape[1]))
    bias = np.full(len(taxonomy.NAMES), intercepts.min() - _ABSENT)
    weight[fitted.classes_], bias[fitted.classes_] = coefficients, intercepts
    return weight, bias


def _metrics(logits: Floats, labels: NDArray[np.int64]) -> dict[str, float]:
    metrics: dict[str, Any] = wbc_metrics.compute_metrics(softmax(logits, axis=1), labels, taxonomy.NAMES, resamples=0)
    return {f"eval_{name}": metrics[name] for name in ("n", *wbc_metrics.SCALARS)}
