"""Counts, shares and hints of several cells, and how the page words them."""

import pytest

from celluscan_hf.space.answer import answer
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


@pytest.mark.parametrize(("bands", "shifted"), [(10, False), (12, True)])
def test_a_left_shift_is_hinted_at(bands: int, shifted: bool) -> None:
    text = page(BNE=bands - 2, MMY=1, IG=1, SNE=100 - bands)
    assert f"Bands and younger: {bands} of 100" in text
    assert ("left shift" in text) is shifted


def test_what_is_not_expected_in_healthy_blood_is_named() -> None:
    text = page(SNE=8, MYO=2)
    assert "Not expected in the blood of a healthy adult: Myeloblast 2" in text
    assert "No diagnosis" in text
    assert "Not expected" not in page(SNE=8, LY=2)


def test_neutrophils_that_were_not_named_further_are_said() -> None:
    assert "3 may be bands or segmented" in page(NEU=3, LY=2)


def test_cells_without_a_share_are_said_and_no_white_cell_is_no_error() -> None:
    text = page(PLT=3, ERB=2)
    assert "Not in these shares: erythroblasts 2, platelets 3" in text
    assert "<table>" not in text
    assert "per 100" not in text
    assert "Erythroblasts per 100 white cells: 50" in page(ERB=2, LY=4)


def test_one_answer_is_no_differential() -> None:
    assert page(LY=1) == ""
    assert counts([Result("a", problem="broken"), Result("b", answers(LY=1)[0], doubt="it is green")]) == ""
