"""Files that exist only when they are whole: written under a name of their own, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MARK = ".partial"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give the path to write to; on leaving it becomes `path`, or is removed where writing failed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{_MARK}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write_folder(path: Path) -> Iterator[Path]:
    """As `whole`, of a folder: give an empty one to write into, which becomes `path`; that must not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}{_MARK}")
    partial.mkdir()
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def remove_partial_files(folder: Path) -> None:
    """Remove what a killed process left half-written below a folder."""
    for partial in folder.rglob(f".*{_MARK}"):
        partial.unlink(missing_ok=True)
