"""A source's files, whether they lie in a folder, a zip or a tar. Nothing is ever unpacked by a name in an archive.

A folder is walked, a zip and an uncompressed tar are read in place; a compressed tar is first decompressed, as one
file, into a scratch folder, since reading it at random would start from its beginning every time.
"""

import errno
import gzip
import hashlib
import lzma
import os
import re
import stat
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from bz2 import BZ2File
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Generic, NamedTuple, Protocol, TypeVar

from ..atomic_io import atomic_write
from ..errors import BadImage, CelluScanError
from .hidden import hidden_part, is_hidden_folder

MAX_FILE_BYTES = 64 * 2**20  # the largest file of any listed source is under 2 MiB
MAX_EXPANSION = 200  # a compressed tar that grows beyond this factor is not a data set
_COPY_BYTES = 4 * 2**20
# what the archive modules of the standard library raise on damaged files
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError)
_COMPRESSED: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": lambda path: gzip.open(path),
    b"BZh": lambda path: BZ2File(path),
    b"\xfd7zXZ": lambda path: lzma.open(path),
}
EMPTY_FOLDER = "empty_folder"
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_ZIP_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_ZIP_ENCRYPTED = 1  # a bit of a member's general purpose flags
Info = TypeVar("Info", zipfile.ZipInfo, tarfile.TarInfo)
_DRIVE = re.compile(r"[A-Za-z]:(?=/)")


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the tree by its path with `/`, or a folder without any; `problem` is set where it must not be opened.

    `stamp` is equal as long as the file is: its size in bytes and time of change, or those of its archive.
    """

    path: str
    problem: str = ""
    stamp: tuple[int, int] = field(default=(0, 0), compare=False)


class Tree(Protocol):
    """The files below one path."""

    @property
    def location(self) -> Path:
        """Where the user said it is."""

    def entries(self) -> Iterator[Entry]:
        """Every file and every empty folder but those of hidden and system folders, in the order of their paths."""

    def all_entries(self) -> Iterator[Entry]:
        """`entries`, and what they pass over: each such file, or its folder alone with a `/` behind it."""

    def read(self, path: str) -> bytes:
        """A file's bytes. Raises `BadImage` where they cannot be had or are more than `MAX_FILE_BYTES`."""


def open_tree(location: Path, scratch: Path) -> Tree:
    """The tree at `location`; `scratch` takes the decompressed copy of a compressed tar."""
    if location.is_dir():
        return FolderTree(location)
    if not location.exists():
        raise CelluScanError(f"{location} does not exist; expected a folder, a zip or a tar of the data set")
    if zipfile.is_zipfile(location):
        return ZipTree(location)
    if _is_tar(location):
        return TarTree(location, _uncompressed(location, scratch))
    raise CelluScanError(f"{location} is no folder, zip or tar; give the data set as its publisher packs it")


class _Visible(ABC):
    """The entries of a tree without what `sources.hidden` passes over."""

    @abstractmethod
    def all_entries(self) -> Iterator[Entry]: ...

    def entries(self) -> Iterator[Entry]:
        return (entry for entry in self.all_entries() if not hidden_part(entry.path))


@dataclass(frozen=True)
class FolderTree(_Visible):
    """A folder. Links are followed; a link back to a folder above is reported instead."""

    location: Path

    def all_entries(self) -> Iterator[Entry]:
        above = frozenset([_identity(os.stat(self.location))])
        return iter(sorted(self._walk(os.fspath(self.location), "", above), key=lambda entry: entry.path))

    def _walk(self, folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
        try:
            children = list(os.scandir(folder))
        except OSError:
            yield Entry(_readable(prefix.rstrip("/")), "unreadable_folder")
            return
        for child in children:
            path = prefix + child.name
            try:
                status = child.stat()
            except OSError as error:
                yield Entry(_readable(path), "symlink_loop" if error.errno == errno.ELOOP else "broken_link")
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield Entry(_readable(path), _file_problem(path, status), _stamp(status))
            elif is_hidden_folder(child.name):
                yield Entry(_readable(path) + "/")
            elif _identity(status) in above:
                yield Entry(_readable(path), "symlink_loop")
            else:
                below = list(self._walk(child.path, path + "/", above | {_identity(status)}))
                yield from below
                if all(hidden_part(entry.path) for entry in below):
                    yield Entry(_readable(path), EMPTY_FOLDER)

    def read(self, path: str) -> bytes:
        try:
            with open(self.location / path, "rb", buffering=0) as file:
                if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                    raise _too_large(path)
                return file.read()
        except OSError as error:
            raise BadImage("unreadable", error.strerror or str(error)) from error


@dataclass(frozen=True)
class ZipTree(_Visible):
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
        return _archive_entries(self._members, _stamp(self.location.stat()))

    def read(self, path: str) -> bytes:
        try:
            member = self._by_path[path]
            if member.file_size > MAX_FILE_BYTES:
                raise _too_large(path)
            with self._zip.open(member) as file:
                return _limited(file, path)
        except KeyError as error:
            raise _missing() from error
        except (*_DAMAGED, RuntimeError, ValueError) as error:  # also encrypted, or packed in an unknown way
            raise BadImage("unreadable", str(error)) from error

    def __getstate__(self) -> dict[str, Path]:
        return {"location": self.location}  # each process opens its own


@dataclass(frozen=True)
class TarTree(_Visible):
    """A tar file: `location` as the user gave it, `data` the uncompressed file that is read in place."""

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
        return _archive_entries(self._members, _stamp(self.location.stat()))

    def read(self, path: str) -> bytes:
        member = self._by_path.get(path)
        if member is None:
            raise _missing()
        if member.size > MAX_FILE_BYTES:
            raise _too_large(path)
        with open(self.data, "rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)

    def __getstate__(self) -> dict[str, Path]:
        return {"location": self.location, "data": self.data}


def clean_path(name: str) -> str:
    """The relative path that a name in an archive or a table stands for; empty where it points above its root.

    As tar and zip tools do when they unpack: `\\` is `/`, and a drive, leading `/` and `.` are taken off.
    """
    parts = [part for part in _DRIVE.sub("", name.replace("\\", "/"), count=1).split("/") if part not in ("", ".")]
    return "" if ".." in parts else "/".join(parts)


class Member(NamedTuple, Generic[Info]):
    """A file of an archive: its path in the tree, its name and facts in the archive, why it must not be opened."""

    path: str
    name: str
    info: Info
    problem: str


def _members(found: Iterable[tuple[str, Info, str]]) -> list[Member[Info]]:
    """The files and empty folders of an archive by their paths; of equal paths first the one that is named exactly so.

    Folders come in as files with the problem `empty_folder`; those that hold something are left out.
    """
    members: list[Member[Info]] = [Member(clean_path(name), name, info, problem) for name, info, problem in found]
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
    """The member that is read under each path: of several equal names the last, as when unpacking."""
    chosen: dict[str, Member[Info]] = {}
    for member in members:
        if member.name == chosen.setdefault(member.path, member).name:
            chosen[member.path] = member
    return {path: member.info for path, member in chosen.items()}


def _archive_entries(members: Iterable[Member[Info]], stamp: tuple[int, int]) -> Iterator[Entry]:
    seen: set[str] = set()
    for path, name, _, problem in members:
        shown = path or name
        problem = ("" if path else "unsafe_path") or problem or _name_problem(shown)
        problem = problem or ("repeated_member" if path in seen else "")
        seen.add(path)
        yield Entry(_readable(shown), problem, stamp)


def _zip_problem(info: zipfile.ZipInfo) -> str:
    if info.is_dir() or info.filename.endswith("\\"):  # Windows tools may write folders as empty files so named
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


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _file_problem(path: str, status: os.stat_result) -> str:
    return _name_problem(path) or ("" if stat.S_ISREG(status.st_mode) else "not_a_file")


def _name_problem(path: str) -> str:
    return "" if _readable(path) == path else "non_utf8_name"


def _readable(path: str) -> str:
    """The path itself where it is UTF-8; else with the foreign bytes written as `\\xNN`."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_tar(location: Path) -> bool:
    try:
        return tarfile.is_tarfile(location)
    except _DAMAGED:
        return False


def _damaged(location: Path, error: Exception) -> CelluScanError:
    return CelluScanError(f"{location} is damaged or cut short ({error}); download it again")


def _missing() -> BadImage:
    return BadImage("unreadable", "no such file in the archive")


def _too_large(path: str) -> BadImage:
    reason = "archive" if path.lower().endswith(_ARCHIVES) else "too_many_bytes"
    return BadImage(reason, f"over {MAX_FILE_BYTES >> 20} MiB")


def _limited(file: IO[bytes], path: str) -> bytes:
    data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise _too_large(path)
    return data


def _uncompressed(location: Path, scratch: Path) -> Path:
    """`location` itself, or its decompressed copy in `scratch` (made once; complete when it has its name)."""
    with open(location, "rb") as file:
        head = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED.items() if head.startswith(magic)), None)
    if opener is None:
        return location
    status = location.stat()
    identity = f"{location.resolve()}|{_stamp(status)}"
    copy = scratch / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.tar"
    if not copy.exists():
        with atomic_write(copy) as partial, opener(location) as source, open(partial, "wb") as target:
            _copy(source, target, limit=MAX_EXPANSION * status.st_size, location=location)
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
