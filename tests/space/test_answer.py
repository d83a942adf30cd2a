import numpy as np
import pytest

from celluscan_hf.modeling.reliability_celluscan import Certainty, MahalanobisScorer, Reliability
from celluscan_hf.space.answer import answer
from celluscan_hf.space.page import record
from celluscan_hf.space.pictures import maturation
from celluscan_hf.space.recogniser import Seen
from celluscan_hf.space.texts import background, result
from celluscan_hf.taxonomy import CLASSES


def shares(**given: float) -> list[float]:
    return [given.get(cell.code, 0.0) for cell in CLASSES]


def test_a_clear_case_is_named() -> None:
    said = answer(shares(BA=0.9, LY=0.1))
    assert (said.certainty, said.headline) == (Certainty.CLASS, "Basophil")
    assert said.ranking[0][0].code == "BA"
    assert said.score == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("given", "parent", "children"),
    [
        ({"BNE": 0.5, "SNE": 0.4, "LY": 0.1}, "Neutrophil", "Band Neutrophil or Segmented Neutrophil"),
        (
            {"NEU": 0.3, "SNE": 0.4, "BNE": 0.2, "LY": 0.1},
            "Neutrophil",
            "Segmented Neutrophil, Neutrophil or Band Neutrophil",
        ),
        ({"MY": 0.4, "MMY": 0.35, "LY": 0.25}, "Immature Granulocyte", "Myelocyte or Metamyelocyte"),
    ],
)
def test_the_parent_is_offered_where_children_compete(given: dict[str, float], parent: str, children: str) -> None:
    said = answer(shares(**given))
    assert (said.certainty, said.headline) == (Certainty.PARENT, parent)
    assert said.sentence.startswith(f"{children}: the model is unsure which")
    assert said.score == pytest.approx(1 - given["LY"])


def test_doubt_between_strangers_is_said_in_words() -> None:
    said = answer(shares(MO=0.45, LY=0.4, BA=0.15))
    assert (said.certainty, said.headline) == (Certainty.UNSURE, "Unsure: Monocyte or Lymphocyte")
    assert "guess" in said.sentence


def test_a_parent_that_competes_with_one_child_is_named_beside_it() -> None:
    assert answer(shares(NEU=0.6, BNE=0.396, SNE=0.002)).sentence.startswith("Neutrophil or Band Neutrophil: the model")
    assert answer(shares(NEU=0.65, BNE=0.09, SNE=0.09, LY=0.17)).sentence == "The model gives it and its children 83%."


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"NEU": 0.563, "BNE": 0.375, "SNE": 0.033, "LY": 0.029},
            "Neutrophil, Band Neutrophil or Segmented Neutrophil: the model is unsure which, but gives them "
            "97% together.",
        ),
        (
            {"IG": 0.3, "MY": 0.3, "MMY": 0.2, "PMY": 0.05, "LY": 0.15},
            "Immature Granulocyte, Myelocyte, Metamyelocyte or Promyelocyte: the model is unsure which, but gives them "
            "85% together.",
        ),
        (
            {"MY": 0.45, "MMY": 0.35, "PMY": 0.001, "LY": 0.199},
            "Myelocyte or Metamyelocyte: the model is unsure which, but gives them 80% together.",
        ),
    ],
)  # fmt: skip
def test_the_classes_named_are_those_that_are_summed(given: dict[str, float], sentence: str) -> None:
    said = answer(shares(**given))
    assert said.sentence == sentence
    named = [cell for cell in CLASSES if cell.name in sentence.partition(":")[0].replace(" or ", ", ").split(", ")]
    assert f"{sum(given.get(cell.code, 0.0) for cell in named):.0%}" in sentence


def test_children_that_do_not_reach_far_together_are_no_parent() -> None:
    assert answer(shares(BNE=0.3, SNE=0.3, LY=0.4)).certainty is Certainty.UNSURE


KNOWN = Reliability(
    CLASSES, np.linspace(0, 0.9, 99), np.zeros(99, int), (MahalanobisScorer(np.zeros((1, 2)), np.eye(2)),), 1.0, 0.5
)


def test_a_calibrated_model_adds_its_set() -> None:
    said = answer(shares(MO=0.6, LY=0.4), KNOWN, np.array([0.1, 0.0]))
    assert (said.certainty, said.within) == (Certainty.CLASS, ("Monocyte", "Lymphocyte"))
    assert "Monocyte or Lymphocyte: such sets" in result(Seen("a.png", said))


def test_abnormal_is_the_sum_over_its_classes() -> None:
    said = answer(shares(PMY=0.3, ERB=0.3, LY=0.4))
    assert said.abnormal == pytest.approx(0.6)
    assert said.flagged
    assert not answer(shares(PMY=0.3, LY=0.7)).flagged


def test_the_line_of_maturation_tells_its_stages_in_words_too() -> None:
    drawn = maturation(answer(shares(MY=0.75, MMY=0.25)))
    assert "Myelocyte: stage 3 of 6" in drawn
    assert "Metamyelocyte 25%" in drawn
    assert drawn.count("<circle") == 12
    assert "lymphoid lineage, not on the line" in maturation(answer(shares(LY=1.0)))


def test_what_is_strange_to_the_model_gets_no_class_no_flag_and_no_set() -> None:
    said = answer(shares(ERB=0.9, LY=0.1), KNOWN, np.array([3.0, 0.0]))
    assert said.certainty is Certainty.OUT_OF_DISTRIBUTION
    assert said.headline == "Unlike the cells the model knows"
    assert "Erythroblast" in said.sentence
    assert not said.flagged
    assert said.within == ()
    seen = Seen("cell.png", answer=said)
    assert background(seen) == ""
    assert "Lineage" not in result(seen)
    row = record(seen)
    assert (row["certainty"], row["code"], row["set"]) == ("out of distribution", None, [])
    assert row["note"] == said.sentence


def test_the_line_of_maturation_is_drawn_where_the_cell_may_be_on_it() -> None:
    assert "<svg" in result(Seen("cell.png", answer=answer(shares(MO=0.8, MMY=0.2))))
    assert "<svg" not in result(Seen("cell.png", answer=answer(shares(MO=0.95, MMY=0.05))))


def test_lineages_of_both_are_named_where_two_strangers_compete() -> None:
    assert "Lineage: monocytic or lymphoid" in result(Seen("a.png", answer=answer(shares(MO=0.55, LY=0.45))))
