"""`scripts/evaluate.py` from end to end: the folder it writes, and the one line it says where it cannot."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from datasets import load_dataset

from celluscan_hf.dataset.reading import open_dataset
from celluscan_hf.evaluation.command import summary
from celluscan_hf.evaluation.folder import EXTERNAL, FILES, IMAGES
from celluscan_hf.evaluation.job import describe_model
from celluscan_hf.evaluation.predictions import Predictions
from celluscan_hf.evaluation.wbc_metrics.wbc_metrics import compute_metrics
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.taxonomy import NAMES
from tests.commands import evaluate as call

from .conftest import save_checkpoint

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
DESIGNED = {
    "n", "accuracy", "balanced_accuracy", "macro_f1", "nll", "ece", "ci95", "per_class", "confusion_matrix",
    "per_source", "model", "data", "external",
}  # fmt: skip


def metrics_of(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text("utf-8"))
    return metrics


@pytest.fixture(scope="module")
def evaluated(built: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation of the test split."""
    output = tmp_path_factory.mktemp("evaluated") / "eval"
    assert call("--model", checkpoint, "--dataset", built, "--output", output) == 0
    return output


@pytest.fixture
def folder(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """A folder of one's own with two cells and a file that is none."""
    write_image(tmp_path / "own" / "Basophil" / "1.png", 1)
    write_image(tmp_path / "own" / "Monocyte" / "2.png", 2)
    (tmp_path / "own" / "Monocyte" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return tmp_path / "own"


def test_the_folder_holds_every_file_and_nothing_else(evaluated):
    assert {path.name for path in evaluated.iterdir()} == FILES - {EXTERNAL} | {IMAGES}
    assert {path.name for path in evaluated.parent.iterdir()} == {"eval", "eval.lock"}


def test_metrics_have_what_the_design_names_and_are_strict_json(evaluated):
    metrics = json.loads((evaluated / "metrics.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert metrics.keys() >= DESIGNED
    assert metrics["confusion_matrix"]["labels"] == list(NAMES)


def test_examples_are_recognised_cells_of_the_split(evaluated):
    cells = Predictions.read(evaluated / "predictions.parquet")
    examples = json.loads((evaluated / "examples.json").read_text("utf-8"))
    assert {path.name for path in (evaluated / IMAGES).iterdir()} == {f"{entry['code']}.jpg" for entry in examples}
    for entry in examples:
        row = cells.image_ids.index(entry["image_id"])
        assert NAMES[cells.labels[row]] == NAMES[cells.predicted[row]] == entry["class"]
        assert (entry["source"], entry["license"]) == ("synthetic", "MIT")


def test_metrics_are_those_of_the_predictions(evaluated):
    metrics, cells = metrics_of(evaluated), Predictions.read(evaluated / "predictions.parquet")
    again = compute_metrics(cells.probabilities.astype(float), cells.labels, NAMES, cells.groups.tolist(), resamples=20)
    assert {name: metrics[name] for name in again} == again


def test_predictions_have_the_rows_of_the_split_in_their_order(evaluated, built, tmp_path):
    rows = load_dataset(str(built), "originals", split="test", cache_dir=str(tmp_path))
    assert Predictions.read(evaluated / "predictions.parquet").image_ids == rows["image_id"]


def test_model_and_data_are_identified(evaluated, checkpoint, built):
    metrics = metrics_of(evaluated)
    weights = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert (metrics["model"]["name"], metrics["model"]["sha256"]) == (str(checkpoint), weights)
    assert metrics["model"]["class"] == "CelluScanForImageClassification"
    assert (metrics["data"]["dataset"], metrics["data"]["split"], metrics["data"]["n"]) == (
        str(built),
        "test",
        metrics["n"],
    )


def test_the_command_it_names_gives_the_same_files(evaluated, tmp_path):
    words = metrics_of(evaluated)["command"].split()
    assert words[:2] == ["celluscan", "evaluate"]
    words[words.index("--output") + 1] = str(tmp_path / "again")
    assert call(*words[2:]) == 0
    examples = {path.relative_to(evaluated) for path in (evaluated / IMAGES).iterdir()}
    for name in examples | FILES - {EXTERNAL, "metrics.json", "report.md"}:
        assert (tmp_path / "again" / name).read_bytes() == (evaluated / name).read_bytes()
    assert metrics_of(tmp_path / "again") | {"command": ""} == metrics_of(evaluated) | {"command": ""}


def test_the_headline_has_metrics_with_intervals_and_where_things_are(evaluated):
    metrics = metrics_of(evaluated)
    text, (low, high) = summary(metrics, evaluated), metrics["ci95"]["macro_f1"]
    assert f"{metrics['n']} cells: accuracy {metrics['accuracy']:.3f} (" in text
    assert f"macro-F1 {metrics['macro_f1']:.3f} ({low:.3f}–{high:.3f})" in text
    assert f"{evaluated / 'report.md'}: the report" in text


def test_raw_files_are_evaluated_and_what_is_no_cell_is_listed(folder, checkpoint, tmp_path, capsys):
    assert call("--model", checkpoint, "--source", f"imagefolder={folder}", "--output", tmp_path / "eval") == 0
    with open(tmp_path / "eval" / "dropped.csv", encoding="utf-8", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == ["imagefolder/Monocyte/broken.png"]
    metrics = metrics_of(tmp_path / "eval")
    assert (metrics["n"], sum(metrics["data"]["dropped"].values())) == (2, 1)
    assert metrics["data"]["sources"]["imagefolder"]["path"] == str(folder)
    assert "2 cells: accuracy" in capsys.readouterr().out


def test_cells_of_sources_that_the_model_was_trained_on_are_pointed_out(built, checkpoint, tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    for fingerprint, seen in (("another build", ["synthetic"]), (open_dataset(built).fingerprint, [])):
        record = {"data": {"sources": ["pbc", "synthetic"], "fingerprint": fingerprint}}
        (model / "settings.json").write_text(json.dumps(record))
        output = tmp_path / f"eval-{len(seen)}"
        assert call("--model", model, "--dataset", built, "--output", output, "--resamples", "0") == 0
        metrics = metrics_of(output)
        assert metrics["data"]["seen_sources"] == seen
        assert ("caution: the model was trained on cells of synthetic" in capsys.readouterr().out) is bool(seen)


def test_weights_in_several_files_are_all_hashed(checkpoint, tmp_path):
    split = shutil.copytree(checkpoint, tmp_path / "split")
    weights = safetensors.torch.load_file(split / "model.safetensors")
    names = sorted(weights)
    (split / "model.safetensors").unlink()
    parts = {"model-00001-of-00002.safetensors": names[:5], "model-00002-of-00002.safetensors": names[5:]}
    for file, part in parts.items():
        safetensors.torch.save_file({name: weights[name] for name in part}, split / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (split / "model.safetensors.index.json").write_text(json.dumps(index))
    expected = hashlib.sha256(b"".join((split / file).read_bytes() for file in parts)).hexdigest()
    model, processor = load_classifier(str(split))
    assert describe_model(str(split), model, processor)["sha256"] == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "missing/model"], "missing/model"),
        (["--split", "holdout"], "holdout"),
        (["--batch-size", 0], "--batch-size 0: expected 1 or more"),
        (["--device", "cuda:99"], "--device cuda:99 cannot be used"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said_in_one_line(arguments, message, built, checkpoint, tmp_path, capsys):
    given = ["--model", checkpoint, "--dataset", built, "--output", tmp_path / "eval", *arguments]
    assert call(*given) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "eval").exists()


def test_a_split_of_a_raw_source_is_refused(folder, checkpoint, tmp_path, capsys):
    given = ["--model", checkpoint, "--source", f"imagefolder={folder}", "--output", tmp_path / "eval"]
    assert call(*given, "--split", "test") == 2
    assert "raw sources have no splits" in capsys.readouterr().err


def test_other_classes_are_refused_before_anything_is_read(tmp_path, capsys):
    other = save_checkpoint(tmp_path / "other", id2label={0: "cat", 1: "dog"})
    assert call("--model", other, "--dataset", tmp_path / "nowhere", "--output", tmp_path / "eval") == 2
    assert "has cat, dog in addition" in capsys.readouterr().err


def test_an_output_inside_the_data_set_is_refused(built, checkpoint, capsys):
    assert call("--model", checkpoint, "--dataset", built, "--output", built / "eval") == 2
    assert "choose a folder outside of it" in capsys.readouterr().err
    assert not (built / "eval").exists()


@pytest.mark.slow
def test_the_script_runs_although_it_is_named_like_a_library(folder, checkpoint, tmp_path):
    command = [sys.executable, SCRIPTS / "evaluate.py", "--model", checkpoint, "--source", f"imagefolder={folder}"]
    done = subprocess.run([*command, "--output", tmp_path / "eval"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "2 cells: accuracy" in done.stdout


@pytest.mark.real_data
def test_real_cells_of_a_publisher_are_evaluated_as_they_come(real_data, checkpoint, tmp_path):
    for folder in ("basophil", "ig", "platelet"):
        target = tmp_path / "PBC" / folder
        target.mkdir(parents=True)
        for path in sorted((real_data / "PBC_dataset_normal_DIB" / folder).glob("*.jpg"))[:4]:
            shutil.copy(path, target)
    assert call("--model", checkpoint, "--source", f"pbc={tmp_path / 'PBC'}", "--output", tmp_path / "eval") == 0
    metrics = metrics_of(tmp_path / "eval")
    assert metrics["n"] == 12
    assert metrics["data"]["sources"]["pbc"]["caution"]
