"""The answer of the demo page for one cell: the project's decision, worded as a headline and a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..modeling.reliability_celluscan import (
    ABNORMAL,
    CONFIDENCE_THRESHOLD,
    CellFacts,
    Certainty,
    Decision,
    Reliability,
    decide,
)
from ..taxonomy import CLASSES


@dataclass(frozen=True)
class Answer:
    """The answer for one cell.

    - `ranking`: all classes with their probabilities, likeliest first.
    - `headline`: the answer in a few words; `sentence` says how confident the model is.
    - `score`: the probability of the headline; if unsure, of the likeliest class.
    - `abnormal`: the probability of a class not expected in the blood of a healthy adult.
    - `prediction_set`: the classes it may be, likeliest first; empty if the model was not calibrated, or the cell is
      unlike those of the training laboratories, for which no coverage is known.
    - `hint`: what to know about the image; empty if nothing.
    """

    ranking: tuple[tuple[CellFacts, float], ...]
    certainty: Certainty
    headline: str
    score: float
    sentence: str
    abnormal: float
    prediction_set: tuple[str, ...] = ()
    hint: str = ""

    @property
    def best(self) -> CellFacts:
        return self.ranking[0][0]

    @property
    def flagged(self) -> bool:
        return self.abnormal >= ABNORMAL


def answer(
    probabilities: Sequence[float],
    reliability: Reliability | None = None,
    features: NDArray[np.floating] | None = None,
) -> Answer:
    """Answer for one cell from the probabilities of the 14 classes, in their order.

    With the calibration of the model and the features of the image (D + 9,), also use prediction set and OOD score; the
    classes are then those of the calibration.
    """
    hint: str | None = None
    shares: NDArray[np.floating] = np.asarray(probabilities, np.float64)
    if reliability is not None and features is not None:
        shares, _, hint = reliability.adjust(shares, features)
    classes = CLASSES if reliability is None else reliability.classes
    scored = zip(classes, map(float, shares), strict=True)
    ranking = tuple(sorted(scored, key=lambda pair: -pair[1]))
    abnormal = sum(probability for cell, probability in ranking if cell.abnormal_in_blood)
    decision = decide(ranking, CONFIDENCE_THRESHOLD if reliability is None else reliability.confidence_threshold)
    worded = Answer(ranking, decision.certainty, *_worded(decision, ranking), abnormal)
    if reliability is None or features is None:
        return worded
    if hint:
        return replace(worded, hint=hint)
    calibrated = reliability.answer(np.asarray(probabilities, np.float64), features)
    return replace(worded, prediction_set=tuple(calibrated["set"]))


def _worded(decision: Decision, ranking: tuple[tuple[CellFacts, float], ...]) -> tuple[str, float, str]:
    """Return headline, score and sentence."""
    share = _percent(decision.score)
    if decision.certainty is Certainty.CLASS:
        return decision.label, decision.score, f"The model gives this class {share}."
    if decision.certainty is Certainty.PARENT:
        if not decision.competing:
            return decision.label, decision.score, f"The model gives it and its children {share}."
        named = _listed(_summed(decision, ranking))
        return decision.label, decision.score, f"{named}: the model is unsure which, but gives them {share} together."
    headline = f"Unsure: {decision.label} or {ranking[1][0].name}"
    return headline, decision.score, f"The likeliest class has only {share}. Take this as a guess."


def _summed(decision: Decision, ranking: tuple[tuple[CellFacts, float], ...]) -> list[str]:
    """Return the classes of a family, likeliest first, without those that do not change its sum as shown."""
    family = [(cell.name, share) for cell, share in ranking if decision.label in (cell.name, cell.parent)]
    fewest = next(
        count
        for count in range(2, len(family) + 1)
        if count == len(family) or _percent(sum(share for _, share in family[:count])) == _percent(decision.score)
    )
    return [name for name, _ in family[:fewest]]


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]])


def _percent(share: float) -> str:
    return "over 99%" if share > 0.99 else f"{share:.0%}"
