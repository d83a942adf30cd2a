"""Any folder of cells of one's own: `<class name or code>/<files>`, optionally with a `metadata.csv`.

`metadata.csv` has the columns `file_name` (path from the folder) and, each optional, `label` (instead of the folder
name) and `group_id` (patient, slide or smear: its cells stay on one side of every split).
"""

import csv
import io
from collections.abc import Iterator
from typing import ClassVar

from .. import taxonomy
from ..errors import BadImage, CelluScanError
from .base import TreeSource, parent_folder
from .records import Dropped, Record, SourceInfo

_METADATA = "metadata.csv"
_MAC_LITTER = "__MACOSX/"  # what the Finder adds to every zip: no images, but named like them


class ImageFolder(TreeSource):
    """Labels are looked up as names, codes or plurals. An unknown class folder stops the build before it starts."""

    info = SourceInfo(
        title="A folder of one's own",
        license="unknown",
        citation="given by the user",
        url="https://huggingface.co/docs/datasets/image_load#imagefolder",
    )
    landmarks: ClassVar[tuple[str, ...]] = ()

    def records(self) -> Iterator[Record | Dropped]:
        self._metadata: dict[str, dict[str, str]] | None = None
        yield from super().records()
        for path in sorted(set(self._rows()) - self.paths):
            yield Dropped(self.image_id(path), "missing_file", f"named in {_METADATA}")

    def expected(self) -> str:
        return "expected <class name or code>/<images>, or a metadata.csv with file_name and label"

    def cells(self, path: str) -> Iterator[Record | Dropped]:
        if path == _METADATA:
            return
        if path.startswith(_MAC_LITTER):
            yield Record(self.image_id(path), path, None, "", self.image_id(path))
            return
        row = self._rows().get(path, {})
        text = row.get("label") or (parent_folder(path))
        image_id = self.image_id(path)
        group = self.image_id(f"group:{row['group_id']}") if row.get("group_id") else image_id
        yield Record(image_id, path, self._class(text, path) if text else None, text, group)

    def _class(self, text: str, path: str) -> str:
        try:
            return taxonomy.lookup(text).name
        except KeyError as error:
            raise CelluScanError(
                f"source {self.name}: the label of {path}: {error.args[0]}; rename it, or move it out of "
                f"{self.tree.location}"
            ) from None

    def _rows(self) -> dict[str, dict[str, str]]:
        if self._metadata is None:
            self._metadata = self._read_metadata()
        return self._metadata

    def _read_metadata(self) -> dict[str, dict[str, str]]:
        try:
            text = self.table(_METADATA)
        except BadImage:
            return {}
        table = csv.DictReader(io.StringIO(text))
        if "file_name" not in (table.fieldnames or ()):
            raise CelluScanError(
                f"source {self.name}: {_METADATA} has the columns {table.fieldnames}; expected file_name and, "
                "each optional, label and group_id"
            )
        rows = ({column: (text or "").strip() for column, text in row.items() if column} for row in table)
        return {self._file_name(row): row for row in rows}

    def _file_name(self, row: dict[str, str]) -> str:
        if not row["file_name"]:
            raise CelluScanError(
                f"source {self.name}: {_METADATA} has a row without file_name; fill it in or remove it"
            )
        return row["file_name"].removeprefix("./")

    def _find_root(self, paths: list[str]) -> str:
        """The folder that holds `metadata.csv`, or the folders all named after classes, or the one given."""
        roots = {path.removesuffix(_METADATA) for path in paths if path.split("/")[-1] == _METADATA}
        roots = roots or {root for path in paths for root in self._roots_in(path)}
        return min(roots, key=lambda root: (root.count("/"), root), default="")

    def _roots_in(self, path: str) -> Iterator[str]:
        folders = path.split("/")[:-1]
        for depth, folder in enumerate(folders):
            if _is_class(folder):
                yield "".join(f"{above}/" for above in folders[:depth])


def _is_class(text: str) -> bool:
    try:
        taxonomy.lookup(text)
    except KeyError:
        return False
    return True
