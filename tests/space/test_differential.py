"""Counts, shares and hints of several cells, and how the page words them."""

import pytest

from celluscan_hf.modeling.reliability_celluscan import Certainty, StoredFacts
from celluscan_hf.space.answer import Answer, answer
from celluscan_hf.space.differential import differential
from celluscan_hf.space.recogniser import Result
from celluscan_hf.space.texts import counts
from celluscan_hf.taxonomy import CLASSES


def answers(**numbers: int) -> list:
    """So many sure answers of each code; `unsure` of none."""
    shares = {code: [1.0 * (cell.code == code) for cell in CLASSES] for code in numbers}
    shares["unsure"] = [1 / len(CLASSES)] * len(CLASSES)
    return [answer(shares[code]) for code, number in numbers.items() for _ in range(number)]


def page(**numbers: int) -> str:
    return counts([Result(str(index), given) for index, given in enumerate(answers(**numbers))])


def test_white_cells_make_a_hundred_percent() -> None:
    counted = differential(answers(SNE=60, LY=30, MO=10, ERB=5, PLT=40, unsure=3))
    assert counted.white == 100
    assert [(share.name, share.cells) for share in counted.shares] == [
        ("Segmented Neutrophil", 60),
        ("Monocyte", 10),
        ("Lymphocyte", 30),
    ]
    assert sum(share.share for share in counted.shares) == pytest.approx(1)
    assert (counted.erythroblasts, counted.platelets, counted.unsure) == (5, 40, 3)
    assert counted.abnormal == {"Erythroblast": 5}


def test_intervals_are_wilsons() -> None:
    (share,) = [share for share in differential(answers(SNE=60, LY=40)).shares if share.name == "Lymphocyte"]
    assert (share.low, share.high) == pytest.approx((0.3094, 0.4980), abs=1e-4)
    (every,) = differential(answers(LY=2)).shares
    assert every.high == 1
    assert every.low < 0.35


def test_a_left_shift_is_hinted_at_if_enough_cells_say_so() -> None:
    text = page(BNE=18, MMY=1, IG=1, SNE=80)
    assert "Bands to promyelocytes: 20 of 100, 20% (13%–29%)" in text
    assert "<strong>left shift</strong>" in text
    assert "left shift" not in page(BNE=8, SNE=92)
    assert "too few to say" in page(BNE=1, SNE=1)


def test_what_may_be_immature_is_said_too() -> None:
    assert "up to 60% if all 60 neutrophils that may be bands" in page(NEU=60, SNE=40)
    torn = answer([0.5 * (cell.code in ("MMY", "BNE")) for cell in CLASSES])
    counted = differential([*answers(SNE=20), *[torn] * 3])
    assert (counted.unsure, counted.unsure_immature) == (3, 3)
    assert "of the unsure cells 3 more" in counts([Result("a", given) for given in [*answers(SNE=20), *[torn] * 3]])


def test_what_is_not_expected_in_healthy_blood_is_named_also_if_unsure() -> None:
    text = page(SNE=8, MYO=2)
    assert "Not expected in the blood of a healthy adult: Myeloblast 2." in text
    assert "No diagnosis" in text
    assert "Not expected" not in page(SNE=8, LY=2)
    torn = answer([0.5 * (cell.code in ("MYO", "PMY")) for cell in CLASSES])
    assert "adult: of the unsure cells probably 1." in counts([Result("a", given) for given in [*answers(LY=2), torn]])


def test_classes_of_ones_own_are_named() -> None:
    own = StoredFacts("Smudge <cell>", "", None, "", None, False)
    seen = Answer(((own, 0.9),), Certainty.CLASS, own.name, 0.9, "", 0.0)
    assert differential([seen, seen]).own == (own.name,)
    assert "classes of your own: Smudge &lt;cell&gt;" in counts([Result("a", seen), Result("b", seen)])


def test_cells_without_a_share_are_said_and_no_white_cell_is_no_error() -> None:
    text = page(PLT=3, ERB=2)
    assert "Beside the white cells: erythroblasts 2, platelets 3" in text
    assert "<table>" not in text
    assert "per 100" not in text
    assert "Erythroblasts per 100 white cells: 8" in page(ERB=2, LY=24)
    assert "per 100 white" not in page(ERB=2, LY=4)
    assert "of 4 white cells; 2 unsure, in no share" in page(LY=4, unsure=2)


def test_one_answer_is_no_differential() -> None:
    assert page(LY=1) == ""
    assert counts([Result("a", problem="broken"), Result("b", answers(LY=1)[0], doubt="it is green")]) == ""
