"""A source's files, whether they lie in a folder, a zip or a tar, or in a remote folder.

Nothing is ever unpacked by a name in an archive.
"""

import errno
import hashlib
import os
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadImage, CelluScanError
from ..remote import file_system, is_remote
from .archives import TarTree, ZipTree, is_tar, uncompressed
from .entries import EMPTY_FOLDER, Entry, Tree, check_size, file_stamp, name_problem, read_limited, readable
from .hidden import hidden_part, is_hidden_folder

__all__ = ["Entry", "FolderTree", "RemoteTree", "Tree", "open_folder", "open_tree"]
_GONE = (FileNotFoundError, IsADirectoryError)
_LOST = {errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ETIMEDOUT}  # the file may be fine


def open_tree(location: Path, scratch: Path) -> Tree:
    """Open the tree at `location`; `scratch` takes the decompressed copy of a compressed tar."""
    if location.is_dir():
        return open_folder(location)
    if not location.exists():
        raise CelluScanError(f"{location} does not exist; expected a folder, a zip or a tar of the dataset")
    if is_remote(location):
        raise CelluScanError(f"{location} is a file; expected a remote folder of images, or a local archive")
    if zipfile.is_zipfile(location):
        return ZipTree(location)
    if is_tar(location):
        return TarTree(location, uncompressed(location, scratch))
    raise CelluScanError(f"{location} is not a folder, zip or tar; give the dataset as its publisher packs it")


def open_folder(location: Path) -> Tree:
    """Open a local or remote folder."""
    return RemoteTree(location) if is_remote(location) else FolderTree(location)


@dataclass(frozen=True)
class RemoteTree(Tree):
    """A folder on another machine, of which one file at a time is fetched."""

    location: Path

    def all_entries(self) -> Iterator[Entry]:
        system, root = file_system(self.location)
        for path, facts in sorted(system.find(root, detail=True).items()):
            digest = hashlib.sha256(repr(sorted(facts.items(), key=str)).encode()).digest()
            stamp = facts.get("size") or 0, int.from_bytes(digest[:7], "big")
            yield Entry(readable(path.removeprefix(root).lstrip("/")), name_problem(path), stamp)

    def read(self, path: str) -> bytes:
        system, root = file_system(self.location)
        try:
            with system.open(f"{root}/{path}", "rb") as file:
                return read_limited(file, path)
        except _GONE as error:
            raise BadImage("unreadable", error.strerror or type(error).__name__) from error
        except OSError as error:  # of the network, or a login that ended: the file may be fine
            raise CelluScanError(f"{self.location / path} cannot be fetched ({error}); run again to go on") from error


@dataclass(frozen=True)
class FolderTree(Tree):
    """A folder. Links are followed; a link back to a folder above is reported instead."""

    location: Path

    def all_entries(self) -> Iterator[Entry]:
        return iter(sorted(self.walk(), key=lambda entry: entry.path))

    def walk(self) -> Iterator[Entry]:
        """Yield the entries one by one, files in the order of their paths; one folder's names are in memory."""
        above = frozenset([_identity(os.stat(self.location))])
        return self._walk(os.fspath(self.location), "", above)

    def _walk(self, folder: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
        try:
            children = sorted(os.scandir(folder), key=_place_in_path)
        except OSError:
            yield Entry(readable(prefix.rstrip("/")), "unreadable_folder")
            return
        for child in children:
            path = prefix + child.name
            try:
                status = child.stat()
            except OSError as error:
                yield Entry(readable(path), "symlink_loop" if error.errno == errno.ELOOP else "broken_link")
                continue
            if not stat.S_ISDIR(status.st_mode):
                yield Entry(readable(path), _file_problem(path, status), file_stamp(status))
            elif is_hidden_folder(child.name):
                yield Entry(readable(path) + "/")
            elif _identity(status) in above:
                yield Entry(readable(path), "symlink_loop")
            else:
                empty = True
                for entry in self._walk(child.path, path + "/", above | {_identity(status)}):
                    empty = empty and bool(hidden_part(entry.path))
                    yield entry
                if empty:
                    yield Entry(readable(path), EMPTY_FOLDER)

    def read(self, path: str) -> bytes:
        try:
            with open(self.location / path, "rb", buffering=0) as file:
                check_size(path, os.fstat(file.fileno()).st_size)
                return file.read()
        except OSError as error:
            if error.errno in _LOST:
                raise CelluScanError(
                    f"{self.location / path} cannot be read now ({error.strerror}); run again to go on"
                ) from error
            raise BadImage("unreadable", error.strerror or str(error)) from error


def _place_in_path(child: "os.DirEntry[str]") -> str:
    """Return what orders the children of a folder as the paths of the files in them."""
    try:
        return readable(child.name) + "/" * child.is_dir()
    except OSError:  # a link to itself
        return readable(child.name)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _file_problem(path: str, status: os.stat_result) -> str:
    return name_problem(path) or ("" if stat.S_ISREG(status.st_mode) else "not_a_file")
