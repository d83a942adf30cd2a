"""Network guard: a process that imports this talks to its own machine only.

On the PYTHONPATH, Python imports it at start. It then reads three variables of the environment:

- `CELLUSCAN_REFUSED`: the file to which the name of every refused host is appended.
- `CELLUSCAN_BLOCKED=1`: `import celluscan_hf` fails, as where the package is not installed.
- `CELLUSCAN_SHORT_WAITS=1`: `time.sleep` lasts 10 ms at most, so that retries with a backoff are quick.

Loaded under any other name it does nothing until `install` is called.
"""

import contextlib
import functools
import importlib.abc
import ipaddress
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = "celluscan_hf"
LONGEST_WAIT = 0.01  # seconds, where waits are short
VIEWER = "datasets-server."  # `datasets` puts this before the endpoint's host to find the dataset viewer


class HostRefused(RuntimeError):
    """Raised where a process asks for another machine; no OSError, so that no client takes it for a lost connection."""


@functools.cache
def own_names() -> set[str]:
    return {"localhost", socket.gethostname(), socket.getfqdn()}


def is_local(host: str | bytes | None) -> bool:
    """Whether a host, by name or by address, is this machine. Looks up no name but the machine's own."""
    if isinstance(host, bytes):
        host = host.decode()
    if not host or host == f"{VIEWER}127.0.0.1":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host in own_names()
    if address.is_loopback or address.is_unspecified:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))  # works for the addresses of this machine's interfaces only
        return not address.is_multicast
    return False


def check(host: str | bytes | None) -> None:
    """Refuses a host that is not this machine, and writes its name down."""
    if is_local(host):
        return
    name = host.decode() if isinstance(host, bytes) else str(host)
    record = os.environ.get("CELLUSCAN_REFUSED")
    if record:
        with Path(record).open("a") as file:
            file.write(f"{name}\n")
    raise HostRefused(f"The network guard refuses {name}: only this machine may be asked.")


def guarded_connection(original: Callable[..., Any]) -> Callable[..., Any]:
    """`socket.connect` or `connect_ex` that asks the guard first; addresses that are no tuple are local sockets."""

    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            check(address[0])
        return original(self, address)

    return connect


def guarded_lookup(original: Callable[..., Any]) -> Callable[..., Any]:
    """A look-up by name that asks the guard first; the viewer's name is the loop-back."""

    def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        check(host)
        name = host.decode() if isinstance(host, bytes) else host
        return original(name and name.removeprefix(VIEWER), *arguments, **options)

    return look_up


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Guards the process for the time of a `with`."""
    undo = install()
    try:
        yield
    finally:
        undo()


def install() -> Callable[[], None]:
    """Guards the process from now on, `create_connection` by what it calls; what is given back undoes it."""
    holders: list[tuple[Any, str, Any]] = [
        (socket.socket, name, guarded_connection) for name in ("connect", "connect_ex")
    ]
    holders += [(socket, name, guarded_lookup) for name in ("getaddrinfo", "gethostbyname")]
    originals = [(holder, name, getattr(holder, name)) for holder, name, _ in holders]
    for holder, name, guarded in holders:
        setattr(holder, name, guarded(getattr(holder, name)))

    def undo() -> None:
        for holder, name, original in originals:
            setattr(holder, name, original)

    return undo


class Blocked(importlib.abc.MetaPathFinder):
    """Finds the package before anything else does, and says that it is not there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] == PACKAGE:
            raise ModuleNotFoundError(f"No module named {name!r}: blocked in a clean process", name=name)


def shorten_waits() -> None:
    """`time.sleep` lasts a moment only."""
    original = time.sleep
    time.sleep = lambda seconds: original(min(float(seconds), LONGEST_WAIT))


if __name__ == "sitecustomize":
    install()
    if os.environ.get("CELLUSCAN_BLOCKED") == "1":
        sys.meta_path.insert(0, Blocked())
    if os.environ.get("CELLUSCAN_SHORT_WAITS") == "1":
        shorten_waits()
