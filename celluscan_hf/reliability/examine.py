"""How much of what calibration promises is kept: on cells of another microscope, and on pictures that are no cells."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import BadImage
from ..evaluation.selective_metrics import scalars
from ..inference.prediction import Output, ReadImage, outputs
from ..modeling.reliability_celluscan import PARTS, Reliability
from .calibrate import ModelOutputs
from .temperature import fit_adjustment

QUANTILES = (0.95, 0.98, 0.99)  # of validation cells that are not strange
SCORES = ("distance", *PARTS, "energy")  # of Mahalanobis, and of Liu et al. 2020 (https://arxiv.org/abs/2010.03759)


def recalibration_gain(
    seen: ModelOutputs, groups: NDArray[np.int64], sizes: Sequence[int], draws: int, seed: int = 0
) -> list[dict[str, Any]]:
    """For each number of cells fitted to: figures on the cells of all other groups, `before`, `after` and `gain`.

    Each is the mean and standard deviation over draws of groups; a size that leaves fewer than `size / 4` cells, or 8,
    to judge on is left out.
    """
    found = []
    for size in sizes:
        pairs = []
        for draw in range(draws):
            order = np.random.default_rng([seed, size, draw]).permutation(groups.max() + 1)
            rank = np.argsort(np.argsort(order)[groups], kind="stable")  # rows by group, groups at random
            last = groups[rank[min(size, len(rank)) - 1]]
            fitted, judged = rank[:size], np.array([row for row in rank[size:] if groups[row] != last], int)
            if len(judged) >= max(8, size / 4):
                adjust = fit_adjustment(seen.logits[fitted], seen.labels[fitted])
                rest = seen.rows(judged)
                pairs.append((scalars(rest.logits, rest.labels), scalars(adjust(rest.logits), rest.labels)))
        if pairs:
            found.append({"cells": size, "draws": len(pairs)} | _spread(pairs))
    return found


def _spread(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    names = list(pairs[0][0])
    before, after = (np.array([[one[name] for name in names] for one in side]) for side in zip(*pairs, strict=True))
    told = {"before": before, "after": after, "gain": after - before}
    return {
        key: {name: {"mean": float(m), "sd": float(s)} for name, m, s in zip(names, v.mean(0), v.std(0), strict=True)}
        for key, v in told.items()
    }


def ood_scores(outcomes: Iterable[Output], known: Reliability) -> dict[str, NDArray[np.float64]]:
    """Each of `SCORES` of pictures, (n,): high is strange."""
    rows = [(one.features, one.logits) for one in outcomes]
    features, logits = (np.stack(part) for part in zip(*rows, strict=True))
    by_parts = dict(zip(PARTS, known.distances(features), strict=True))
    energy = -logsumexp(logits.astype(np.float64), axis=1)
    return {"distance": known.ood_score(features), **by_parts, "energy": energy}


def noticed(
    scores: NDArray[np.float64], validation: NDArray[np.float64], usual: NDArray[np.float64]
) -> dict[str, float]:
    """The share of pictures above each of `QUANTILES` of validation, and `auroc` against `usual` cells."""
    shares = {str(one): float((scores > np.quantile(validation, one)).mean()) for one in QUANTILES}
    below = (usual[:, None] < scores).mean() + (usual[:, None] == scores).mean() / 2
    return shares | {"auroc": float(below)}


def outputs_of(reads: Iterable[ReadImage], model: PreTrainedModel, processor: BaseImageProcessor) -> list[Output]:
    """What a model gives for pictures; those that cannot be used are left out."""
    found = outputs(reads, model, processor, with_features=True)
    return [one for one in found if not isinstance(one, BadImage)]
