"""What to expect of an adapted model: how often it is right, before and after, and which cells would help most."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import taxonomy
from ..evaluation.intervals import bootstrap, proportion
from ..evaluation.selective_metrics import calibration_metrics
from ..reliability.temperature import TEMPERATURE_SPREAD, fit_temperature
from .cells import LabelledCells
from .trials import Floats, Trial, Trials

RESAMPLES = 1000
_ENOUGH = 4  # cells of a class from which half can be left out
_REPEATS = 3
_NOTICEABLE = 0.005  # balanced accuracy


def right(logits: Floats, labels: NDArray[np.int64], names: Sequence[str]) -> NDArray[np.bool_]:
    """Whether each answer is the label, or a finer class of it: logits (n, classes), labels (n,) -> (n,)."""
    answers = logits.argmax(axis=1)
    parents = {number: names.index(parent) for number, name in enumerate(names) if (parent := _parent(name)) in names}
    coarser = np.array([parents.get(int(answer), int(answer)) for answer in answers], np.int64)
    correct: NDArray[np.bool_] = (answers == labels) | (coarser == labels)
    return correct


def _parent(name: str) -> str:
    return taxonomy.PARENTS.get(name, "")


def expected(trial: Trial, cells: LabelledCells, as_it_is: bool = False) -> dict[str, Any]:
    """Accuracy and balanced accuracy on held-out cells with 95 % intervals over groups, and the recall by class.

    None for what cannot be known, as no cell was held out. Probabilities have a temperature that was fitted to other
    folds; with `as_it_is` they have none.
    """
    rows = trial.held_out
    if not rows.any():
        return {"n": 0, "accuracy": None, "balanced_accuracy": None, "ci95": None, "recall": {}}
    labels, groups = trial.labels[rows], cells.groups[rows]
    hits = right(trial.logits[rows], labels, cells.names)
    per_class = {int(label): labels == label for label in np.unique(labels)}

    def balanced(weights: NDArray[np.float64]) -> float:
        recalls = [np.average(hits[of], weights=weights[of]) for of in per_class.values() if weights[of].sum()]
        return float(np.mean(recalls))

    return {
        "n": int(rows.sum()),
        "accuracy": float(hits.mean()),
        "balanced_accuracy": balanced(np.ones(len(hits))),
        "ci95": {
            "accuracy": proportion(hits, groups),
            "balanced_accuracy": bootstrap(balanced, groups, RESAMPLES),
        },
        "recall": {cells.names[label]: float(hits[of].mean()) for label, of in per_class.items()},
        **{
            name: calibration_metrics(trial.logits[rows] / (1 if as_it_is else _temperatures(trial)), labels)[name]
            for name in ("nll", "ece")
        },
    }


def _temperatures(trial: Trial) -> Floats:
    """For each held-out cell the temperature that suits the cells of the other folds, (n, 1)."""
    rows = trial.held_out
    temperatures = np.ones((int(rows.sum()), 1))
    if trial.method == "calibration":
        return temperatures
    for fold in np.unique(trial.fold[rows]):
        others = rows & (trial.fold != fold)
        if others.any():
            given = trial.logits[others], trial.labels[others]
            temperatures[trial.fold[rows] == fold] = fit_temperature(*given, TEMPERATURE_SPREAD)
    return temperatures


def what_helps(trials: Trials, head: Trial) -> list[dict[str, Any]]:
    """For each class, the balanced accuracy that is lost with half of its cells: more of these help most.

    Measured with the head alone, mean of some draws; the largest loss first, small ones left out.
    """
    cells, rows = trials.cells, head.held_out
    if head.strength is None or not rows.any():
        return []
    full = _balanced(head, cells)
    losses = []
    for label, count in enumerate(np.bincount(cells.labels, minlength=len(cells.names))):
        if count < _ENOUGH:
            continue
        of_class = np.flatnonzero(cells.labels == label)
        drops = []
        for draw in range(_REPEATS):
            usable = np.ones(len(cells), bool)
            usable[np.random.default_rng([trials.seed, label, draw]).permutation(of_class)[: count // 2]] = False
            (fewer,) = trials.heads(head.way, [head.strength], usable)
            drops.append(full - _balanced(fewer, cells))
        losses.append((float(np.mean(drops)), cells.names[label], int(count)))
    return [
        {"class": name, "cells": count, "lost_with_half": loss}
        for loss, name, count in sorted(losses, reverse=True)
        if loss > _NOTICEABLE
    ]


def _balanced(trial: Trial, cells: LabelledCells) -> float:
    rows = trial.held_out
    hits, labels = right(trial.logits[rows], trial.labels[rows], cells.names), trial.labels[rows]
    return float(np.mean([hits[labels == label].mean() for label in np.unique(labels)]))
