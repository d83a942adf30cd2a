"""Which file each row of a folder's tables means; and where tables and files do not belong together, an error."""

import posixpath
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import CelluScanError
from .hidden import hidden_part
from .metadata import Row, Table

_SHOWN = 3  # names in a message
_LAST = "\U0010ffff"  # sorts behind every other character


@dataclass(frozen=True, slots=True)
class Description:
    """What the table in the folder `root` says of one file; empty where it says nothing."""

    root: str
    label: str
    group_id: str


@dataclass(frozen=True)
class Descriptions:
    """Descriptions by the path of their file, and for each path that is named but missing its table."""

    files: Mapping[str, Description] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


def describe(tables: Sequence[Table], files: Sequence[str], images: Sequence[str]) -> Descriptions:
    """What tables say of the files of a tree, by their paths; `images` are those that should have a row.

    Raises:
        CelluScanError: Two rows mean one file, or one could mean two; two tables disagree; more than half of the rows
            of a table match no file; or it gives groups, and more than half of the images of its folder have no row.
    """
    index = _FileIndex(files)
    images = sorted(images)
    described: dict[str, tuple[Table, Description]] = {}
    missing: dict[str, str] = {}
    for table in tables:
        matched, left = index.match(table)
        if 2 * len(left) > len(table.rows):
            alone = [path for path in _below(table.root, images) if path not in matched]
            raise CelluScanError(_misfit(table, left, alone))
        for path, row in matched.items():
            new = Description(table.root, row.label, row.group_id)
            other, old = described.setdefault(path, (table, new))
            if (old.label, old.group_id) != (new.label, new.group_id):
                raise CelluScanError(f"{other.path} and {table.path} disagree on {path}; give each file one row")
        missing |= {_form(table.root + row.file_name): table.path for row in left}
    for table in tables:
        own = _below(table.root, images)
        alone = [path for path in own if path not in described]
        if 2 * len(alone) > len(own) and any(row.group_id for row in table.rows):
            raise CelluScanError(_gaps(table, own, alone))
    return Descriptions({path: description for path, (_, description) in described.items()}, missing)


def _below(root: str, paths: Sequence[str]) -> Sequence[str]:
    """Those of sorted paths that begin with `root`."""
    return paths[bisect_left(paths, root) : bisect_left(paths, root + _LAST)]


def _misfit(table: Table, rows: Sequence[Row], alone: Sequence[str]) -> str:
    return (
        f"{len(rows):,} of {len(table.rows):,} rows of {table.path} match no file: {_some(_names(rows))}; "
        f"images without a row are {_some(alone)}; write each file_name as the path from the folder of the table"
    )


def _gaps(table: Table, images: Sequence[str], alone: Sequence[str]) -> str:
    return (
        f"{len(alone):,} of {len(images):,} images have no row in {table.path}, which gives groups: {_some(alone)}; "
        f"its rows are {_some(_names(table.rows))}; give each image a row, with an empty group_id where it is unknown"
    )


def _names(rows: Iterable[Row]) -> list[str]:
    return [row.file_name for row in rows]


def _some(names: Sequence[str]) -> str:
    """The first three, quoted."""
    return ", ".join(map(repr, names[:_SHOWN])) + ", …" * (len(names) > _SHOWN) if names else "none"


class _FileIndex:
    """Files of a tree by their paths in one form."""

    def __init__(self, files: Iterable[str]) -> None:
        self._by_form: dict[str, list[str]] = defaultdict(list)
        for path in files:
            self._by_form[_form(path)].append(path)

    def match(self, table: Table) -> tuple[dict[str, Row], list[Row]]:
        """The rows of a table by the file that each means, and the rows that match no file.

        A row for a hidden file is passed over, like the file. Upper and lower case are told apart, unless one row and
        one file are left that agree in all else.
        """
        found: dict[str, Row] = {}
        left: dict[str, Row] = {}
        for row in table.rows:
            form = _form(table.root + row.file_name)
            if hidden_part(form):
                continue
            path = self._file(form, table.root + row.file_name, table.path)
            if path in found or form in left:
                raise CelluScanError(f"{table.path} names {row.file_name!r} twice; give each file one row")
            if path is None:
                left[form] = row
            else:
                found[path] = row
        if left:
            for form, path in self._ignoring_case(left, found).items():
                found[path] = left.pop(form)
        return found, list(left.values())

    def _file(self, form: str, written: str, table: str) -> str | None:
        paths = self._by_form.get(form, [])
        if len(paths) > 1 and written in paths:
            return written
        if len(paths) > 1:
            raise CelluScanError(f"{table}: {written!r} could be {' or '.join(map(repr, paths))}; rename one of them")
        return paths[0] if paths else None

    def _ignoring_case(self, forms: Iterable[str], taken: Mapping[str, Row]) -> dict[str, str]:
        """The file of each form that is the only one to agree, but for case, with one file that is not taken."""
        wanted: dict[str, list[str]] = defaultdict(list)
        for form in forms:
            wanted[form.casefold()].append(form)
        free = {key: [path for path in self._by_folded_form.get(key, []) if path not in taken] for key in wanted}
        return {same[0]: free[key][0] for key, same in wanted.items() if len(same) == len(free[key]) == 1}

    @cached_property
    def _by_folded_form(self) -> dict[str, list[str]]:
        folded: dict[str, list[str]] = defaultdict(list)
        for form, paths in self._by_form.items():
            folded[form.casefold()] += paths
        return folded


def _form(path: str) -> str:
    """A path as paths are compared: `/` between folders, no `.` nor `..`, Unicode composed (NFC)."""
    return unicodedata.normalize("NFC", posixpath.normpath(path.replace("\\", "/")))
