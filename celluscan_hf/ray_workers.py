"""Tasks on a Ray cluster (https://docs.ray.io), which shares a file system with the driver; extra `ray`.

Ray schedules the tasks, and runs one again if its worker or node dies. What nodes must have in common with the driver
(versions of software, the folders that are read and written) is checked in each worker process, also on nodes that
join later.
"""

import logging
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import CelluScanError
from .versions import versions
from .workers import IN_FLIGHT, Result, Task

SOFTWARE = ("python", "celluscan_hf", "numpy", "pillow", "pyarrow", "scipy", "tifffile", "torch", "torchvision")
RETRIES = 5  # of a task whose worker or node died: a task that kills its worker each time must end
_REFRESH = 1.0  # seconds after which the size of the cluster is read again
_CONNECT_SECONDS = 10.0
_log = logging.getLogger(__name__)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Join the Ray cluster at `address` (`host:port`, `ray://host:port`), and leave it at the end.

    With `"auto"` the one named by RAY_ADDRESS or running on this machine; if there is none, one is started with the
    cores of this machine and ended again. A connection that the process has already is used and left open.

    Raises:
        CelluScanError: Ray is not installed, or no cluster answers.
    """
    # read when Ray is imported; its default is to try a task that is too large for the memory of a node without end
    os.environ.setdefault("RAY_task_oom_retries", str(RETRIES))
    try:
        import ray
    except ModuleNotFoundError:
        raise CelluScanError('--ray needs Ray, which is not installed: pip install "celluscan_hf[ray]"') from None
    if ray.is_initialized():
        yield
        return
    try:
        _join(address)
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    from .dataset.settings import cores

    if address != "auto":
        _require_listener(address)
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}  # errors reach the driver as such
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        if address == "auto" and isinstance(error, ConnectionError) and not os.environ.get("RAY_ADDRESS"):
            ray.init(address="local", num_cpus=cores(), include_dashboard=False, **quiet)
            return
        raise _not_joined(address, str(error)) from error


def _require_listener(address: str) -> None:
    """Raise a `CelluScanError` if nothing listens at an address: Ray would try for minutes, and log each time."""
    place = urlsplit(address if "://" in address else f"//{address}")
    try:
        if place.hostname is None or place.port is None:
            raise ValueError("expected host:port")
        socket.create_connection((place.hostname, place.port), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _not_joined(address, str(error)) from error


def _not_joined(address: str, reason: str) -> CelluScanError:
    reason = " ".join(reason.partition("\n")[0].split())
    return CelluScanError(
        f"--ray {address}: no Ray cluster could be joined ({reason}); give host:port on a machine of the cluster, "
        "ray://host:10001 from elsewhere, or auto"
    )


@dataclass(frozen=True)
class Conditions:
    """What a node must have in common with the driver: `software`, the working `folder`, and visible `paths`."""

    software: tuple[tuple[str, str], ...]
    folder: str
    paths: tuple[str, ...]


@contextmanager
def conditions(shared: Path, inputs: Iterable[Path]) -> Iterator[Conditions]:
    """Yield the conditions of a job that writes to `shared` and reads `inputs`, while a token file is in `shared`."""
    with tempfile.NamedTemporaryFile(dir=shared, prefix=".celluscan-") as token:
        software = tuple(versions(SOFTWARE).items())
        yield Conditions(software, os.getcwd(), (os.path.abspath(token.name), *map(os.path.abspath, inputs)))


@lru_cache(maxsize=1)
def require(needed: Conditions) -> None:
    """Enter the driver's working folder, and raise a `CelluScanError` if this node does not meet its conditions."""
    from ray.util import get_node_ip_address

    installed = versions(SOFTWARE)
    if differing := [name for name, version in needed.software if installed[name] != version]:
        name = differing[0]
        raise CelluScanError(
            f"node {get_node_ip_address()} has {name} {installed[name]}, but this machine has "
            f"{dict(needed.software)[name]}: results would differ; install the same versions on all nodes"
        )
    for path in needed.paths:
        if not os.path.lexists(path):
            shown = Path(path).parent if Path(path).name.startswith(".celluscan-") else path
            raise CelluScanError(
                f"node {get_node_ip_address()} does not see {shown} of this machine; all nodes must share the folders "
                "of sources and output under the same paths"
            )
    if not os.path.isdir(needed.folder):  # relative paths of sources would mean other files than in the driver
        raise CelluScanError(
            f"node {get_node_ip_address()} does not see the folder {needed.folder}, in which this command was started; "
            "start it in a folder that all nodes share"
        )
    os.chdir(needed.folder)


def _run(function: Callable[[Task], Result], needed: Conditions, task: Task) -> Result:
    require(needed)
    return function(task)


@contextmanager
def interrupts_kept() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `KeyboardInterrupt` if Ctrl-C was pressed: Ray may lose the first while it waits."""
    pressed = threading.Event()

    def raise_interrupt() -> None:
        if pressed.is_set():
            raise KeyboardInterrupt

    def press(number: int, frame: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield raise_interrupt
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield raise_interrupt
    finally:
        signal.signal(signal.SIGINT, before)


class RayWorkers:
    """All cores of a Ray cluster; see `workers.open_workers` for the arguments."""

    def __init__(self, address: str, shared: Path, inputs: Sequence[Path] = ()) -> None:
        self.address = address
        self.shared = shared
        self.inputs = inputs
        self._open = ExitStack()
        self._window, self._read_at = 0, 0.0
        self.raise_interrupt: Callable[[], None] = lambda: None

    def __enter__(self) -> "RayWorkers":
        with ExitStack() as stack:
            stack.enter_context(connected(self.address))
            self.conditions = stack.enter_context(conditions(self.shared, self.inputs))
            self.raise_interrupt = stack.enter_context(interrupts_kept())
            self._open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results as they finish; see `Workers`. One task per core at a time, with one thread."""
        import ray

        submit = ray.remote(num_cpus=1, max_retries=RETRIES)(_run).remote  # Ray sets OMP_NUM_THREADS to num_cpus
        waiting: list[Any] = []
        try:
            for task in tasks:
                waiting.append(submit(function, self.conditions, task))
                while len(waiting) >= self.window():
                    done, waiting = self._finished(waiting)
                    yield from _results(done)
            while waiting:
                done, waiting = self._finished(waiting)
                yield from _results(done)
        finally:
            for reference in waiting:
                ray.cancel(reference, force=True)

    def _finished(self, waiting: list[Any]) -> tuple[list[Any], list[Any]]:
        """Wait for one task or more, and return those that are finished, and the others."""
        import ray

        first, others = ray.wait(waiting, num_returns=1)
        more, others = ray.wait(others, num_returns=len(others), timeout=0) if others else ([], [])
        self.raise_interrupt()
        return first + more, others

    def window(self) -> int:
        """Return how many tasks may be submitted at a time. Nodes come and go, so it is read again each second."""
        import ray

        if time.monotonic() > self._read_at + _REFRESH:
            processors = int(ray.cluster_resources().get("CPU", 0))
            if processors == 0 and self._window != 1:
                _log.warning("the Ray cluster has no node with a core for tasks; waiting for one")
            self._window, self._read_at = max(1, IN_FLIGHT * processors), time.monotonic()
        return self._window


def _results(references: list[Any]) -> Iterator[Any]:
    import ray

    for reference in references:
        with task_errors():
            result = ray.get(reference)
        yield result


@contextmanager
def task_errors() -> Iterator[None]:
    """Raise the exception of a task as a local process would, and one line if a task was lost again and again."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError as error:
        raise error.cause from error
    except RayError as error:
        raise CelluScanError(
            f"a task was lost {RETRIES + 1} times as its worker or node died, most likely out of memory "
            f"({type(error).__name__}); run again (a build with --resume) on nodes with more memory per core"
        ) from error
