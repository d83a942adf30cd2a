"""Match the rows of a folder's metadata tables to its files; raise an error if they do not fit together."""

import posixpath
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import CelluScanError
from .groups import place_of
from .hidden import hidden_part
from .metadata import Row, Table

_SHOWN = 3  # names in a message
_LAST = "\U0010ffff"  # sorts after every other character


@dataclass(frozen=True, slots=True)
class Description:
    """The entry of one file in the table of the folder `root`; missing values are empty."""

    root: str
    label: str
    group_id: str


@dataclass(frozen=True)
class Descriptions:
    """Descriptions by file path, and for each path that is named but does not exist the table that names it."""

    files: Mapping[str, Description] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def describe(tables: Sequence[Table], files: Sequence[str], images: Sequence[str]) -> Descriptions:
    """Match the rows of tables to the files of a tree; `images` are those that should have a row.

    Raises:
        CelluScanError: Two rows match one file, or one could match two; two tables disagree; more than half of the rows
            of a table match no file; or more than half of the images of its folder have no row, and by that no group
            or no label.
    """
    index = _FileIndex(files)
    images = sorted(images)
    described: dict[str, tuple[Table, Description]] = {}
    missing: dict[str, str] = {}
    for table in tables:
        matched, unmatched = index.match(table)
        if 2 * len(unmatched) > len(table.rows):
            without_row = [path for path in _below(table.root, images) if path not in matched]
            raise CelluScanError(_misfit(table, unmatched, without_row))
        for path, row in matched.items():
            new = Description(table.root, row.label, row.group_id)
            other, old = described.setdefault(path, (table, new))
            if (old.label, old.group_id) != (new.label, new.group_id):
                raise CelluScanError(f"{other.path} and {table.path} disagree on {path}; give each file one row")
        missing |= {_normalized(table.root + row.file_name): table.path for row in unmatched}
    for table in tables:
        nearby = _below(table.root, images)
        without_row = [path for path in nearby if path not in described]
        if not any(row.group_id for row in table.rows):  # then only images that get no label from a folder are lost
            without_row = [path for path in without_row if not place_of(posixpath.dirname(path)).classes]
        if 2 * len(without_row) > len(nearby):
            raise CelluScanError(_gaps(table, nearby, without_row))
    return Descriptions({path: description for path, (_, description) in described.items()}, missing)


def _below(root: str, paths: Sequence[str]) -> Sequence[str]:
    """Return those of sorted paths that start with `root`."""
    return paths[bisect_left(paths, root) : bisect_left(paths, root + _LAST)]


def _misfit(table: Table, rows: Sequence[Row], without_row: Sequence[str]) -> str:
    return (
        f"{len(rows):,} of {len(table.rows):,} rows of {table.path} match no file: {_some(_names(rows))}; "
        f"images without a row are {_some(without_row)}; write each file_name relative to the folder of the table"
    )


def _gaps(table: Table, images: Sequence[str], without_row: Sequence[str]) -> str:
    return (
        f"{len(without_row):,} of {len(images):,} images have no row in {table.path}: "
        f"{_some(without_row)}; its rows are {_some(_names(table.rows))}; give each image a row, "
        "with an empty group_id if that is unknown"
    )


def _names(rows: Iterable[Row]) -> list[str]:
    return [row.file_name for row in rows]


def _some(names: Sequence[str]) -> str:
    """Quote the first three names."""
    return ", ".join(map(repr, names[:_SHOWN])) + ", …" * (len(names) > _SHOWN) if names else "none"


class _FileIndex:
    """Files of a tree by their normalized paths."""

    def __init__(self, files: Iterable[str]) -> None:
        self._by_path: dict[str, list[str]] = defaultdict(list)
        for path in files:
            self._by_path[_normalized(path)].append(path)

    def match(self, table: Table) -> tuple[dict[str, Row], list[Row]]:
        """Return the rows of a table by the file that each matches, and the rows that match no file.

        Rows for hidden files are skipped, like the files. Paths are case-sensitive, unless one remaining row and one
        remaining file differ only in case.
        """
        matched: dict[str, Row] = {}
        unmatched: dict[str, Row] = {}
        for row in table.rows:
            key = _normalized(table.root + row.file_name)
            if hidden_part(key):
                continue
            path = self._file(key, table.root + row.file_name, table.path)
            if path in matched or key in unmatched:
                raise CelluScanError(f"{table.path} names {row.file_name!r} twice; give each file one row")
            if path is None:
                unmatched[key] = row
            else:
                matched[path] = row
        if unmatched:
            for key, path in self._ignoring_case(unmatched, matched).items():
                matched[path] = unmatched.pop(key)
        return matched, list(unmatched.values())

    def _file(self, key: str, written: str, table: str) -> str | None:
        paths = self._by_path.get(key, [])
        if len(paths) > 1 and written in paths:
            return written
        if len(paths) > 1:
            raise CelluScanError(f"{table}: {written!r} could be {' or '.join(map(repr, paths))}; rename one of them")
        return paths[0] if paths else None

    def _ignoring_case(self, keys: Iterable[str], taken: Mapping[str, Row]) -> dict[str, str]:
        """Match each path that, ignoring case, is the only one for a single file not in `taken`."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            wanted[key.casefold()].append(key)
        free = {key: [path for path in self._by_folded_path.get(key, []) if path not in taken] for key in wanted}
        return {same[0]: free[key][0] for key, same in wanted.items() if len(same) == len(free[key]) == 1}

    @cached_property
    def _by_folded_path(self) -> dict[str, list[str]]:
        folded: dict[str, list[str]] = defaultdict(list)
        for key, paths in self._by_path.items():
            folded[key.casefold()] += paths
        return folded


def _normalized(path: str) -> str:
    """Normalize a path for comparison: `/` between folders, no `.` nor `..`, Unicode composed (NFC)."""
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))
