"""Intervals are those of the textbook for independent cells, and wider for cells that belong together."""

import numpy as np
import pytest
from scipy.stats import binomtest

from celluscan_hf.evaluation.intervals import bootstrap, effective_number, proportion, wilson


@pytest.mark.parametrize(("hits", "count"), [(7, 10), (0, 6), (17, 17), (150, 195)])
def test_a_share_of_independent_cells_has_the_interval_of_wilson(hits, count):
    expected = binomtest(hits, count).proportion_ci(method="wilson")
    assert wilson(hits / count, count) == pytest.approx([expected.low, expected.high])


def test_a_class_without_a_mistake_keeps_an_interval():
    low, high = proportion(np.ones(6, bool), np.arange(6))
    assert (round(low, 2), high) == (0.61, 1.0)


def test_no_cells_have_no_interval():
    assert proportion(np.ones(0, bool), np.arange(0)) is None


def test_copies_count_as_often_as_their_originals():
    hits = np.random.default_rng(0).random(200) < 0.7
    alone = effective_number(hits, np.arange(200))
    assert alone == pytest.approx(200, rel=0.01)
    assert effective_number(np.repeat(hits, 10), np.repeat(np.arange(200), 10)) == pytest.approx(alone, rel=0.01)


def test_copies_without_a_mistake_count_as_their_groups():
    assert effective_number(np.ones(50, bool), np.repeat(np.arange(5), 10)) == 5


def test_a_group_that_is_right_as_often_as_all_does_not_give_more_cells_than_there_are():
    hits, groups = np.array([True, False] * 10), np.repeat(np.arange(10), 2)
    assert effective_number(hits, groups) == 20


def test_a_bootstrap_holds_the_mean_and_repeats():
    values = np.random.default_rng(0).normal(3, 1, 300)

    def mean(weights):
        return float((weights * values).sum() / weights.sum())

    low, high = bootstrap(mean, np.arange(300), 400)
    assert high - low == pytest.approx(2 * 1.96 / np.sqrt(300), rel=0.15)
    assert low < values.mean() < high
    assert bootstrap(mean, np.arange(300), 400) == [low, high]


def test_a_bootstrap_draws_groups_whole():
    values, groups = np.repeat([0.0, 1.0], 100), np.repeat([0, 1], 100)
    assert bootstrap(lambda weights: float((weights * values).sum() / weights.sum()), groups, 200) == [0.0, 1.0]


def test_no_resamples_give_no_interval():
    assert bootstrap(lambda weights: 0.0, np.arange(3), 0) is None
