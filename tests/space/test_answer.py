from dataclasses import replace

import numpy as np
import pytest

from celluscan_hf.modeling.reliability_celluscan import Certainty, MahalanobisScorer, Reliability, StoredFacts
from celluscan_hf.space.answer import answer
from celluscan_hf.space.page import record
from celluscan_hf.space.pictures import maturation
from celluscan_hf.space.recogniser import Result
from celluscan_hf.space.texts import background, card, table
from celluscan_hf.taxonomy import CLASSES, lookup


def shares(**given: float) -> list[float]:
    return [given.get(cell.code, 0.0) for cell in CLASSES]


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
def test_the_parent_is_named_if_children_compete(given: dict[str, float], parent: str, children: str) -> None:
    cell_answer = answer(shares(**given))
    assert (cell_answer.certainty, cell_answer.headline) == (Certainty.PARENT, parent)
    assert cell_answer.sentence.startswith(f"{children}: the model is unsure which")
    assert cell_answer.score == pytest.approx(1 - given["LY"])


def test_doubt_between_unrelated_classes_is_worded() -> None:
    cell_answer = answer(shares(MO=0.45, LY=0.4, BA=0.15))
    assert (cell_answer.certainty, cell_answer.headline) == (Certainty.UNSURE, "Unsure: Monocyte or Lymphocyte")
    assert "guess" in cell_answer.sentence
    assert answer(shares(BNE=0.3, SNE=0.3, LY=0.4)).certainty is Certainty.UNSURE
    clear = answer(shares(BA=0.9, LY=0.1))
    assert (clear.certainty, clear.headline, clear.score) == (Certainty.CLASS, "Basophil", pytest.approx(0.9))


def test_a_parent_that_competes_with_one_child_is_named_with_it() -> None:
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
    cell_answer = answer(shares(**given))
    assert cell_answer.sentence == sentence
    named = [cell for cell in CLASSES if cell.name in sentence.partition(":")[0].replace(" or ", ", ").split(", ")]
    assert f"{sum(given.get(cell.code, 0.0) for cell in named):.0%}" in sentence


RELIABILITY = Reliability(
    CLASSES, np.linspace(0, 0.9, 99), np.zeros(99, int), (MahalanobisScorer(np.zeros((1, 2)), np.eye(2)),), 1.0, 0.5
)


def test_a_calibrated_model_adds_its_set() -> None:
    cell_answer = answer(shares(MO=0.6, LY=0.4), RELIABILITY, np.array([0.1, 0.0]))
    assert (cell_answer.certainty, cell_answer.prediction_set) == (Certainty.CLASS, ("Monocyte", "Lymphocyte"))
    assert "Monocyte or Lymphocyte: such sets" in card(Result("a.png", cell_answer))


def test_abnormal_is_the_sum_over_its_classes() -> None:
    cell_answer = answer(shares(PMY=0.3, ERB=0.3, LY=0.4))
    assert cell_answer.abnormal == pytest.approx(0.6)
    assert cell_answer.flagged
    assert not answer(shares(PMY=0.3, LY=0.7)).flagged


def test_the_maturation_stages_have_a_text_alternative() -> None:
    drawing = maturation(answer(shares(MY=0.75, MMY=0.25)))
    assert "Myelocyte: stage 3 of 6" in drawing
    assert "Metamyelocyte 25%" in drawing
    assert drawing.count("<circle") == 12
    assert "lymphoid lineage, not a stage" in maturation(answer(shares(LY=1.0)))


def test_a_cell_unlike_those_of_the_training_laboratories_gets_its_class_with_a_hint() -> None:
    cell_answer = answer(shares(ERB=0.9, LY=0.1), RELIABILITY, np.array([3.0, 0.0]))
    assert (cell_answer.certainty, cell_answer.headline) == (Certainty.CLASS, "Erythroblast")
    assert cell_answer.hint.startswith("Unlike the cells that the model was trained on, as of another microscope")
    assert cell_answer.flagged
    assert cell_answer.prediction_set == ()  # its coverage holds for cells like those of the calibration
    result = Result("cell.png", answer=cell_answer)
    assert background(result)
    assert cell_answer.hint in card(result)
    assert cell_answer.hint in table([result])
    row = record(result)
    assert (row["answer"], row["code"], row["set"], row["hint"]) == ("Erythroblast", "ERB", [], cell_answer.hint)


def test_no_class_is_shown_for_what_is_no_stained_cell() -> None:
    result = Result("cat.png", answer=answer(shares(ERB=0.9, LY=0.1)), doubt="it looks like a photograph")
    assert "No class is given, because it looks like a photograph." in card(result)
    for text in (card(result), table([result]), background(result)):
        assert "Erythroblast" not in text
    assert record(result)["answer"] is None


def test_the_maturation_stages_are_drawn_if_the_cell_may_be_one() -> None:
    assert "<svg" in card(Result("cell.png", answer=answer(shares(MO=0.8, MMY=0.2))))
    assert "<svg" not in card(Result("cell.png", answer=answer(shares(MO=0.95, MMY=0.05))))


def test_lineages_of_both_are_named_if_unrelated_classes_compete() -> None:
    assert "Lineage: monocytic or lymphoid" in card(Result("a.png", answer=answer(shares(MO=0.55, LY=0.45))))


def test_a_class_of_ones_own_is_answered_without_facts_on_it() -> None:
    own = StoredFacts("Smudge <cell>", "Smudge <cell>", None, "", None, False)
    known = replace(RELIABILITY, classes=(own, lookup("SNE")))
    cell_answer = answer([0.8, 0.2], known, np.array([0.1, 0.0]))
    assert cell_answer.headline == "Smudge <cell>"
    result = Result("cell.png", answer=cell_answer)
    assert "Smudge &lt;cell&gt;" in card(result)
    assert "Lineage" not in card(result)
    assert "Smudge &lt;cell&gt;: not a stage" in maturation(cell_answer)
    assert background(result) == ""
    assert "Smudge &lt;cell&gt;" in table([result, result])
