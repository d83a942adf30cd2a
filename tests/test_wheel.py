"""The wheel alone, in a folder elsewhere: every command, and what the package brings along."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from celluscan_hf.cli import COMMANDS
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.taxonomy import NAMES

PROJECT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow
Run = Callable[..., str]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "."]
    done = subprocess.run([*command, "--wheel-dir", folder], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("celluscan_hf-*.whl")
    assert wheel.stat().st_size <= 15e6
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def celluscan(installed: Path, tmp_path: Path) -> Run:
    """Runs a command of the wheel in an empty folder; what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}

    def run(*arguments: object) -> str:
        command = [sys.executable, "-m", "celluscan_hf.cli", *map(str, arguments)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_build_train_evaluate_predict_and_a_dry_run(celluscan: Run, installed: Path, tmp_path: Path) -> None:
    celluscan(
        "build", "--source=synthetic=20", "--output=wbc", "--image-size=48", "--target-per-class=0", "--num-proc=1"
    )
    trained = celluscan(
        *("train", "--recipe=cpu-small", "--dataset=wbc", "--output_dir=run", "--max_steps=2"),
        *("--per_device_train_batch_size=8", "--report_to=none"),
    )
    assert "next: celluscan evaluate --model run --dataset wbc" in trained
    assert "macro-F1" in celluscan("evaluate", "--model=run", "--dataset=wbc", "--output=evaluation", "--resamples=0")
    image = next((tmp_path / "evaluation").rglob("*.jpg"), None) or tmp_path / "wbc" / "curation" / "classes.jpg"
    assert celluscan("predict", image, "--model=run").startswith("image,label,score")
    assert "as it would be uploaded" in celluscan("push", "dataset", "wbc", "lab/wbc", "--dry-run")


def test_an_image_gets_an_answer_without_a_model_of_ones_own(celluscan: Run, tmp_path: Path) -> None:
    draw_cell("Eosinophil", np.random.default_rng(0), 200).save(tmp_path / "cell.png")
    header, row = celluscan("predict", "cell.png").splitlines()
    assert header.startswith("image,label,score")
    assert row.split(",")[0] == "cell.png"
    assert row.split(",")[1] in NAMES
    assert "cell-attention.png" in celluscan("explain", "cell.png")


def test_every_command_is_in_the_wheel(celluscan: Run) -> None:
    listed = celluscan("--help")
    assert all(f"  {name} " in listed for name in COMMANDS)


def test_the_wheel_holds_recipes_templates_and_no_tests(installed: Path) -> None:
    names = {path.relative_to(installed).as_posix() for path in installed.rglob("*") if path.is_file()}
    expected = (
        "models/wbc-small/model.safetensors",
        "training/recipes/cpu-best.yaml",
        "dataset/dataset_card.md",
        "hub/model_card.md",
        "py.typed",
    )
    assert {f"celluscan_hf/{name}" for name in expected} <= names
    assert not any(name.startswith(("tests/", "scripts/")) for name in names)
