"""The benchmark of adaptation: how cells are dealt out, that it goes on where it stopped, and what it measures."""

from argparse import Namespace
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from celluscan_hf.adaptation.adapt import Adapter, Start
from celluscan_hf.adaptation.cells import LabelledCells, with_names_of_cells
from celluscan_hf.adaptation.layers import Schedule
from celluscan_hf.adaptation.trials import Way
from celluscan_hf.benchmarks import adaptation as module
from celluscan_hf.benchmarks.adaptation import CURVES, OUTCOMES, Laboratory, adaptation, deal, of_classes

Read = Callable[..., LabelledCells]


def test_cells_of_one_group_are_never_on_both_sides(drawn: Path, read: Read) -> None:
    cells = read(drawn)
    support, others = deal(cells, 2, 0)
    assert np.bincount(cells.labels[support]).max() == 2
    assert len(others)
    assert not set(cells.groups[support]) & set(cells.groups[others])
    assert not len(deal(cells, 6, 0)[1])  # no cell of another group is left to judge


def test_classes_without_cells_are_no_classes_of_ones_own(drawn: Path, read: Read) -> None:
    cells = with_names_of_cells(of_classes(read(drawn), ["Eosinophil", "Monocyte"]))
    assert cells.names == ("Eosinophil", "Monocyte")
    assert cells.counts == {"Eosinophil": 6, "Monocyte": 6}


def test_answers_from_known_features_are_those_of_the_adapted_model(start: Start, drawn: Path, read: Read) -> None:
    cells = read(drawn)
    support, others = deal(cells, 2, 0)
    unchanged = Way(start.processor, start.model, False, cells.pixels)
    adapter = Adapter(start, module.subset(cells, support), method="calibration", unchanged=unchanged.of(support))
    adapted = adapter.adapted()
    expected = adapted.chosen.way.of(np.arange(len(support))).looks
    np.testing.assert_allclose(expected, unchanged.looks[:, support])
    logits = Laboratory(start, cells, unchanged)._logits(adapted, others)
    direct, _ = Way(start.processor, adapted.model, False, cells.pixels[others]).run(adapted.model)
    np.testing.assert_allclose(logits, direct, atol=1e-4)


def test_a_network_from_scratch_learns_from_the_cells_that_it_is_given_alone(
    start: Start, drawn: Path, read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = with_names_of_cells(read(drawn))
    support, others = deal(cells, 2, 0)
    judged, unseen = others[:2], others[2:]

    def logits(start: Start, cells: LabelledCells, steps: int = 3) -> NDArray[np.float64]:
        monkeypatch.setattr(module, "_SCRATCH", Schedule(steps, batch_size=4, learning_rate=1e-3))
        unchanged = Way(start.processor, start.model, False, cells.pixels)
        return Laboratory(start, cells, unchanged)._from_scratch(support, judged, 0)

    def changed(rows: NDArray[np.int64], labels: bool) -> LabelledCells:
        other = replace(cells, pixels=cells.pixels.clone(), labels=cells.labels.copy())
        if labels:
            other.labels[rows] = (other.labels[rows] + 1) % len(cells.names)
        else:
            other.pixels[rows] = 255 - other.pixels[rows]
        return other

    expected = logits(start, cells)
    knowing = deepcopy(start.model)
    with torch.no_grad():
        knowing.vit.embeddings.position_embeddings.add_(1)
    for same in (
        logits(replace(start, model=knowing, folder=Path("nowhere")), cells),
        logits(start, changed(others, labels=True)),
        logits(start, changed(unseen, labels=False)),
    ):
        np.testing.assert_array_equal(same, expected)
    for different in (
        logits(start, cells, steps=1),
        logits(start, changed(support, labels=True)),
        logits(start, changed(support, labels=False)),
    ):
        assert not np.allclose(different, expected)


def test_an_interrupted_run_goes_on_and_draws_nothing_twice(
    calibrated: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(draws: int, minutes: float = 1.0) -> list[dict[str, object]]:
        asked = dict(
            model=calibrated,
            output=tmp_path,
            source=[f"imagefolder={drawn}"],
            own=[],
            own_classes=[],
        )
        more = dict(shots=[0, 2], methods=["head"], draws=draws, training_draws=1, minutes=minutes)
        rows: list[dict[str, object]] = adaptation(Namespace(**asked, **more))["rows"]
        return rows

    head, none = measured(1)
    assert (head["method"], head["shots"], head["draws"], none["method"], none["shots"]) == ("head", 2, 1, "none", 0)
    adapted: list[int] = []
    original = Laboratory.outcome
    monkeypatch.setattr(Laboratory, "outcome", lambda self, *a: adapted.append(1) or original(self, *a))
    rows = measured(2)
    assert len(adapted) == 1
    assert rows[0]["draws"] == 2
    assert len((tmp_path / OUTCOMES).read_text().splitlines()) == 3
    assert (tmp_path / CURVES).is_file()
    assert measured(1, minutes=2.0)[0]["draws"] == 1  # those before had less time
    assert 0 <= rows[0]["balanced_accuracy"] <= 1 and rows[0]["ci95"]  # type: ignore[operator]
