"""The differential of several cells: counts and shares by class, as in a count at the microscope.

White cells make 100 %. Erythroblasts are counted per 100 of them, platelets beside them. Intervals are Wilson's, of the
count alone: even without a mistake of the model, few cells say little (Rümke 1985, Blood Cells 11, 131).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..evaluation.intervals import wilson
from ..evaluation.plots import ORDER
from ..modeling.reliability_celluscan import ABNORMAL, Certainty
from ..taxonomy import CLASSES
from .answer import Answer

LEFT_SHIFT = 0.1  # share of immature forms that is often called so (Bone et al. 1992, Chest 101, 1644)
_NO_WHITE_CELL = ("erythroid", "megakaryocytic")
_FACTS = {cell.name: cell for cell in CLASSES}
_IMMATURE = {cell.name for cell in CLASSES if cell.stage in (2, 3, 4, 5)} | {"Immature Granulocyte"}
_IN_ORDER = [cell.name for cell in ORDER]


@dataclass(frozen=True)
class Share:
    """A number of cells of a class, and its share of the white cells with a 95 % interval, all in [0, 1]."""

    name: str
    cells: int
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Differential:
    """What several answers amount to.

    - `white`: number of white cells with an answer; `shares`: their classes, those that occur.
    - `erythroblasts`, `platelets`: their numbers; `unsure`: cells without a class, which are in no share.
    - `own`: classes of the user's own among the white cells, of which nothing else is known.
    - `immature`: bands, metamyelocytes, myelocytes and promyelocytes together; None without white cells.
    - `unresolved`: neutrophils that may be bands or segmented.
    - `abnormal`: classes not expected in the blood of a healthy adult, with their numbers of cells.
    - `unsure_abnormal`, `unsure_immature`: unsure cells that are probably of one of these classes all the same.
    - `out_of_distribution`: cells unlike those of the training laboratories.
    """

    white: int
    shares: tuple[Share, ...]
    erythroblasts: int
    platelets: int
    unsure: int
    own: tuple[str, ...]
    immature: Share | None
    unresolved: int
    abnormal: dict[str, int]
    unsure_abnormal: int
    unsure_immature: int
    out_of_distribution: int


def differential(answers: Sequence[Answer]) -> Differential:
    """Count answers by class; a class of the user's own is a white cell."""
    answered = [answer for answer in answers if answer.certainty is not Certainty.UNSURE]
    unsure = [answer for answer in answers if answer.certainty is Certainty.UNSURE]
    counts = Counter(answer.headline for answer in answered)
    white = {name: number for name, number in counts.items() if _is_white(name)}
    total = sum(white.values())
    immature = sum(number for name, number in white.items() if name in _IMMATURE)
    return Differential(
        white=total,
        shares=tuple(_share(name, white[name], total) for name in sorted(white, key=_position)),
        erythroblasts=counts["Erythroblast"],
        platelets=counts["Platelet"],
        unsure=len(unsure),
        own=tuple(sorted(name for name in white if name not in _FACTS)),
        immature=_share("bands to promyelocytes", immature, total) if total else None,
        unresolved=counts["Neutrophil"],
        abnormal={name: counts[name] for name in _IN_ORDER if counts[name] and _FACTS[name].abnormal_in_blood},
        unsure_abnormal=sum(1 for answer in unsure if answer.flagged),
        unsure_immature=sum(1 for answer in unsure if _probably_immature(answer)),
        out_of_distribution=sum(1 for answer in answers if answer.hint),
    )


def _probably_immature(answer: Answer) -> bool:
    return sum(share for cell, share in answer.ranking if cell.name in _IMMATURE) >= ABNORMAL


def _is_white(name: str) -> bool:
    return name not in _FACTS or _FACTS[name].lineage not in _NO_WHITE_CELL


def _position(name: str) -> tuple[int, str]:
    return (_IN_ORDER.index(name) if name in _FACTS else len(_IN_ORDER), name)


def _share(name: str, cells: int, total: int) -> Share:
    return Share(name, cells, cells / total, *wilson(cells / total, total))
