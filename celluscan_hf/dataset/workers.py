"""Run tasks in worker processes, and show their progress."""

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from ..errors import CelluScanError

Task = TypeVar("Task")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)
_IN_FLIGHT = 2  # submitted tasks per process: one running, one waiting


class Workers:
    """A pool of `num_proc` processes for one build. With one, everything runs in this process."""

    def __init__(self, num_proc: int) -> None:
        self.num_proc = num_proc
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.num_proc > 1:
            # spawn: a fork of a process that has started threads (torch, pyarrow) can deadlock
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.num_proc, mp_context=context, initializer=_start)
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results of `function` for all tasks as they finish; few tasks are in memory at a time."""
        if self._pool is None:
            yield from map(function, tasks)
            return
        waiting: set[Future[Result]] = set()
        try:
            for task in tasks:
                waiting.add(self._pool.submit(function, task))
                if len(waiting) >= _IN_FLIGHT * self.num_proc:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in wait(waiting).done)
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
