"""What the page says of one cell: the verdict that everything of this project gives, in a headline and a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..modeling.reliability_celluscan import ABNORMAL, SURE, Certainty, Decision, Reliability, decide
from ..taxonomy import CLASSES, CellClass

OUT_OF_DISTRIBUTION = "Unlike the cells the model knows"


@dataclass(frozen=True)
class Answer:
    """What is said of one cell.

    - `ranking`: all classes with their probabilities, likeliest first.
    - `headline`: the answer in a few words; `sentence` says how sure the model is of it.
    - `score`: the probability of the headline; where unsure, of the likeliest class.
    - `abnormal`: the probability that the cell is of a class not expected in the blood of a healthy adult.
    - `within`: the classes it may be, likeliest first; none where the model was not calibrated, or does not know such
      pictures.
    """

    ranking: tuple[tuple[CellClass, float], ...]
    certainty: Certainty
    headline: str
    score: float
    sentence: str
    abnormal: float
    within: tuple[str, ...] = ()

    @property
    def best(self) -> CellClass:
        return self.ranking[0][0]

    @property
    def flagged(self) -> bool:
        return self.abnormal >= ABNORMAL and self.certainty is not Certainty.OUT_OF_DISTRIBUTION


def answer(
    probabilities: Sequence[float],
    known: Reliability | None = None,
    features: NDArray[np.floating] | None = None,
) -> Answer:
    """The answer for the probabilities of the 14 classes, in their order.

    With what is known of a calibrated model, and what was read of the picture (D + 9,), also set and ood_score.
    """
    scored = zip(CLASSES, map(float, probabilities), strict=True)
    ranking = tuple(sorted(scored, key=lambda pair: -pair[1]))
    abnormal = sum(probability for cell, probability in ranking if cell.abnormal_in_blood)
    said = decide(ranking, SURE if known is None else known.confidence_threshold)
    worded = Answer(ranking, said.certainty, *_worded(said, ranking), abnormal)
    if known is None or features is None:
        return worded
    more = known.answer(np.asarray(probabilities, np.float64), features)
    if more["ood_score"] <= 1:
        return replace(worded, within=tuple(more["set"]))
    nearest = (
        f"Another stain or microscope, or no cell. The likeliest class is {ranking[0][0].name}, but nothing of the "
        "kind was among the pictures that the model learned from, so take it for no more than a guess."
    )
    return replace(worded, certainty=Certainty.OUT_OF_DISTRIBUTION, headline=OUT_OF_DISTRIBUTION, sentence=nearest)


def _worded(said: Decision, ranking: tuple[tuple[CellClass, float], ...]) -> tuple[str, float, str]:
    """Headline, score and sentence."""
    share = _percent(said.score)
    if said.certainty is Certainty.CLASS:
        return said.label, said.score, f"The model gives this class {share}."
    if said.certainty is Certainty.PARENT:
        if not said.competing:
            return said.label, said.score, f"The model gives it and its children {share}."
        named = _listed(_summed(said, ranking))
        return said.label, said.score, f"{named}: the model is unsure which, but gives them {share} together."
    headline = f"Unsure: {said.label} or {ranking[1][0].name}"
    return headline, said.score, f"The likeliest class has only {share}. Take this as a guess."


def _summed(said: Decision, ranking: tuple[tuple[CellClass, float], ...]) -> list[str]:
    """The classes of a family, likeliest first, without those that change nothing of its sum as it is shown."""
    family = [(cell.name, share) for cell, share in ranking if said.label in (cell.name, cell.parent)]
    fewest = next(
        count
        for count in range(2, len(family) + 1)
        if count == len(family) or _percent(sum(share for _, share in family[:count])) == _percent(said.score)
    )
    return [name for name, _ in family[:fewest]]


def _listed(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]])


def _percent(share: float) -> str:
    return "over 99%" if share > 0.99 else f"{share:.0%}"
