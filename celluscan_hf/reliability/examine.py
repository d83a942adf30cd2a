"""Measure calibration on cells of another microscope, and detection of out-of-distribution images."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import BadImage
from ..evaluation.clinical_metrics import area_under_roc
from ..evaluation.selective_metrics import calibration_metrics
from ..inference import prediction
from ..inference.prediction import Output, ReadImage
from ..modeling.reliability_celluscan import PARTS, Reliability
from .calibrate import ModelOutputs
from .temperature import fit_adjustment

QUANTILES = (0.95, 0.98, 0.99)  # of the scores of validation cells, as thresholds
SCORES = ("distance", *PARTS, "energy")  # Mahalanobis; energy: Liu et al. 2020 (https://arxiv.org/abs/2010.03759)


def recalibration_gain(
    outputs: ModelOutputs, groups: NDArray[np.int64], sizes: Sequence[int], draws: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Fit to each number of cells; measure on the cells of all other groups `before`, `after` and `gain`.

    Each is the mean and standard deviation over draws of groups; a size that leaves fewer than `size / 4` cells, or 8,
    to evaluate on is left out.
    """
    rows = []
    for size in sizes:
        pairs = []
        for draw in range(draws):
            order = np.random.default_rng([seed, size, draw]).permutation(groups.max() + 1)
            rank = np.argsort(np.argsort(order)[groups], kind="stable")  # rows by group, groups at random
            last = groups[rank[min(size, len(rank)) - 1]]
            fitted, others = rank[:size], np.array([row for row in rank[size:] if groups[row] != last], int)
            if len(others) >= max(8, size / 4):
                adjust = fit_adjustment(outputs.logits[fitted], outputs.labels[fitted])
                rest = outputs.rows(others)
                pairs.append(
                    [calibration_metrics(logits, rest.labels) for logits in (rest.logits, adjust(rest.logits))]
                )
        if pairs:
            rows.append({"cells": size, "draws": len(pairs)} | _spread(pairs))
    return rows


def _spread(pairs: Sequence[Sequence[dict[str, float]]]) -> dict[str, Any]:
    names = list(pairs[0][0])
    before, after = (
        np.array([[metrics[name] for name in names] for metrics in side]) for side in zip(*pairs, strict=True)
    )
    values = {"before": before, "after": after, "gain": after - before}
    return {
        key: {name: {"mean": float(m), "sd": float(s)} for name, m, s in zip(names, v.mean(0), v.std(0), strict=True)}
        for key, v in values.items()
    }


def ood_scores(outputs: Iterable[Output], reliability: Reliability) -> dict[str, NDArray[np.float64]]:
    """Compute each of `SCORES` of images, (n,): high means out-of-distribution."""
    rows = [(output.features, output.logits) for output in outputs]
    features, logits = (np.stack(part) for part in zip(*rows, strict=True))
    by_parts = dict(zip(PARTS, reliability.distances(features), strict=True))
    energy = -logsumexp(logits.astype(np.float64), axis=1)
    return {"distance": reliability.ood_score(features), **by_parts, "energy": energy}


def detection_rates(
    scores: NDArray[np.float64], validation: NDArray[np.float64], cells: NDArray[np.float64]
) -> dict[str, float]:
    """Compute the share of images above each of `QUANTILES` of validation, and `auroc` against `cells`."""
    rates = {str(quantile): float((scores > np.quantile(validation, quantile)).mean()) for quantile in QUANTILES}
    is_image = np.repeat([True, False], [len(scores), len(cells)])
    return rates | {"auroc": area_under_roc(is_image, np.concatenate((scores, cells)))}


def outputs_of(reads: Iterable[ReadImage], model: PreTrainedModel, processor: BaseImageProcessor) -> list[Output]:
    """Run a model on images; those that cannot be used are left out."""
    results = prediction.outputs(reads, model, processor, with_features=True)
    return [output for output in results if not isinstance(output, BadImage)]
