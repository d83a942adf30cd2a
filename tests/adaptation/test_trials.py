"""Trials: a cell is never answered by a fit that saw its group, and scores do not depend on sureness."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from celluscan_hf.adaptation import trials as module
from celluscan_hf.adaptation.adapt import Start
from celluscan_hf.adaptation.cells import LabelledCells
from celluscan_hf.adaptation.head import fit_head
from celluscan_hf.adaptation.trials import NEVER, Trial, Trials, Way, deep, folds, head_for, with_head


@pytest.fixture
def way(start: Start, drawn: Path, read: Callable[..., LabelledCells]) -> Way:
    return Way(start.processor, start.model, False, read(drawn).pixels)


@pytest.fixture
def trials(start: Start, drawn: Path, read: Callable[..., LabelledCells]) -> Trials:
    cells = read(drawn)
    return Trials(cells, head_for(start.model, cells.names))


def test_a_group_is_in_one_fold_and_classes_are_in_several() -> None:
    labels = np.repeat([0, 1, 2], 8)
    groups = np.arange(24) // 2
    fold = folds(labels, groups, 10, seed=0)
    assert all(len(set(fold[groups == group])) == 1 for group in groups)
    assert all(len(set(fold[labels == label])) > 1 for label in labels)
    assert NEVER not in fold
    assert np.array_equal(fold, folds(labels, groups, 10, seed=0))


def test_the_cells_of_a_class_with_one_group_are_never_held_out() -> None:
    labels, groups = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 2, 3, 4, 4])
    fold = folds(labels, groups, 5, seed=0)
    assert (fold[labels == 2] == NEVER).all()
    assert (fold[labels != 2] != NEVER).all()


def test_with_one_cell_a_class_nothing_is_held_out() -> None:
    assert (folds(np.arange(4), np.arange(4), 5, seed=0) == NEVER).all()


def test_each_cell_is_answered_by_a_head_that_did_not_see_its_group(trials: Trials, way: Way) -> None:
    (trial,) = trials.heads(way, [1.0])
    cell = 4
    others = trial.fold != trial.fold[cell]
    assert trials.cells.groups[cell] not in trials.cells.groups[others]
    alone = fit_head(trials.source, way.looks[:, others], trials.cells.labels[others], 1.0)
    assert trial.logits[cell] == pytest.approx(alone(deep(way.features))[cell])


def test_cells_that_are_not_usable_are_answered_but_not_learned(trials: Trials, way: Way) -> None:
    usable = np.ones(len(trials.cells), bool)
    usable[:3] = False
    (fewer,) = trials.heads(way, [1.0], usable)
    others = usable & (fewer.fold != fewer.fold[10])
    alone = fit_head(trials.source, way.looks[:, others], trials.cells.labels[others], 1.0)
    assert fewer.logits[10] == pytest.approx(alone(deep(way.features))[10])


def test_the_score_does_not_depend_on_how_sure_the_answers_are(trials: Trials, way: Way) -> None:
    (trial,) = trials.heads(way, [1.0])
    assert replace(trial, logits=7 * trial.logits).score == pytest.approx(trial.score, rel=1e-4)
    wrong = replace(trial, logits=np.roll(trial.logits, 1, axis=1))
    assert wrong.score > trial.score


def test_layers_are_trained_without_the_fold_that_they_answer(trials: Trials, way: Way) -> None:
    (head,), seen = trials.heads(way, [1.0]), []

    def train(start: object, rows: np.ndarray) -> torch.nn.Module:
        seen.append(rows)
        return with_head(way.model, start, trials.cells.names)  # type: ignore[arg-type]

    trial = trials.layers("full", head, 3, train)  # type: ignore[arg-type]
    for rows, fold in zip(seen, np.unique(trial.fold), strict=True):
        assert set(rows) == set(np.flatnonzero(trial.fold != fold))
    labels = trials.cells.labels
    for fold in np.unique(trial.fold):
        inside = trial.fold == fold
        expected = fit_head(trials.source, way.looks[:, ~inside], labels[~inside], 1.0)
        assert trial.logits[inside] == pytest.approx(expected(deep(way.features))[inside], abs=1e-3)


def test_a_class_that_the_model_does_not_know_starts_as_the_mean_of_its_classes(start: Start) -> None:
    own = head_for(start.model, start.names)
    mixed = head_for(start.model, ("Smudge cell", "Basophil"))
    assert np.array_equal(mixed.weight[1], own.weight[start.names.index("Basophil")])
    assert mixed.weight[0] == pytest.approx(own.weight.mean(axis=0))
    assert mixed.bias[0] == pytest.approx(own.bias.mean())


def test_a_model_gets_a_head_and_keeps_its_own(start: Start, way: Way) -> None:
    names = ("Smudge cell", "Basophil")
    before = {name: value.clone() for name, value in start.model.state_dict().items()}
    changed = with_head(start.model, head_for(start.model, names), names)
    logits, features = way.run(changed)
    assert logits == pytest.approx(head_for(start.model, names)(deep(features)), abs=1e-4)
    assert changed.config.id2label == {0: "Smudge cell", 1: "Basophil"}
    assert changed.config.num_labels == 2
    after = start.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_nothing_held_out_gives_no_score_and_the_default_strength(start: Start, way: Way, trials: Trials) -> None:
    single = replace(trials, cells=replace(trials.cells, groups=trials.cells.labels))
    trial = single.head(way)
    assert (trial.score, trial.temperature) == (float("inf"), 1.0)
    assert trial.strength == module.DEFAULT_STRENGTH
    assert isinstance(trial, Trial)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [([1, 1, 2, 0, 2, 2], [1, 0, 2, 0, 0, 0]), ([0, 0, 0, 1, 1, 1, 2, 2], [0, 1, 2, 0, 1, 2, 0, 0])],
)
def test_a_group_is_held_out_as_a_whole_or_not_at_all(labels: list[int], groups: list[int]) -> None:
    fold = folds(np.array(labels), np.array(groups), 5, 0)
    for group in set(groups):
        assert len(set(fold[np.array(groups) == group])) == 1
    assert len(set(np.array(labels)[fold != NEVER])) != 1


def test_another_strength_is_taken_if_it_is_clearly_better(way: Way, trials: Trials) -> None:
    (trial,) = trials.heads(way, [1.0])
    labels = trial.labels
    sure = np.full_like(trial.logits, -4.0)
    sure[np.arange(len(labels)), labels] = 4.0
    right = replace(trial, logits=sure)
    unsure, each = replace(trial, logits=0 * sure), np.arange(len(sure))
    assert right.clearly_better(unsure, each)
    assert not unsure.clearly_better(right, each)
    assert not right.clearly_better(right, each)
    assert not right.clearly_better(unsure, 0 * each)  # one patient says nothing of others
