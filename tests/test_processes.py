"""What commands do where a launcher has started several processes."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from celluscan_hf import cli
from celluscan_hf.processes import left_to_first_process

pytestmark = pytest.mark.slow  # each starts processes that import the libraries

PROJECT = Path(__file__).resolve().parents[1]


def started_twice(*arguments: object) -> "subprocess.CompletedProcess[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)


def test_an_evaluation_by_two_processes_is_one(calibrated: Path, data_set: Path, tmp_path: Path) -> None:
    options = ["--model", calibrated, "--dataset", data_set, "--output", tmp_path / "eval", "--resamples", 0]
    done = started_twice(PROJECT / "scripts" / "evaluate.py", *options, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "eval" / "metrics.json").read_text())["n"] == 56
    assert done.stdout.count("56 cells: ") == done.stderr.count("rank 1 of 2: ") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"eval", "eval.lock"}


@pytest.mark.parametrize("output", [True, False], ids=["file", "printed"])
def test_two_processes_give_each_image_one_row(
    output: bool, calibrated: Path, write_image: Callable[..., Path], tmp_path: Path
) -> None:
    cells = [write_image(tmp_path / "cells" / f"{seed}.png", seed) for seed in range(3)]
    written = ["--output", tmp_path / "rows.csv"] if output else []
    arguments = [tmp_path / "cells", "--model", calibrated, "--device", "cpu", *written]
    done = started_twice("-m", "celluscan_hf.cli", "predict", *arguments)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "rows.csv").read_text() if output else done.stdout
    assert [row["image"] for row in csv.DictReader(rows.splitlines())] == [str(cell) for cell in cells]


@pytest.mark.parametrize("kind", ["torchrun", "mpirun"])
def test_only_the_first_process_works(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rank, size = {"torchrun": ("RANK", "WORLD_SIZE"), "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")}[kind]
    monkeypatch.setenv(size, "3")
    monkeypatch.setenv(rank, "0")
    assert not left_to_first_process()
    monkeypatch.setenv(rank, "2")
    assert cli.main(["predict", "nothing", "--model", "nothing"]) == 0
    assert capsys.readouterr().err.startswith("rank 2 of 3: ")


def test_a_launcher_with_one_process_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not left_to_first_process()
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not left_to_first_process()


def test_an_audit_takes_one_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(["audit", "leak", "--dataset", "nothing", "--output", str(tmp_path / "leak")]) == 2
    assert capsys.readouterr().err == "error: 2 processes were started, an audit takes one: run it without a launcher\n"
