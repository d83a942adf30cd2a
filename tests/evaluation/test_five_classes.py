"""The five white cells of nearly all datasets, against scikit-learn."""

from collections.abc import Callable

import pytest
from sklearn.metrics import f1_score

from celluscan_hf.evaluation.five_classes import FIVE, five_classes
from celluscan_hf.evaluation.predictions import Predictions

OUTCOMES = [
    *[("BNE", "SNE", 0.9)] * 3,  # both Neutrophil
    ("SNE", "EO", 0.8),
    ("NEU", "MMY", 0.5),  # none of the five, so a mistake
    *[("LY", "LY", 0.7)] * 4,
    ("LY", "MO", 0.6),
    *[("BA", "BA", 0.99)] * 2,
    ("BA", "PLT", 0.9),
    ("EO", "EO", 0.9),
    *[("PLT", "PLT", 0.9)] * 5,  # left out
]


def test_finer_labels_and_answers_count_as_their_parent(predicted: Callable[..., Predictions]) -> None:
    metrics = five_classes(predicted(OUTCOMES), resamples=0)
    assert metrics is not None
    assert metrics["n"] == 14
    true = "NNNNNLLLLLBBBE"
    answered = "NNNE?LLLLMBB?E"
    expected = f1_score(list(true), list(answered), average="macro", labels=list("BELN"), zero_division=0)
    assert metrics["any_answer"]["macro_f1"] == pytest.approx(expected)
    assert set(metrics["any_answer"]["per_class"]) == set(FIVE)


def test_told_that_it_is_one_of_five_other_answers_do_not_count(predicted: Callable[..., Predictions]) -> None:
    cells = predicted([("BA", "PLT", 0.9), ("LY", "LY", 0.9)])
    cells.probabilities[0, [1, 11]] += (0.05, -0.05)  # Basophil before the other four, and after Platelet
    metrics = five_classes(cells, resamples=0)
    assert metrics is not None
    assert metrics["any_answer"]["accuracy"] == 0.5
    assert metrics["told_five"]["accuracy"] == 1


def test_no_cell_of_the_five_gives_nothing(predicted: Callable[..., Predictions]) -> None:
    assert five_classes(predicted([("PLT", "PLT", 0.9)])) is None
