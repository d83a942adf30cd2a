"""Mistakes along the maturation line, abnormal cells, hard sets: counted as their definitions say."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from celluscan_hf import taxonomy
from celluscan_hf.evaluation import clinical_metrics
from celluscan_hf.evaluation.intervals import wilson
from celluscan_hf.evaluation.measure import measure
from celluscan_hf.evaluation.selective_metrics import calibration_bins


def outcomes(*pairs):
    return [(*pair.split(">"), 0.9) for pair in pairs]


def test_stages_are_counted_by_their_distance(predicted):
    metrics = clinical_metrics.maturation(predicted(outcomes("MY>MY", "MY>PMY", "MY>MMY", "MYO>SNE", "PMY>MMY")))
    assert (metrics["exact"], metrics["adjacent"], metrics["distant"]) == (1, 2, 2)
    assert metrics["distances"] == {"0": 1, "1": 2, "2": 1, "3": 0, "4": 0, "5": 1}
    assert metrics["mean_distance"] == pytest.approx((0 + 1 + 1 + 5 + 2) / 5)
    assert metrics["adjacent_share"] == 0.5


def test_rates_are_of_all_cells_with_a_stage(predicted):
    cells = predicted(outcomes("MY>MY", "MY>PMY", "SNE>BNE", "MYO>SNE", "MY>IG", "LY>MY"))
    rates = clinical_metrics.maturation(cells)["rates"]
    ends = rates.pop("ci95")
    assert rates == {"exact": 0.2, "adjacent": 0.4, "distant": 0.2, "without_stage": 0.2}
    for name, rate in rates.items():
        assert ends[name] == pytest.approx(wilson(rate, 4))  # five cells, one degree of freedom less


def test_cells_that_left_the_line_are_no_stage_apart(predicted):
    metrics = clinical_metrics.maturation(predicted(outcomes("MY>LY", "MY>IG", "SNE>NEU", "MY>MY", "LY>MY")))
    assert (metrics["n"], metrics["with_stage"], metrics["without_stage"], metrics["to_parent"]) == (4, 1, 3, 2)
    assert metrics["adjacent_share"] is None and metrics["ci95"] is None


def test_without_staged_cells_there_is_no_line(predicted):
    assert clinical_metrics.maturation(predicted(outcomes("LY>LY", "LY>MY"))) is None


def test_a_name_finer_or_coarser_than_the_label_is_related(predicted):
    metrics = clinical_metrics.related_names(predicted(outcomes("NEU>SNE", "BNE>NEU", "MY>IG", "SNE>BNE", "LY>LY")))
    assert (metrics["n"], metrics["accuracy"]) == (3, 0.8)


def test_abnormal_cells_are_found_by_the_sum_of_their_classes(predicted):
    cells = predicted(outcomes("MY>MY", "LY>LY", "ERB>ERB", "MO>MO"))
    cells.probabilities[0] = 0
    cells.probabilities[0, [9, 12, 5]] = 0.3, 0.3, 0.4  # Myelocyte, Promyelocyte, Lymphocyte: the likeliest is normal
    metrics = clinical_metrics.abnormal(cells, 50)
    assert (metrics["n_abnormal"], metrics["n_normal"]) == (2, 2)
    assert (metrics["sensitivity"], metrics["specificity"], metrics["auc"]) == (1, 1, 1)


def test_area_is_the_share_of_ordered_pairs_of_weighted_cells_and_none_without_pairs():
    positive, score = np.array([True, True, False, False]), np.array([0.9, 0.4, 0.4, 0.1])
    assert clinical_metrics.area_under_roc(positive, score) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    weights = np.array([2.0, 0.0, 1.0, 1.0])
    assert clinical_metrics.area_under_roc(positive, score, weights) == 1
    assert np.isnan(clinical_metrics.area_under_roc(positive, score, np.array([1.0, 1.0, 0.0, 0.0])))


@pytest.mark.parametrize("decimals", [1, 8], ids=["many ties", "no ties"])
def test_area_equals_that_of_scikit_learn(decimals):
    rng = np.random.default_rng(0)
    positive, score = rng.random(300) < 0.3, rng.random(300).round(decimals)
    for weights in (None, rng.integers(0, 4, 300).astype(float), rng.random(300)):
        expected = roc_auc_score(positive, score, sample_weight=weights)
        assert clinical_metrics.area_under_roc(positive, score, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("pairs", [("MY>MY", "ERB>LY"), ("LY>MY", "MO>MO")])
def test_cells_all_abnormal_or_all_normal_say_nothing_on_detection(pairs, predicted):
    assert clinical_metrics.abnormal(predicted(outcomes(*pairs)), 10) is None


def test_a_hard_set_adds_up(predicted):
    cells = predicted(outcomes("MY>MY", "MY>PMY", "MY>LY", "PMY>PMY", "LY>MY", "EO>EO"))
    metrics = clinical_metrics.hard_sets(cells)
    assert list(metrics) == ["PMY/MY/MMY", "EO/NEU"]
    first = metrics["PMY/MY/MMY"]
    assert (first["n"], first["right"], first["confused"], first["left"]) == (4, 2, 1, 1)
    assert first["accuracy_within"] == pytest.approx(2 / 3)
    assert first["confusions"]["Myelocyte"] == {"Promyelocyte": 1, "Myelocyte": 1, "Metamyelocyte": 0}
    assert first["recall"]["Myelocyte"] == pytest.approx(1 / 3)


def test_a_class_of_a_hard_set_without_cells_has_no_recall(predicted):
    metrics = clinical_metrics.hard_sets(predicted(outcomes("EO>EO")))["EO/NEU"]
    assert (metrics["recall"]["Neutrophil"], metrics["support"]["Neutrophil"]) == (None, 0)


def test_calibration_bins_hold_all_cells_and_give_the_calibration_error(everything):
    metrics = calibration_bins(everything)
    assert sum(part["n"] for part in metrics) == len(everything)
    assert all(part["low"] <= part["confidence"] <= part["high"] for part in metrics)
    gaps = sum(part["n"] * abs(part["accuracy"] - part["confidence"]) for part in metrics) / len(everything)
    assert gaps == pytest.approx(measure(everything, 0)["ece"], abs=1e-6)


def test_every_class_has_a_recall_interval_or_none_where_it_has_no_cells(everything):
    metrics = measure(everything, 0)
    for name, part in metrics["per_class"].items():
        interval = metrics["recall_ci95"][name]
        if part["support"]:
            assert 0 <= interval[0] <= part["recall"] <= interval[1] <= 1
        else:
            assert (name, interval, part["recall"]) == ("Myeloblast", None, None)


def test_children_are_judged_as_their_parent_too(predicted):
    pairs = outcomes("NEU>SNE", "BNE>NEU", "SNE>BNE", "MY>IG", "PMY>MMY", "MYO>PMY", "LY>LY", "EO>NEU")
    metrics = measure(predicted(pairs, groups=list("aabbccdd")), 30)
    coarse = metrics["parent_level"]
    assert coarse["classes"] == [cell.name for cell in taxonomy.CLASSES if cell.parent is None]
    assert len(coarse["classes"]) == 9
    assert (metrics["accuracy"], coarse["accuracy"]) == (1 / 8, 6 / 8)
    assert coarse["balanced_accuracy"] == pytest.approx((1 + 1 + 0 + 1 + 0) / 5)  # NEU, IG, MYO, LY, EO
    assert coarse["macro_f1"] == pytest.approx((6 / 7 + 4 / 5 + 0 + 1 + 0) / 5)
    assert coarse["ci95"]["accuracy"][0] <= 6 / 8 <= coarse["ci95"]["accuracy"][1]
    assert "ci95" not in measure(predicted(pairs), 0)["parent_level"]


def test_always_the_most_frequent_class_is_what_accuracy_is_held_against(predicted):
    assert measure(predicted(outcomes("LY>LY", "LY>MO", "EO>EO")), 0)["majority_share"] == pytest.approx(2 / 3)
