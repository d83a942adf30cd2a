"""Run tasks in worker processes, of this machine or of a Ray cluster, and show their progress.

`Workers` is what a caller sees: it does not know which engine runs. Tasks are functions of modules with one argument,
both of which can be pickled; they write their files atomically, so that a task may run twice.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from tqdm import tqdm

from .errors import CelluScanError

Task = TypeVar("Task")
Result = TypeVar("Result")
IN_FLIGHT = 2  # submitted tasks per process: one running, one waiting
_log = logging.getLogger(__name__)


class Workers(Protocol):
    """Processes that run tasks."""

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results of `function` for all tasks as they finish; few tasks are in memory at a time.

        An exception of a task is raised here, with its type and text.
        """


def open_workers(
    num_proc: int, ray: str | None, shared: Path, inputs: Sequence[Path] = ()
) -> AbstractContextManager[Workers]:
    """Return the workers of one job, a context manager.

    Args:
        num_proc: Number of processes on this machine; not used with `ray`.
        ray: Address of a Ray cluster, or `"auto"`; None for this machine.
        shared: An existing folder that tasks write to, and `inputs` what they read: every node must see them.
    """
    if ray is None:
        return LocalWorkers(num_proc)
    from .ray_workers import RayWorkers

    return RayWorkers(ray, shared, inputs)


def add_ray(parser: "argparse._ActionsContainer") -> None:
    """Add the option that runs a command on a Ray cluster."""
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run on a Ray cluster with a shared file system: host:port, ray://host:10001, or auto: the one of "
        "RAY_ADDRESS or running on this machine, else a new one with the cores of this machine; needs the extra ray",
    )


class LocalWorkers:
    """A pool of `num_proc` processes on this machine. With one, everything runs in this process."""

    def __init__(self, num_proc: int) -> None:
        self.num_proc = num_proc
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "LocalWorkers":
        if self.num_proc > 1:
            # spawn: a fork of a process that has started threads (torch, pyarrow) can deadlock
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.num_proc, mp_context=context, initializer=_start)
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results as they finish; see `Workers`."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        waiting: set[Future[Result]] = set()
        try:
            for task in tasks:
                waiting.add(self._pool.submit(function, task))
                if len(waiting) >= IN_FLIGHT * self.num_proc:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(waiting))
        except BrokenProcessPool:
            raise CelluScanError(
                "a worker process was killed, most likely out of memory; run again with --resume and a lower --num-proc"
            ) from None


def _start() -> None:
    """Initialize a worker: leave Ctrl-C to the main process, and end when that ends, even if killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def progress(stage: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
    """Show a progress bar on a terminal and log one line at the end; yields a function to advance it."""
    started, done = time.monotonic(), 0
    # disable=None: no bar unless standard error is a terminal
    with tqdm(total=total, desc=f"{stage:<10}", unit=unit, mininterval=0.5, leave=False, disable=None) as bar:

        def advance(count: int) -> None:
            nonlocal done
            done += count
            bar.update(count)

        yield advance
    _log.info("%s: %d %ss in %.1f s", stage, done, unit, time.monotonic() - started)
