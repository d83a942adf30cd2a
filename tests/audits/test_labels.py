import csv
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.audits import derived, labels, review, suspects
from celluscan_hf.curation.splits import SPLITS
from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.reading import CellDataset, open_dataset
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.predictions import FACTS, Predictions
from tests.commands import audit as run_audit

SURE = 0.8  # of the simulated model, where it is right


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file of a folder, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def predictions_of(rows: pa.Table, true: list[int], seed: int = 0) -> Predictions:
    """What a model would say that knows most true classes; one cell of fifty it takes for a class drawn by lot."""
    draw = np.random.default_rng(seed)
    present = np.unique(true)
    probabilities = np.zeros((len(true), len(taxonomy.NAMES)), np.float32)
    probabilities[:, present] = draw.dirichlet(np.ones(len(present)), len(true)) * (1 - SURE)
    labels_given = np.where(draw.random(len(true)) < 0.02, draw.choice(present, len(true)), true)
    probabilities[np.arange(len(true)), labels_given] += SURE
    return Predictions({name: rows[name].to_pylist() for name in FACTS}, rows["label"].to_numpy(), probabilities)


@pytest.fixture(scope="module")
def in_conflict(tmp_path_factory: pytest.TempPathFactory, write_image: Callable[..., Path]) -> Path:
    """A dataset built from the layout of PBC, with equal images and with near duplicates under two labels."""
    folder = tmp_path_factory.mktemp("labels")
    cells = folder / "PBC_dataset_normal_DIB"
    for number in range(12):
        write_image(cells / "eosinophil" / f"EO_{number}.jpg", number)
        write_image(cells / "neutrophil" / f"BNE_{number}.jpg", 100 + number)
    same = write_image(cells / "eosinophil" / "EO_225902.jpg", 50)
    shutil.copy(same, cells / "neutrophil" / "BNE_191112.jpg")
    with Image.open(cells / "eosinophil" / "EO_3.jpg") as image:
        write_image(cells / "neutrophil" / "BNE_3000.jpg", image.convert("RGB"), quality=60)
    build(BuildSettings((f"pbc={cells}",), folder / "wbc", image_size=48, target_per_class=0, num_proc=1))
    return folder / "wbc"


@pytest.fixture
def stub_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probabilities without a training."""

    def simulated(
        rows: pa.Table, data: CellDataset, settings: labels.LabelsSettings
    ) -> tuple[Predictions, list[float]]:
        given = derived.originals(data, *SPLITS)
        true = dict(zip(given["image_id"].to_pylist(), given["label"].to_pylist(), strict=True))
        return predictions_of(rows, [true[name] for name in rows["image_id"].to_pylist()]), [1.0]

    monkeypatch.setattr(labels, "out_of_fold", simulated)


def listed(output: Path) -> list[dict[str, str]]:
    with open(output / review.LIST, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_corrupted_labels_are_found_by_labels_and_probabilities(data_set: Path) -> None:
    rows = derived.originals(open_dataset(data_set), *SPLITS)
    names, true = rows["image_id"].to_pylist(), rows["label"].to_pylist()
    wrong = suspects.corrupt_labels(rows, 0.1, 42)
    cells = predictions_of(rows, true)
    labels_given = np.array([wrong.get(name, label) for name, label in zip(names, true, strict=True)])
    rows_listed, suggested = suspects.likely_errors(labels_given, cells.probabilities)
    corrupted = {row for row, name in enumerate(names) if name in wrong}
    assert len(corrupted & set(rows_listed.tolist())) >= 0.8 * len(corrupted)
    hit = [row in corrupted and other == true[row] for row, other in zip(rows_listed, suggested, strict=True)]
    assert sum(hit) >= 0.7 * len(rows_listed)
    assert (np.diff(cells.probabilities[rows_listed, labels_given[rows_listed]]) >= -1e-6).all()


def test_classes_without_cells_take_no_part() -> None:
    given = np.repeat([taxonomy.LABEL2ID["Basophil"], taxonomy.LABEL2ID["Platelet"]], 20)
    probabilities = np.full((40, len(taxonomy.NAMES)), 0.02, np.float32)
    probabilities[np.arange(40), given] = 0.3
    probabilities[:, taxonomy.LABEL2ID["Monocyte"]] = 0.46  # of which there is none
    probabilities[0] = 0
    probabilities[0, taxonomy.LABEL2ID["Monocyte"]] = 1
    probabilities[1, given[[0, -1]]] = probabilities[1, given[[-1, 0]]]
    rows, suggested = suspects.likely_errors(given, probabilities)
    assert rows.tolist() == [1]
    assert suggested.tolist() == [taxonomy.LABEL2ID["Platelet"]]


def test_a_label_and_its_parent_are_no_error() -> None:
    assert suspects.compatible("Band Neutrophil", "Neutrophil")
    assert suspects.compatible("Immature Granulocyte", "Myelocyte")
    assert not suspects.compatible("Band Neutrophil", "Segmented Neutrophil")
    given = np.repeat([taxonomy.LABEL2ID["Neutrophil"], taxonomy.LABEL2ID["Segmented Neutrophil"]], 20)
    probabilities = np.full((40, len(taxonomy.NAMES)), 0.01, np.float32)
    probabilities[np.arange(40), given] = 0.87
    probabilities[0, given[[0, -1]]] = probabilities[0, given[[-1, 0]]]
    names = [str(number) for number in range(40)]
    cells = Predictions(dict.fromkeys(FACTS, names), given, probabilities)
    rows_listed, related = suspects.doubted(cells, dict.fromkeys(names, "train"), {})
    assert not rows_listed
    assert [(suspect.image_id, suspect.suggested) for suspect in related] == [("0", "Segmented Neutrophil")]


def test_corrupted_labels_are_of_unrelated_classes_and_follow_from_the_seed(data_set: Path) -> None:
    rows = derived.originals(open_dataset(data_set), *SPLITS)
    true = dict(zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    wrong = suspects.corrupt_labels(rows, 0.25, 1)
    assert len(wrong) == round(0.25 * rows.num_rows)
    for name, label in wrong.items():
        assert not suspects.compatible(taxonomy.NAMES[true[name]], taxonomy.NAMES[label])
    assert suspects.corrupt_labels(rows, 0.25, 1) == wrong != suspects.corrupt_labels(rows, 0.25, 2)


@pytest.mark.usefixtures("stub_predictions")
def test_equal_images_under_two_labels_come_first_and_nothing_is_changed(in_conflict: Path, tmp_path: Path) -> None:
    before = contents(in_conflict)
    settings = labels.LabelsSettings(tmp_path / "out", "none", 1, 3, 0.0, 42)
    metrics = labels.audit(open_dataset(in_conflict), settings)
    assert contents(in_conflict) == before
    assert metrics["conflicts"] == {"excluded": 2, "kept": 2}
    rows = listed(settings.folder)
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, len(rows) + 1)]
    conflicts = {row["image_id"].split("/")[-1]: row for row in rows if row["reason"] == suspects.CONFLICT}
    assert set(list(conflicts)[:2]) == {"EO_225902.jpg", "BNE_191112.jpg"}
    assert set(list(conflicts)[2:]) == {"EO_3.jpg", "BNE_3000.jpg"}
    excluded = conflicts["EO_225902.jpg"]
    assert (excluded["source"], excluded["split"], excluded["p_label"]) == ("pbc", "", "")
    assert (excluded["label"], excluded["suggested"]) == ("Eosinophil", "Band Neutrophil")
    assert excluded["others"].endswith("BNE_191112.jpg")
    assert conflicts["BNE_3000.jpg"]["split"] in SPLITS
    page = (settings.folder / review.PAGE).read_text("utf-8")
    assert "made wrong on purpose" not in page
    assert page.count("<figure>") == len(rows)
    assert page.count("excluded by the build") == 2
    assert "EO →" in page and "data:image/jpeg;base64," in page


@pytest.mark.usefixtures("stub_predictions")
def test_a_trial_tells_how_many_corrupted_labels_are_found(data_set: Path, tmp_path: Path) -> None:
    settings = labels.LabelsSettings(tmp_path / "out", "none", 1, 3, 0.1, 42)
    metrics = labels.audit(open_dataset(data_set), settings)
    trial, rows = metrics["corrupted"], listed(settings.folder)
    assert settings.folder != replace(settings, corrupt_labels=0.0).folder
    assert "made wrong on purpose" in (settings.folder / review.PAGE).read_text("utf-8")
    assert trial["cells"] == 28
    assert trial["recall"] == pytest.approx(trial["found"] / 28, abs=1e-4) and trial["recall"] > 0.8
    assert trial["precision"] == pytest.approx(trial["found"] / metrics["listed"]["n"], abs=1e-4)
    corrupted = [row for row in rows if row["original_label"]]
    assert len(corrupted) == trial["found"]
    assert all(row["original_label"] != row["label"] for row in corrupted)
    assert {cell["image_id"] for cell in metrics["first"] if "original_label" in cell} <= {
        row["image_id"] for row in corrupted
    }
    labels.draw(metrics, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_of_nothing_can_be_drawn(tmp_path: Path) -> None:
    labels.draw({"listed": {"pairs": [], "n": 0}, "cells": {"train": 3}, "corrupted": None}, tmp_path / "labels.png")
    assert (tmp_path / "labels.png").is_file()


def test_a_data_set_without_the_findings_of_its_build_is_refused(
    in_conflict: Path, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    shutil.copytree(in_conflict, tmp_path / "wbc")
    (tmp_path / "wbc" / "curation" / "label_conflicts.csv").unlink()
    data = open_dataset(tmp_path / "wbc")
    cells = predictions_of(rows := derived.originals(data, *SPLITS), rows["label"].to_pylist())
    with pytest.raises(CelluScanError, match=r"label_conflicts\.csv cannot be read"):
        suspects.conflicts(data, cells, {})


def test_missing_cleanlab_is_one_line_before_any_training(
    data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    assert run_audit(["labels", "--dataset", str(data_set), "--output", str(tmp_path / "out")]) == 2
    error = 'error: cleanlab is not installed: pip install "celluscan_hf[labels]"\n'
    assert capsys.readouterr().err == error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("option", "value"), [("--folds", "1"), ("--folds", "11")])
def test_a_setting_out_of_range_is_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_audit(["labels", "--dataset", "none", "--output", str(tmp_path), option, value])
    assert stopped.value.code == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_judges_every_cell_by_a_model_of_other_groups(
    data_set: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(data_set)
    given = ["--dataset", str(data_set), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "labels.json")]
    corrupted = ["--corrupt-labels", "0.1"]
    assert run_audit(["labels", *given, "--recipe", tiny, "--steps", "2", "--folds", "2", *corrupted]) == 0
    printed = capsys.readouterr().out
    assert "| Basophil |" in printed and "corrupted labels found" in printed
    assert contents(data_set) == before
    written = json.loads((tmp_path / "labels.json").read_text())
    assert written["settings"] == {"recipe": tiny, "steps": 2, "folds": 2, "corrupt_labels": 0.1}
    assert written["metrics"]["cells"] == {"train": 196, "validation": 28, "test": 56}
    assert written["metrics"]["out_of_fold"]["n"] == 280
    for fold in sorted((tmp_path / "out" / "corrupted-0.1").glob("fold-*")):
        fold_data = open_dataset(fold / "data")
        learned, held = (set(fold_data.split(derived.CONFIG, split)["group_id"]) for split in ("train", "test"))
        assert not learned & held
    assert (tmp_path / "labels.png").is_file() and (tmp_path / "out" / "corrupted-0.1" / review.PAGE).is_file()
