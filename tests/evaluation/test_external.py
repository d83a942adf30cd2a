"""Cells of other laboratories are measured with the same model, each source by itself, and none is of the dataset."""

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.command import summary
from celluscan_hf.evaluation.external import load_external_cells
from celluscan_hf.evaluation.job import EvaluationSettings
from celluscan_hf.evaluation.predictions import Predictions
from celluscan_hf.evaluation.wbc_metrics.wbc_metrics import compute_metrics
from celluscan_hf.sources import Record, open_source
from celluscan_hf.taxonomy import NAMES
from tests.commands import evaluate as call

CLASSES = ("Basophil", "Monocyte", "Eosinophil")


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory, cell_image: Callable[..., Any]) -> Path:
    """Two laboratories: `near` with six cells of three classes and a broken file, `far` with two of one class."""
    folder = tmp_path_factory.mktemp("labs")
    near = [(name, seed) for seed, name in enumerate(CLASSES * 2)]
    for lab, cells in (("near", near), ("far", [("Monocyte", 30), ("Monocyte", 31)])):
        for name, seed in cells:
            (folder / lab / name).mkdir(parents=True, exist_ok=True)
            cell_image(seed).save(folder / lab / name / f"{seed}.png")
    (folder / "near" / "Monocyte" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return folder


@pytest.fixture(scope="module")
def evaluated(built: Path, checkpoint: Path, labs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation of the test split and of both laboratories."""
    output = tmp_path_factory.mktemp("evaluated") / "eval"
    given = [word for lab in ("near", "far") for word in ("--external", f"imagefolder:{lab}={labs / lab}")]
    assert call("--model", checkpoint, "--dataset", built, *given, "--output", output) == 0
    return output


@pytest.fixture(scope="module")
def metrics(evaluated: Path) -> Any:
    return json.loads((evaluated / "metrics.json").read_text("utf-8"), parse_constant=pytest.fail)


def test_each_source_has_its_figures_beside_those_of_the_split(evaluated, metrics):
    cells = Predictions.read(evaluated / "external.parquet")
    assert list(metrics["external"]) == ["far", "near"]
    for name, scores in metrics["external"].items():
        own = cells.where([source == name for source in cells.sources])
        again = compute_metrics(own.probabilities.astype(float), own.labels, NAMES, own.groups.tolist(), resamples=20)
        measured = ("n", "accuracy", "balanced_accuracy", "macro_f1", "nll", "ece", "ci95")
        assert {key: scores[key] for key in measured} == {key: again[key] for key in measured}
        assert scores.keys() >= {
            "groups",
            "related",
            "classes",
            "title",
            "license",
            "caution",
            "fingerprint",
            "dropped",
        }
    assert [(scores["n"], scores["classes"]) for scores in metrics["external"].values()] == [(2, 1), (6, 3)]
    assert metrics["per_source"].keys() == {"synthetic"}


def test_an_external_source_gets_the_answers_it_gets_alone(evaluated, metrics, labs, checkpoint, tmp_path):
    source = f"imagefolder:near={labs / 'near'}"
    assert call("--model", checkpoint, "--source", source, "--output", tmp_path / "eval") == 0
    alone = Predictions.read(tmp_path / "eval" / "predictions.parquet")
    cells = Predictions.read(evaluated / "external.parquet")
    near = cells.where([source == "near" for source in cells.sources])
    assert near.image_ids == alone.image_ids
    assert np.allclose(near.probabilities, alone.probabilities, atol=1e-6)
    described = json.loads((tmp_path / "eval" / "metrics.json").read_text("utf-8"))
    assert described["data"]["fingerprint"] == metrics["external"]["near"]["fingerprint"]
    assert described["external"] == {}
    assert not (tmp_path / "eval" / "external.parquet").exists()


def test_what_is_left_out_is_listed_and_counted_apart(evaluated, metrics):
    with open(evaluated / "dropped.csv", encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["near/Monocyte/broken.png"]
    assert metrics["data"]["dropped"] == {}
    assert [sum(scores["dropped"].values()) for scores in metrics["external"].values()] == [0, 1]


def test_the_command_it_names_asks_for_the_same_sources(metrics, labs):
    words = shlex.split(metrics["command"])
    given = [words[i + 1] for i, word in enumerate(words) if word == "--external"]
    assert given == [f"imagefolder:{lab}={labs / lab}" for lab in ("near", "far")]


def test_the_closing_lines_and_the_report_tell_of_every_source(evaluated, metrics):
    lines = summary(metrics, evaluated).splitlines()
    scores = metrics["external"]["near"]
    assert lines[0].startswith(f"{metrics['n']} cells: accuracy")
    assert lines[1].startswith("external far, 2 cells: accuracy")
    assert lines[2].startswith(f"external near, 6 cells: accuracy {scores['accuracy']:.3f} (")
    assert "1 files or boxes left out" in lines[2] and "left out" not in lines[0]
    assert "## Other laboratories" in (evaluated / "report.md").read_text("utf-8")


def test_a_file_of_the_data_set_is_no_external_cell(built, labs, tmp_path):
    drawn = open_source("synthetic=20", tmp_path, seed=42)
    record = next(item for item in drawn.records() if isinstance(item, Record))
    copied = shutil.copytree(labs / "far", tmp_path / "copied")
    (copied / "Monocyte" / "known.png").write_bytes(drawn.read(record))
    cells = load_external_cells([f"imagefolder:lab={copied}"], str(built), tmp_path)["lab"]
    assert [cell.image_id for cell in cells.kept] == ["lab/Monocyte/30.png", "lab/Monocyte/31.png"]
    assert [(item.path, item.reason) for item in cells.dropped] == [("lab/Monocyte/known.png", "in_dataset")]


def test_a_source_of_which_every_cell_is_left_out_is_named(built, checkpoint, tmp_path, capsys):
    (tmp_path / "lab" / "Monocyte").mkdir(parents=True)
    (tmp_path / "lab" / "Monocyte" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    given = ["--external", f"imagefolder:lab={tmp_path / 'lab'}", "--output", tmp_path / "eval"]
    assert call("--model", checkpoint, "--dataset", built, *given) == 2
    assert "error: --external lab: no cell is left to evaluate" in capsys.readouterr().err
    assert not (tmp_path / "eval").exists()


@pytest.mark.parametrize(
    ("specs", "inside", "message"),
    [
        (["synthetic=5"], "synthetic", "was built from a source of that name"),
        (["imagefolder:lab={}"], "lab", "imagefolder:NAME=DIR"),
        (["bccd_augmented={}"], "bccd", "made from bccd"),
        (["bccd={}"], "bccd_augmented", "was built from bccd_augmented"),
        (["imagefolder:lab={}", "imagefolder:lab={}"], "pbc", "source lab is given twice.*--external imagefolder"),
        (["pcb={}"], "pbc", "--external pcb: unknown source"),
    ],
    ids=str,
)
def test_what_is_not_external_or_not_told_apart_is_refused(specs, inside, message, labs, built, tmp_path):
    data = shutil.copytree(built, tmp_path / "data")
    path = data / "curation" / "statistics.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"sources": {inside: {}}}))
    with pytest.raises(CelluScanError, match=message):
        load_external_cells([spec.format(labs / "near") for spec in specs], str(data), tmp_path)


def test_external_sources_stand_beside_a_data_set_alone():
    with pytest.raises(CelluScanError, match="give --dataset, or evaluate raw files alone with --source"):
        EvaluationSettings("m", Path("out"), sources=("pbc=here",), external=("bccd=there",))


def test_an_output_inside_an_external_source_is_refused(built, labs, checkpoint, capsys):
    given = ["--external", f"imagefolder:near={labs / 'near'}", "--output", labs / "near" / "eval"]
    assert call("--model", checkpoint, "--dataset", built, *given) == 2
    assert "choose a folder outside of it" in capsys.readouterr().err
