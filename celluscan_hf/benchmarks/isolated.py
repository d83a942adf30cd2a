"""Measurements in processes of their own."""

import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def isolated(function: Callable[..., Any], *arguments: object) -> Any:
    """Run in a new process, so that no measurement inherits another's memory or imports."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_mib() -> float:
    """Peak resident memory of this process in MiB, with what it shares with others by mapped files."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)
