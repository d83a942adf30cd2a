"""Atomic writes: a file or folder is written under a temporary name and renamed when it is complete.

A remote file (`remote.locate`) is written locally and uploaded when it is complete, since object stores have no rename.

Temporary names are drawn at random: two machines that write one file may have processes of the same number.
"""

import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .remote import file_system, is_remote

_SUFFIX = ".partial"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It becomes `path` on success and is removed on failure."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder, path.name)
            system, target = file_system(path)
            system.put_file(str(Path(folder, path.name)), target)
        return
    partial = _partial_path(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_write_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder to write into. It becomes `path`, which must not exist, on success."""
    partial = _partial_path(path)
    partial.mkdir()
    try:
        yield partial
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _partial_path(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}")


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files that a killed process left below a folder."""
    for partial in folder.rglob(f".*{_SUFFIX}"):
        partial.unlink(missing_ok=True)
