"""Zip and tar files as trees. A zip and an uncompressed tar are read in place.

A compressed tar is first decompressed, as one file, into a scratch folder, since each random access would otherwise
decompress it from the start.
"""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from bz2 import BZ2File
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Generic, NamedTuple, TypeVar

from ..atomic_io import atomic_write
from ..errors import BadImage, CelluScanError
from .entries import (
    EMPTY_FOLDER,
    Entry,
    Tree,
    check_size,
    clean_path,
    file_stamp,
    name_problem,
    read_limited,
    readable,
    scratch_copy,
)
from .hidden import hidden_part

MAX_EXPANSION = 200  # a compressed tar that grows beyond this factor is not a dataset
_COPY_BYTES = 4 * 2**20
# what the archive modules of the standard library raise on damaged files
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
_COMPRESSED: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": lambda path: gzip.open(path),
    b"BZh": lambda path: BZ2File(path),
    b"\xfd7zXZ": lambda path: lzma.open(path),
}
_ZIP_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ZIP_ENCRYPTED = 1  # a bit of a member's general purpose flags
Info = TypeVar("Info", zipfile.ZipInfo, tarfile.TarInfo)


@dataclass(frozen=True)
class ZipTree(Tree):
    """A zip file, read in place."""

    location: Path

    @cached_property
    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.location)
        except _DAMAGED as error:
            raise _damaged(self.location, error) from error

    @cached_property
    def _members(self) -> "list[Member[zipfile.ZipInfo]]":
        return _members((info.filename, info, _zip_problem(info)) for info in self._zip.infolist())

    @cached_property
    def _by_path(self) -> dict[str, zipfile.ZipInfo]:
        return _by_path(self._members)

    def all_entries(self) -> Iterator[Entry]:
        return _archive_entries(self._members, file_stamp(self.location.stat()))

    def read(self, path: str) -> bytes:
        try:
            member = self._by_path[path]
            check_size(path, member.file_size)
            with self._zip.open(member) as file:
                return read_limited(file, path)
        except KeyError as error:
            raise _missing() from error
        except (*_DAMAGED, RuntimeError, ValueError) as error:  # also encrypted, or of an unknown compression
            raise BadImage("unreadable", str(error)) from error

    def __getstate__(self) -> dict[str, Path]:
        return {"location": self.location}  # each process opens its own


@dataclass(frozen=True)
class TarTree(Tree):
    """A tar file: `location` as given by the user, `data` the uncompressed file that is read in place."""

    location: Path
    data: Path

    @cached_property
    def _members(self) -> "list[Member[tarfile.TarInfo]]":
        try:
            with tarfile.open(self.data, "r:") as tar:
                return _members((member.name, member, _tar_problem(member)) for member in tar)
        except _DAMAGED as error:
            raise _damaged(self.location, error) from error

    @cached_property
    def _by_path(self) -> dict[str, tarfile.TarInfo]:
        return _by_path(self._members)

    def all_entries(self) -> Iterator[Entry]:
        return _archive_entries(self._members, file_stamp(self.location.stat()))

    def read(self, path: str) -> bytes:
        member = self._by_path.get(path)
        if member is None:
            raise _missing()
        check_size(path, member.size)
        with open(self.data, "rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)

    def __getstate__(self) -> dict[str, Path]:
        return {"location": self.location, "data": self.data}


class Member(NamedTuple, Generic[Info]):
    """A file of an archive: its path in the tree, its name and record in the archive, and why it must not be opened."""

    path: str
    name: str
    info: Info
    problem: str


def _members(listed: Iterable[tuple[str, Info, str]]) -> list[Member[Info]]:
    """Sort the files and empty folders of an archive by path; of equal paths, one with exactly that name comes first.

    Folders are given as files with the problem `empty_folder`; those that are not empty are left out.
    """
    members: list[Member[Info]] = [Member(clean_path(name), name, info, problem) for name, info, problem in listed]
    visible = [m for m in members if not hidden_part(f"{m.path}/" if m.problem == EMPTY_FOLDER else m.path)]
    filled = {""}
    for member in visible:
        folder = member.path.rpartition("/")[0]
        while folder not in filled:
            filled.add(folder)
            folder = folder.rpartition("/")[0]
    kept: list[Member[Info]] = [m for m in members if m.problem != EMPTY_FOLDER]
    kept += [m for m in visible if m.problem == EMPTY_FOLDER and m.path not in filled]
    kept.sort(key=lambda member: (member.path or member.name, member.path != member.name, member.name))
    return kept


def _by_path(members: Iterable[Member[Info]]) -> dict[str, Info]:
    """Map each path to the member to read: of several equal names the last, as when unpacking."""
    chosen: dict[str, Member[Info]] = {}
    for member in members:
        if member.name == chosen.setdefault(member.path, member).name:
            chosen[member.path] = member
    return {path: member.info for path, member in chosen.items()}


def _archive_entries(members: Iterable[Member[Info]], stamp: tuple[int, int]) -> Iterator[Entry]:
    listed: set[str] = set()
    for path, name, _, problem in members:
        label = path or name
        problem = ("" if path else "unsafe_path") or problem or name_problem(label)
        problem = problem or ("repeated_member" if path in listed else "")
        listed.add(path)
        yield Entry(readable(label), problem, stamp)


def _zip_problem(info: zipfile.ZipInfo) -> str:
    if info.is_dir() or info.filename.endswith("\\"):  # Windows tools may write folders as empty files
        return EMPTY_FOLDER
    if stat.S_ISLNK(info.external_attr >> 16):
        return "link_in_archive"
    if info.flag_bits & _ZIP_ENCRYPTED:
        return "encrypted"
    return "" if info.compress_type in _ZIP_METHODS else "unknown_compression"


def _tar_problem(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return EMPTY_FOLDER
    return "" if member.isfile() and not member.issparse() else "link_in_archive"


def is_tar(location: Path) -> bool:
    """Whether a file is a tar, compressed or not."""
    try:
        return tarfile.is_tarfile(location)
    except _DAMAGED:
        return False


def _damaged(location: Path, error: Exception) -> CelluScanError:
    return CelluScanError(f"{location} is damaged or cut short ({error}); download it again")


def _missing() -> BadImage:
    return BadImage("unreadable", "no such file in the archive")


def uncompressed(location: Path, scratch: Path) -> Path:
    """Return `location` itself, or its decompressed copy in `scratch`, written once and atomically."""
    with open(location, "rb") as file:
        head = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    if opener is None:
        return location
    copy = scratch_copy(location, scratch, ".tar")
    if not copy.exists():
        with atomic_write(copy) as partial, opener(location) as source, open(partial, "wb") as target:
            _copy(source, target, limit=MAX_EXPANSION * location.stat().st_size, location=location)
    return copy


def _copy(source: BufferedIOBase, target: IO[bytes], limit: int, location: Path) -> None:
    while block := _next_block(source, location):
        target.write(block)
        if target.tell() > limit:
            raise CelluScanError(f"{location} grows more than {MAX_EXPANSION} times when decompressed; not read")


def _next_block(source: BufferedIOBase, location: Path) -> bytes:
    try:
        return source.read(_COPY_BYTES)
    except _DAMAGED as error:
        raise _damaged(location, error) from error
