"""A build on a Ray cluster gives the bytes of a local one, also if nodes or the driver are killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from celluscan_hf import cli
from celluscan_hf.dataset.settings import cores
from celluscan_hf.workers import Workers, open_workers

from .conftest import build_small, command, contents


class Killing:
    """Workers that lose a node when some tasks of `stage` are done and others are running."""

    def __init__(self, workers: Workers, nodes: Any, stage: str) -> None:
        self.workers, self.nodes, self.stage = workers, nodes, stage
        self.left: int | None = None

    def run(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        for number, result in enumerate(self.workers.run(function, tasks)):
            yield result
            if function.__name__ == self.stage:
                if number == 1:
                    self.nodes.kill()
                    self.left = 0
                elif self.left is not None:
                    self.left += 1


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["scan", "write_originals"])
def test_a_node_killed_in_the_middle_changes_no_byte(
    built_small: Path, ray_nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    killing: list[Killing] = []

    @contextmanager
    def opened(*arguments: Any) -> Iterator[Killing]:
        with open_workers(*arguments) as workers:
            killing.append(Killing(workers, ray_nodes.complete(), stage))
            yield killing[0]

    monkeypatch.setattr("celluscan_hf.dataset.build.open_workers", opened)
    monkeypatch.setattr("celluscan_hf.dataset.build.CHUNK_RECORDS", 8)
    build_small(tmp_path / "wbc", ray=ray_nodes.address)
    assert contents(tmp_path / "wbc") == contents(built_small)
    assert killing[0].left, f"nothing was left of {stage} when the node was killed"


@pytest.mark.slow
def test_a_build_started_on_ray_and_stopped_by_ctrl_c_is_resumed_in_one_process(
    built_small: Path, ray_nodes: Any, tmp_path: Path
) -> None:
    output, work = tmp_path / "wbc", tmp_path / "wbc.building"
    words = [word for word in command(output, f"--ray={ray_nodes.complete().address}") if "--num-proc" not in word]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not any(work.glob("scanned/*.parquet")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "stopped; run the same command with --resume to go on" in errors
    assert "Traceback" not in errors
    build_small(output, resume=True)
    assert contents(output) == contents(built_small)


def test_ray_and_processes_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["build", "--source=synthetic=1", f"--output={tmp_path / 'wbc'}", f"--num-proc={cores()}", "--ray=auto"]
    with pytest.raises(SystemExit):
        cli.main(words)
    assert "argument --ray: not allowed with argument --num-proc" in capsys.readouterr().err
