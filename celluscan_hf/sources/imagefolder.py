"""Any folder of cells of one's own: `<class name or code>/<files>`, optionally with a `metadata.csv`.

`metadata.csv` has the columns `file_name` (path from the folder) and, each optional, `label` (instead of the folder
name) and `group_id` (patient, slide or smear: its cells stay on one side of every split).
"""

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from .. import taxonomy
from ..errors import CelluScanError
from .base import File, TreeSource, parent_folder
from .records import Dropped, Record, SourceInfo
from .tree import Tree

_log = logging.getLogger(__name__)
_METADATA = "metadata.csv"
_MAC_LITTER = "__MACOSX/"  # what the Finder adds to every zip: no images, but named like them


class ImageFolder(TreeSource):
    """Labels are looked up as names, codes or plurals. An unknown class folder stops the build before it starts."""

    info = SourceInfo(
        title="A folder of one's own",
        license="unknown",
        citation="given by the user",
        url="https://huggingface.co/docs/datasets/image_load#imagefolder",
        caution="Images and labels were given by the user who built this.",
    )
    landmarks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name, tree)
        self._described: dict[str, Described] = {}

    def records(self) -> Iterator[Record | Dropped]:
        self._described = {}
        for entry in self.tree.entries():
            if _is_metadata(entry.path):
                self._described |= self._read_metadata(entry.path)
        yield from super().records()
        self._warn_of_ungrouped()
        for member in sorted(set(self._described) - self.members):
            yield Dropped(f"{self.name}/{member}", "missing_file", f"named in a {_METADATA}")

    def _warn_of_ungrouped(self) -> None:
        if any(told.group_id for told in self._described.values()):
            alone = [m for m in self.members if not _is_metadata(m) and not self._told(m).group_id]
            if alone:
                first = min(alone)
                _log.warning("source %s: %d files have no group_id, the first %s", self.name, len(alone), first)

    def _told(self, member: str) -> "Described":
        return self._described.get(member, Described("", "", ""))

    def expected(self) -> str:
        return "expected <class name or code>/<images>, or a metadata.csv with file_name and label"

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        if _is_metadata(file.member):
            return
        told = self._told(file.member)
        text = told.label or parent_folder(file.member)
        if not text or file.member.startswith(_MAC_LITTER):
            yield Record(file.image_id, file.member, None, text, file.image_id)
            return
        group = f"{self.name}/group:{told.group_id}" if told.group_id else file.image_id
        yield Record(file.image_id, file.member, self._class(text, file.member), text, group)

    def _class(self, text: str, member: str) -> str:
        try:
            return taxonomy.lookup(text).name
        except KeyError as error:
            raise CelluScanError(
                f"source {self.name}: the label of {member}: {error.args[0]}; rename it, or move it out of "
                f"{self.tree.location}"
            ) from None

    def _read_metadata(self, table: str) -> dict[str, "Described"]:
        """What one table says of its files, by their paths in the tree."""
        rows = csv.DictReader(io.StringIO(self.table(table)))
        if "file_name" not in (rows.fieldnames or ()):
            raise CelluScanError(
                f"source {self.name}: {table} has the columns {rows.fieldnames}; expected file_name and, each "
                "optional, label and group_id"
            )
        ignored = sorted(set(rows.fieldnames or ()) - {"file_name", "label", "group_id"})
        if ignored:
            _log.warning(
                "source %s: %s: ignored the columns %s; cells stay together by group_id alone",
                self.name, table, ", ".join(ignored),
            )  # fmt: skip
        root = table.removesuffix(_METADATA)
        found: dict[str, Described] = {}
        for row in rows:
            name, label, group_id = ((row.get(column) or "").strip() for column in ("file_name", "label", "group_id"))
            member = root + name.removeprefix("./")
            if not name or member in found:
                what = f"names {name} twice" if name else "has a row without file_name"
                raise CelluScanError(f"source {self.name}: {table} {what}; give each file one row")
            found[member] = Described(root, label, group_id)
        return found

    def root_of(self, path: str) -> str | None:
        """The folder of the `metadata.csv` that names the file; else the folder that holds its class folder."""
        if path in self._described:
            return self._described[path].root
        if _is_metadata(path):
            return path.removesuffix(_METADATA)
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders):
            if _is_class(folder) and not path.startswith(_MAC_LITTER):
                return "".join(f"{above}/" for above in folders[:depth])
        return None

    def without_layout(self) -> str:
        return ""  # the first file then says which folder is no class


@dataclass(frozen=True)
class Described:
    """What a `metadata.csv` in the folder `root` says of one file; empty where it says nothing."""

    root: str
    label: str
    group_id: str


def _is_metadata(path: str) -> bool:
    return path.rpartition("/")[2] == _METADATA


def _is_class(text: str) -> bool:
    try:
        taxonomy.lookup(text)
    except KeyError:
        return False
    return True
