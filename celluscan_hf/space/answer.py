"""From probabilities to what is said: a class, its parent where children compete, or that the model is unsure."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ..taxonomy import CLASSES, CellClass

SURE = 0.7  # from this probability on an answer is given without doubt; not tuned
_COMPETES = 0.1  # a child with less is not named
ABNORMAL = 0.5  # from this sum of probabilities on a cell is flagged; not tuned


class Certainty(Enum):
    """How far an answer goes."""

    CLASS = "sure of the class"
    PARENT = "sure of the parent class only"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Answer:
    """What is said of one cell.

    - `ranking`: all classes with their probabilities, likeliest first.
    - `headline`: the answer in a few words; `sentence` says how sure the model is of it.
    - `score`: the probability of the headline; where unsure, of the likeliest class.
    - `abnormal`: the probability that the cell is of a class not expected in the blood of a healthy adult.
    """

    ranking: tuple[tuple[CellClass, float], ...]
    certainty: Certainty
    headline: str
    score: float
    sentence: str
    abnormal: float

    @property
    def best(self) -> CellClass:
        return self.ranking[0][0]

    @property
    def flagged(self) -> bool:
        return self.abnormal >= ABNORMAL


def answer(probabilities: Sequence[float]) -> Answer:
    """The answer for the probabilities of the 14 classes, in their order."""
    scored = zip(CLASSES, map(float, probabilities), strict=True)
    ranking = tuple(sorted(scored, key=lambda pair: -pair[1]))
    abnormal = sum(probability for cell, probability in ranking if cell.abnormal_in_blood)
    return Answer(ranking, *_said(ranking), abnormal)


def _said(ranking: tuple[tuple[CellClass, float], ...]) -> tuple[Certainty, str, float, str]:
    (best, probability), (second, _) = ranking[:2]
    if probability >= SURE:
        return Certainty.CLASS, best.name, probability, f"The model gives this class {_percent(probability)}."
    parent = best.parent or best.name
    family = [(cell, share) for cell, share in ranking if parent in (cell.name, cell.parent)]
    together = sum(share for _, share in family)
    if len(family) > 1 and together >= SURE:
        competing = [
            cell.name for cell, share in family if cell.name != parent and share >= _COMPETES
        ]  # likeliest first
        return (
            Certainty.PARENT,
            parent,
            together,
            f"{' or '.join(competing)}: the model is unsure which, but gives them {_percent(together)} together.",
        )
    return (
        Certainty.UNSURE,
        f"Unsure: {best.name} or {second.name}",
        probability,
        f"The likeliest class has only {_percent(probability)}. Take this as a guess.",
    )


def _percent(share: float) -> str:
    return "over 99%" if share > 0.99 else f"{share:.0%}"
