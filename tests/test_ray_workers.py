"""Tasks on a Ray cluster of two nodes: results and errors as of local processes, also if a node is killed."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from celluscan_hf import ray_workers
from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.ray_workers import interrupts_kept
from celluscan_hf.workers import IN_FLIGHT, LocalWorkers, Workers, open_workers

ERRORS = {
    "CelluScanError": CelluScanError("a line"),
    "BadImage": BadImage("truncated", "12 bytes"),
    "OSError": OSError(errno.ENOSPC, "No space left on device", "file"),
}


def negative(task: int) -> int:
    return -task


def fail(error: Exception) -> None:
    raise error


def end(_: int) -> None:
    os._exit(1)


def threads(_: int) -> str | None:
    return os.environ.get("OMP_NUM_THREADS")  # which torch and BLAS follow


def stay(task: tuple[Path, str]) -> None:
    """Note where this runs; on one of the nodes stay until it is killed."""
    import ray

    folder, unlucky = task
    node = str(ray.get_runtime_context().get_node_id())
    (folder / f"{node}.{time.monotonic_ns()}").touch()
    time.sleep(120 if node == unlucky else 0.3)


@pytest.fixture(scope="module")
def joined(ray_nodes: Any) -> Iterator[Any]:
    """The cluster, joined by this process."""
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with ray_workers.connected(ray_nodes.address):
        yield ray_nodes


@pytest.fixture
def workers(joined: Any, tmp_path: Path) -> Iterator[Workers]:
    joined.complete()
    with open_workers(1, joined.address, tmp_path) as opened:
        yield opened


@pytest.mark.slow
def test_results_are_those_of_local_processes_and_few_tasks_wait(workers: Workers) -> None:
    taken = returned = most = 0

    def tasks() -> Iterator[int]:
        nonlocal taken, most
        for number in range(50):
            taken += 1
            most = max(most, taken - returned)
            yield number

    results = []
    for result in workers.run(negative, tasks()):
        results.append(result)
        returned += 1
    with LocalWorkers(1) as local:
        assert sorted(results) == sorted(local.run(negative, range(50)))
    assert most <= IN_FLIGHT * 2 + 1  # two cores


@pytest.mark.slow
def test_tasks_have_one_thread(workers: Workers) -> None:
    assert list(workers.run(threads, [0])) == ["1"]


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
def test_an_error_of_a_task_is_that_of_a_local_process(workers: Workers, error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        list(workers.run(fail, [error]))
    assert type(raised.value) is type(error)
    assert str(raised.value) == str(error)
    assert getattr(raised.value, "errno", None) == getattr(error, "errno", None)


@pytest.mark.slow
def test_a_task_that_ends_its_process_each_time_is_one_line(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "RETRIES", 1)
    with pytest.raises(CelluScanError, match=r"lost 2 times as its worker or node died.*--resume"):
        list(workers.run(end, [0]))


@pytest.mark.slow
def test_a_killed_node_loses_no_task_and_leaves_the_window(joined: Any, workers: Any, tmp_path: Path) -> None:
    (folder := tmp_path / "started").mkdir()
    other = joined.other.node_id
    assert workers.window() == IN_FLIGHT * 2
    given, deadline = 0, time.monotonic() + 90

    def tasks() -> Iterator[tuple[Path, str]]:
        nonlocal given
        while joined.other and time.monotonic() < deadline:
            given += 1
            yield folder, other
            if any(path.name.startswith(other) for path in folder.iterdir()):
                joined.kill()

    results = list(workers.run(stay, tasks()))
    assert joined.other is None, "no task ran on the node that was to be killed"
    assert len(results) == given
    assert len(list(folder.iterdir())) > given  # what was lost ran again
    while workers.window() > IN_FLIGHT and time.monotonic() < deadline:
        time.sleep(0.2)
    assert workers.window() == IN_FLIGHT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"paths": ("/nowhere/at/all",)}, r"node \S+ does not see /nowhere/at/all of this machine"),
        ({"software": (("pillow", "0.1"),)}, "has pillow .* but this machine has 0.1: results would differ"),
    ],
)
def test_a_node_unlike_the_driver_is_refused(workers: Any, changes: dict[str, Any], message: str) -> None:
    workers.conditions = replace(workers.conditions, **changes)
    with pytest.raises(CelluScanError, match=message):
        list(workers.run(negative, [1]))


@pytest.mark.slow
def test_an_address_without_a_cluster_is_one_line(tmp_path: Path) -> None:
    words = ["-m", "celluscan_hf.cli", "build", "--source=synthetic=1", f"--output={tmp_path / 'wbc'}"]
    words = [sys.executable, *words, "--ray=127.0.0.1:1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: --ray 127.0.0.1:1: no Ray cluster could be joined")


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CelluScanError, match=r'pip install "celluscan_hf\[ray\]"'), open_workers(1, "auto", tmp_path):
        pass


def test_nothing_imports_ray_without_being_asked() -> None:
    code = "import sys, celluscan_hf.dataset.command, celluscan_hf.inference.command; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_an_interrupt_that_was_lost_while_waiting_is_raised_afterwards() -> None:
    with interrupts_kept() as raise_interrupt:
        with suppress(KeyboardInterrupt):  # as Ray may do
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        with pytest.raises(KeyboardInterrupt):
            raise_interrupt()
