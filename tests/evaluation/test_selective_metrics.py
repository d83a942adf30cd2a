import numpy as np
import pytest

from celluscan_hf.evaluation.selective_metrics import brier, fit_confidence_threshold, risk_coverage, set_metrics
from celluscan_hf.modeling.reliability_celluscan import MahalanobisScorer, Reliability
from celluscan_hf.taxonomy import CLASSES


def test_the_brier_score_is_the_squared_distance_from_the_truth() -> None:
    assert brier(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0])) == pytest.approx((2 + 0.5) / 2)


def test_answers_from_the_least_sure_probability_on_are_right_as_often_as_wanted() -> None:
    probabilities = np.array([[p, 1 - p] for p in (0.95, 0.9, 0.8, 0.7, 0.6)])
    assert fit_confidence_threshold(probabilities, np.array([0, 0, 0, 1, 1]), 0.95) == 0.8
    assert fit_confidence_threshold(probabilities, np.array([0, 0, 0, 1, 0]), 0.8) == 0.6
    assert fit_confidence_threshold(probabilities, np.array([1, 1, 1, 1, 1]), 0.95) == 0.99


def test_the_surest_are_answered_first(predicted) -> None:
    metrics = risk_coverage(predicted([("BA", "BA", 0.9), ("LY", "LY", 0.8), ("MO", "LY", 0.7), ("EO", "BA", 0.6)]))
    assert metrics["share"] == [0.25, 0.5, 0.75, 1.0]
    assert metrics["accuracy"] == pytest.approx([1, 1, 2 / 3, 0.5])
    assert metrics["aurc"] == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_sets_are_counted_over_all_and_by_class_in_the_order_of_the_model(predicted) -> None:
    cells = predicted([("BA", "BA", 0.9), ("LY", "MO", 0.9), ("MO", "MO", 0.6)])
    model = tuple(reversed(CLASSES))
    reliability = Reliability(
        model, np.linspace(0, 0.95, 99), np.zeros(99, int), (MahalanobisScorer(np.zeros((1, 1)), np.eye(1)),), 1.0, 0.7
    )
    metrics = set_metrics(cells, reliability)
    assert [row["asked"] for row in metrics] == [0.9, 0.95]
    assert metrics[0]["coverage"] == pytest.approx(2 / 3)
    assert metrics[0]["per_class"] == {"Basophil": 1.0, "Lymphocyte": 0.0, "Monocyte": 1.0}
    assert metrics[0]["size"] == metrics[0]["single"] == 1
