"""Entries of a source's tree of files, and what folders and archives have in common."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..errors import BadImage
from .hidden import hidden_part

MAX_FILE_BYTES = 64 * 2**20  # the largest file of any listed source is under 2 MiB
EMPTY_FOLDER = "empty_folder"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_DRIVE = re.compile(r"[A-Za-z]:(?=/)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a tree by its path with `/`, or an empty folder; `problem` is set if it must not be opened.

    `stamp` is equal as long as the file is unchanged: its size in bytes and modification time, or its archive's.
    """

    path: str
    problem: str = ""
    stamp: tuple[int, int] = field(default=(0, 0), compare=False)


class Tree(ABC):
    """The files below `location`, the path given by the user."""

    location: Path

    @abstractmethod
    def all_entries(self) -> Iterator[Entry]:
        """List `entries` and the skipped ones: system files, and hidden folders by their names with a `/`."""

    def walk(self) -> Iterator[Entry]:
        """List the same one by one, files in the order of their paths."""
        return self.all_entries()

    def entries(self) -> Iterator[Entry]:
        """List all files and empty folders by path, without hidden and system ones."""
        return (entry for entry in self.all_entries() if not hidden_part(entry.path))

    @abstractmethod
    def read(self, path: str) -> bytes:
        """Read a file. Raises `BadImage` if it cannot be read or has more than `MAX_FILE_BYTES`."""


def clean_path(name: str) -> str:
    """Return the relative path that a name in an archive or table stands for; empty if it points above its root.

    As tar and zip tools do when they unpack: `\\` becomes `/`; a drive, leading `/` and `.` are removed.
    """
    parts = [part for part in _DRIVE.sub("", name.replace("\\", "/"), count=1).split("/") if part not in ("", ".")]
    return "" if ".." in parts else "/".join(parts)


def readable(path: str) -> str:
    """Return a path as UTF-8, with other bytes written as `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def name_problem(path: str) -> str:
    """Return `non_utf8_name` or an empty string."""
    return "" if readable(path) == path else "non_utf8_name"


def file_stamp(status: os.stat_result) -> tuple[int, int]:
    """Return the size in bytes and the modification time in nanoseconds."""
    return status.st_size, status.st_mtime_ns


def check_size(path: str, size: int) -> None:
    """Raise `BadImage` for a file of more than `MAX_FILE_BYTES`."""
    if size > MAX_FILE_BYTES:
        reason = "archive" if path.lower().endswith(_ARCHIVES) else "too_many_bytes"
        raise BadImage(reason, f"over {MAX_FILE_BYTES >> 20} MiB")


def read_limited(file: IO[bytes], path: str) -> bytes:
    """Read a file whose stated size cannot be trusted. Raises `BadImage` if it has more than `MAX_FILE_BYTES`."""
    data = file.read(MAX_FILE_BYTES + 1)
    check_size(path, len(data))
    return data


def scratch_copy(original: Path, scratch: Path, ending: str, *details: str) -> Path:
    """Return the path in `scratch` for a copy of a file, which changes whenever the file or `details` do."""
    identity = "|".join([str(original.resolve()), str(file_stamp(original.stat())), *details])
    return scratch / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}{ending}"
