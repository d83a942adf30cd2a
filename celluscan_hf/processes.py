"""Processes that torchrun, accelerate launch or mpirun has started: they share the work of a command, or one does it.

A command whose work is shared runs in all of them on the same inputs, and each item is worked on in one of them. They
exchange Python objects alone, therefore by gloo, also if each has a GPU: gloo notices at once that a process has died.
"""

import atexit
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

from .errors import CelluScanError

_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")  # as Accelerate reads them
_SIZE = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_LOCAL_SIZE = ("LOCAL_WORLD_SIZE", "MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE")
_TIMEOUT = timedelta(hours=2)  # waiting for a process that hangs, or still computes the last metrics
_END = object()
Item = TypeVar("Item")
Value = TypeVar("Value")


def number_of_processes() -> int:
    """Number of processes that were started together; 1 without a launcher."""
    return _first_of(_SIZE, 1)


def processes_on_this_machine() -> int:
    """Number of them on this machine, which share its cores."""
    return _first_of(_LOCAL_SIZE, 1)


def left_to_first_process() -> bool:
    """Whether rank 0 does the work of this process; if so, a line on standard error says it."""
    rank, size = _first_of(_RANK, 0), number_of_processes()
    if size < 2 or rank == 0:
        return False
    print(f"rank {rank} of {size}: not split over processes, rank 0 does all of it", file=sys.stderr)
    return True


def _first_of(names: tuple[str, ...], default: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), default)


class Processes:
    """The processes that share the work of one command, by default this one alone; `join` returns those of a launcher.

    Args:
        rank: Number of this process, from 0. The first one reads what all need, writes and reports.
        size: Number of processes.
        local_rank: Number of this process among those on its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.local_rank = local_rank
        self._failed = False  # one of them has, and all know it

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def deal(self, items: Iterable[Item], batch: int) -> Iterator[Item]:
        """Yield the items of this process. They are dealt out by whole batches, in turn.

        So every batch is that of one process, whose size changes the last digits of what a model computes.
        """
        return (item for number, item in enumerate(items) if number // batch % self.size == self.rank)

    def gather(self, results: Generator[Value, None, None], batch: int, count: int) -> Generator[Value, None, None]:
        """Yield, in every process, the results of all for `count` items that were dealt out, in the order of the items.

        One batch of each process is in memory at a time.

        Raises:
            CelluScanError: A process has not exactly one result for each of its items; or see `exchange`.
        """
        with closing(results):
            for start in range(0, count, batch * self.size):
                own = range(start, count)[self.rank * batch : (self.rank + 1) * batch]
                part = list(islice(results, len(own)))
                self._check_number(len(part) - len(own), count)
                for of_process in self.exchange(part):
                    yield from of_process
            self._check_number(next(results, _END) is not _END, count)

    def _check_number(self, excess: int, count: int) -> None:
        if excess:
            raise CelluScanError(
                f"process {self.rank} of {self.size} has too {'many' if excess > 0 else 'few'} results for its share "
                f"of {count:,} images: they changed while they were read; run the same command again"
            )

    def from_first(self, load: Callable[[], Value]) -> Value:
        """Call `load` in the first process, and return in all what it returns there. Raises what it raises."""
        if self.size == 1:
            return load()
        from accelerate.utils import broadcast_object_list

        value: Any = load() if self.is_first else None
        self.exchange(None)  # tells whether it could be loaded
        with self._explaining_deaths():
            received: Value = broadcast_object_list([value])[0]
        return received

    def exchange(self, value: Value) -> list[Value]:
        """Send a value to all processes, and return what each of them sent, in the order of their ranks.

        Raises:
            CelluScanError: A process has failed, as its message says, or died.
            OSError: A process has failed with this one.
        """
        return [value] if self.size == 1 else self._exchange(value)

    def _exchange(self, value: Any, error: Exception | None = None) -> list[Any]:
        from accelerate.utils import gather_object

        with self._explaining_deaths():
            messages = gather_object([(value, error)])
        errors = [error for _, error in messages if error is not None]
        if errors:
            self._failed = True
            raise errors[0]
        return [value for value, _ in messages]

    @contextmanager
    def _explaining_deaths(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            self._failed = True
            raise CelluScanError(
                f"one of the {self.size} processes died or hangs, maybe out of memory: run the same command again"
            ) from error

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """Make all processes fail if the block fails in one: the others raise its error at their next exchange."""
        try:
            yield
        except Exception as error:
            if self.size > 1 and not self._failed:
                with suppress(Exception):
                    self._exchange(None, self._sendable(error))
            raise

    def _sendable(self, error: Exception) -> Exception:
        if isinstance(error, CelluScanError):
            return CelluScanError(str(error))
        if isinstance(error, OSError) and error.errno is not None:
            return OSError(error.errno, error.strerror, error.filename)
        return CelluScanError(f"process {self.rank} of {self.size} failed: {type(error).__name__}: {error}")

    def leave(self) -> None:
        """Wait until all have ended their work: a launcher ends the others as soon as one exits with an error."""
        from accelerate import PartialState

        with suppress(Exception):
            self._exchange(None, CelluScanError(f"process {self.rank} of {self.size} ended before the others"))
        PartialState().destroy_process_group()  # its threads would abort a process that exits before the others


ALONE = Processes()


def join() -> Processes:
    """Connect the processes that a launcher has started; without one, return this process alone, and import nothing.

    Raises:
        CelluScanError: They cannot reach each other.
    """
    if number_of_processes() == 1:
        return ALONE
    from accelerate import PartialState

    if processes_on_this_machine() == number_of_processes():
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")  # mpirun does not set it
    try:
        state = PartialState(cpu=True, timeout=_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CelluScanError(
            f"the {number_of_processes()} processes cannot reach each other ({reason}); start them by torchrun or "
            "accelerate launch"
        ) from error
    processes = Processes(state.process_index, state.num_processes, state.local_process_index)
    atexit.register(processes.leave)
    return processes
