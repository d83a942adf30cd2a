"""What an adapted model knows of its own reliability, from the answers that were held out in its trial."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from .. import taxonomy
from ..evaluation.selective_metrics import fit_confidence_threshold
from ..modeling.reliability_celluscan import COLOURS, CellFacts, MahalanobisScorer, Reliability, StoredFacts, conformity
from ..reliability.calibrate import RIGHT
from ..reliability.outliers import QUANTILE
from .trials import NEVER, Trial

_FOLDS = 5  # of the score, where a trial has none
Floats = NDArray[np.float64]


def facts_on(names: Sequence[str]) -> tuple[CellFacts, ...]:
    """What the taxonomy knows of each class; of a class of one's own it says nothing."""
    known = {cell.name: cell for cell in taxonomy.CLASSES}
    return tuple(known.get(name) or StoredFacts(name, name, None, "", None, False) for name in names)


def fitted_reliability(trial: Trial, source: Reliability, names: Sequence[str], features: Floats) -> Reliability:
    """Fit prediction sets, abstention and the OOD score to held-out answers.

    `features` with colours (n, D + 9) of all cells, by the adapted model. If no cell was held out, prediction sets hold
    all classes, and the confidence threshold is that of `source`. If a class has no cells it does not fall below that
    either: how sure the model is of the others says nothing of that one.
    """
    rows = trial.held_out
    probabilities = softmax(trial.logits[rows] / trial.temperature, axis=1)
    labels = trial.labels[rows]
    confident = source.confidence_threshold
    if len(labels):
        complete = len(np.unique(trial.labels)) == len(names)
        confident = max(fit_confidence_threshold(probabilities, labels, RIGHT), 0.0 if complete else confident)
    return replace(
        with_scorers(trial, source, features),
        classes=facts_on(names),
        scores=conformity(probabilities)[np.arange(len(labels)), labels] if len(labels) else np.empty(0),
        labels=labels,
        confidence_threshold=confident,
        record={},
    )


def with_scorers(trial: Trial, source: Reliability, features: Floats) -> Reliability:
    """Fit the OOD score to the cells of a trial, whose `features` (n, D + 9) the final model makes; keep the rest."""
    if len(features) < 2:  # nothing can be left out
        return source
    scorers, distances = zip(
        *(
            scaled_scorer(part, values, held_out, trial)
            for part, values, held_out in zip(source.scorers, _parts(features), _parts(trial.features), strict=True)
        ),
        strict=True,
    )
    threshold = float(np.quantile(np.max(distances, axis=0), QUANTILE))
    return replace(source, scorers=scorers, ood_threshold=threshold)


def scaled_scorer(
    source: MahalanobisScorer, values: Floats, held_out: Floats, trial: Trial
) -> tuple[MahalanobisScorer, Floats]:
    """Fit a scorer to the `values` (n, D) of all cells, scaled so that few held-out ones exceed 1.

    Also returns the distances (m,) of the held-out cells, each by a scorer without its fold; of all if the trial held
    none out.
    """
    scorer = fit_scorer(source, values, trial.labels)
    fold = trial.fold
    if len(np.unique(fold[trial.held_out])) < 2:  # the trial held nothing out, or fitted nothing
        fold = np.arange(len(values)) % _FOLDS
    distances = np.empty(len(values))
    for number in np.unique(fold[fold != NEVER]):
        inside = fold == number
        without = fit_scorer(source, held_out[~inside], trial.labels[~inside])
        distances[inside] = without.distance(held_out[inside])
    distances = distances[fold != NEVER]
    limit = max(float(np.quantile(distances, QUANTILE)), 1e-12)
    return replace(scorer, whitening=scorer.whitening / limit**0.5), distances / limit


def fit_scorer(source: MahalanobisScorer, values: Floats, labels: NDArray[np.int64]) -> MahalanobisScorer:
    """Class centres of new cells beside those of the source; the covariance of few cells is filled up by the source's.

    The source's counts as many cells as there are features, scaled to the variance of the new cells.
    """
    found, class_of = np.unique(labels, return_inverse=True)
    centres = np.stack([values[labels == label].mean(axis=0) for label in found])
    residuals = values - centres[class_of]
    freedom = max(len(values) - len(centres), 1)
    width = values.shape[1]
    known = np.linalg.inv(source.whitening @ source.whitening.T)
    variance = (residuals**2).sum() / freedom
    known *= max(variance, 1e-12) / np.trace(known)
    covariance = (residuals.T @ residuals + width * known) / (freedom + width)
    whitening = np.linalg.cholesky(np.linalg.inv(covariance))
    return MahalanobisScorer(np.vstack((source.centres, centres)), whitening)


def _parts(features: Floats) -> tuple[Floats, Floats]:
    return features[:, :-COLOURS], features[:, -COLOURS:]
