"""What commands do if a launcher has started several processes."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from celluscan_hf import cli
from celluscan_hf.errors import CelluScanError
from celluscan_hf.processes import Processes, left_to_first_process

PROJECT = Path(__file__).resolve().parents[1]
DRIVER = PROJECT / "tests" / "driver.py"
CONFIG = PROJECT / "scripts" / "accelerate" / "ddp.yaml"
LAUNCHER = ["accelerate.commands.launch", "--config_file", str(CONFIG), "--num_processes", "2"]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As in the processes started: the number of threads changes the last digits of what a model computes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, write_image: Callable[..., Path]) -> Path:
    """Nine files, one of them unusable: at two a batch, two processes have three batches and two."""
    folder = tmp_path_factory.mktemp("cells")
    for seed in range(8):
        write_image(folder / f"{seed}.png", seed)
    (folder / "2-junk.png").write_bytes(b"junk")
    return folder


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory, write_image: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("laboratory")
    for seed in range(5):
        write_image(folder / ("Basophil" if seed % 2 else "Monocyte") / f"{seed}.png", 100 + seed)
    return folder


def jobs(output: Path, cells: Path, laboratory: Path, model: Path, data_set: Path) -> dict[str, dict[str, Any]]:
    """Commands of two processes by name, with faults; what they write is below `output`."""
    (output / "exists.csv").write_text("mine")
    (output / "foreign").mkdir()
    (output / "foreign" / "notes.txt").write_text("mine")
    of = ["--model", str(model), "--device", "cpu", "--batch-size"]
    predict, evaluate = ["predict", str(cells), *of, "2", "--output"], ["evaluate", "--dataset", str(data_set), *of]
    external = ["--external", f"imagefolder={laboratory}", "--resamples", "5", "--output"]
    arguments = {
        "rows": [*predict, str(output / "rows.csv")],
        "one": ["predict", str(cells / "0.png"), *of, "2", "--output", str(output / "one.jsonl")],
        "printed": ["predict", str(cells), *of, "2"],
        "bad": ["predict", str(cells / "2-junk.png"), *of, "2"],
        "no model": ["predict", str(cells), "--model", str(output / "none"), "--output", str(output / "none.csv")],
        "exists": [*predict, str(output / "exists.csv")],
        "no option": [*predict, str(output / "no.csv"), "--nothing"],
        "evaluation": [*evaluate, "5", *external, str(output / "evaluation")],
        "foreign": [*evaluate, "64", *external, str(output / "foreign")],
        "bug": [*predict, str(output / "bug.csv")],
        "system": [*predict, str(output / "system.csv")],
    }
    faults = {
        "bug": {"rank": 1, "image": 2, "error": ["ZeroDivisionError", "no such luck"]},
        "system": {"rank": 1, "image": 0, "error": ["FileNotFoundError", 2, "No such file", "its-cells"]},
    }
    return {name: {"arguments": words} | faults.get(name, {}) for name, words in arguments.items()}


@dataclass(frozen=True)
class Twice:
    """What two processes did: the folder they wrote, what each says of each job, and how the launcher ended."""

    folder: Path
    first: dict[str, dict[str, Any]]
    second: dict[str, dict[str, Any]]
    ended: "subprocess.CompletedProcess[str]"


@pytest.fixture(scope="module")
def twice(
    tmp_path_factory: pytest.TempPathFactory, cells: Path, laboratory: Path, calibrated: Path, data_set: Path
) -> Twice:
    output, said = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("said")
    work = jobs(output, cells, laboratory, calibrated, data_set)
    last = {"arguments": ["predict", str(cells), "--model", str(output / "last")]}
    command = [*LAUNCHER, "--main_process_port", "0", str(DRIVER), str(said), json.dumps([*work.values(), last])]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, timeout=200, env=environment
    )
    assert (said / "0.json").exists(), ended.stderr
    runs = [dict(zip(work, json.loads((said / f"{rank}.json").read_text()), strict=True)) for rank in (0, 1)]
    return Twice(output, *runs, ended)


@pytest.fixture(scope="module")
def once(
    tmp_path_factory: pytest.TempPathFactory,
    cells: Path,
    laboratory: Path,
    calibrated: Path,
    data_set: Path,
    one_thread: None,
) -> Path:
    """The folder written by one process."""
    output = tmp_path_factory.mktemp("one")
    work = jobs(output, cells, laboratory, calibrated, data_set)
    for name in ("rows", "one", "evaluation"):
        assert cli.main(work[name]["arguments"]) == 0
    return output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rows.csv", "one.jsonl"])
def test_two_processes_predict_the_rows_of_one(name: str, twice: Twice, once: Path) -> None:
    assert (twice.folder / name).read_bytes() == (once / name).read_bytes()


@pytest.mark.slow
def test_an_evaluation_by_two_processes_equals_that_by_one(twice: Twice, once: Path) -> None:
    ours, theirs = (folder / "evaluation" for folder in (twice.folder, once))
    files = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    for file in files:  # the folder itself is named in the recorded command
        mine = (ours / file).read_bytes().replace(str(twice.folder).encode(), b"")
        assert mine == (theirs / file).read_bytes().replace(str(once).encode(), b""), file
    assert json.loads((ours / "metrics.json").read_text())["n"] == 56


@pytest.mark.slow
def test_only_the_first_process_writes_and_reports(twice: Twice, once: Path) -> None:
    first, second = twice.first, twice.second
    assert first["printed"]["out"] == (once / "rows.csv").read_text()
    assert first["rows"]["err"].startswith("9 images, 1 could not be used")
    assert first["evaluation"]["out"].startswith("56 cells: ")
    assert not [name for name, job in second.items() if job["out"] + job["err"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bad", "error: no image could be used, of 1; the first, "),
        ("no model", "/none does not exist; expected a checkpoint folder"),
        ("exists", "/exists.csv exists already"),
        ("no option", "error: unrecognized arguments: --nothing"),
        ("foreign", "/foreign holds notes.txt, which is not from an evaluation"),
        ("bug", "error: process 1 of 2 failed: ZeroDivisionError: no such luck"),
        ("system", "error: No such file: its-cells"),
    ],
)
def test_all_fail_with_the_message_of_one(name: str, message: str, twice: Twice) -> None:
    first, second = twice.first[name], twice.second[name]
    assert message in first["err"]
    assert first["err"].count("error: ") == 1
    assert first["status"] == 2
    assert second["status"] == ("ZeroDivisionError('no such luck')" if name == "bug" else 2)
    assert {path.name for path in twice.folder.iterdir()} == {
        "rows.csv", "one.jsonl", "exists.csv", "evaluation", "evaluation.lock", "foreign", "foreign.lock"
    }  # fmt: skip


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other(cells: Path, calibrated: Path, tmp_path: Path) -> None:
    """Started by hand: a launcher would end the other by itself."""
    arguments = ["predict", str(cells), "--model", str(calibrated), "--output", str(tmp_path / "rows.csv")]
    job = {"arguments": [*arguments, "--batch-size", "2"], "rank": 1, "image": 2, "error": "kill"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    first, second = (
        subprocess.Popen(
            [sys.executable, DRIVER, tmp_path, json.dumps([job])],
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    )
    message = first.communicate(timeout=100)[1]
    assert "error: one of the 2 processes died or hangs" in message
    assert (first.returncode, second.wait()) == (2, -signal.SIGKILL)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".json"]


@pytest.mark.slow
def test_a_launcher_ends_the_others_only_after_the_first_has_told_why(twice: Twice) -> None:
    assert twice.ended.returncode != 0
    assert twice.ended.stderr.count("/last does not exist; expected a checkpoint folder") == 1


def test_items_are_dealt_out_by_whole_batches() -> None:
    shares = [list(Processes(rank, 3).deal(range(11), 2)) for rank in range(3)]
    assert shares == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10]]


@pytest.mark.parametrize("number", [4, 6])
def test_another_number_of_results_than_of_items_is_an_error(number: int) -> None:
    with pytest.raises(CelluScanError, match="results for its share of 5 images"):
        list(Processes().gather((result for result in range(number)), 2, 5))


@pytest.mark.parametrize("kind", ["torchrun", "mpirun"])
def test_only_the_first_process_does_what_is_not_shared(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rank, size = {"torchrun": ("RANK", "WORLD_SIZE"), "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")}[kind]
    monkeypatch.setenv(size, "3")
    monkeypatch.setenv(rank, "0")
    assert not left_to_first_process()
    monkeypatch.setenv(rank, "2")
    assert cli.main(["explain", "nothing", "--model", "nothing"]) == 0
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
