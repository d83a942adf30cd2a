"""Your own folder of images: `<class name or code>/<files>`, optionally with a metadata table.

The table is `metadata.csv`, `.jsonl` or `.parquet`, with the columns `file_name` (relative to the table's folder) and
optionally `label` (instead of the folder name) and `group_id` (patient, slide or smear, whose cells stay in one split).
If no table gives the group of a file, it is the folder between the class folder and the file.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import takewhile
from pathlib import PurePosixPath
from typing import ClassVar

from PIL import Image

from .. import taxonomy
from ..errors import BadImage, CelluScanError
from .base import File, TreeSource, folder_of
from .entries import Entry, Tree
from .groups import FolderGroups, groups_of_folders, is_class, place_of, shown
from .matching import Description, Descriptions, describe
from .metadata import NAMES, Table, is_other_table, is_table, parse
from .records import Dropped, Record, SourceInfo

_TABLES = f"{', '.join(NAMES[:-1])} or {NAMES[-1]}"
_LISTED = 30  # unknown labels in a message
_EMPTY = Description("", "", "")


class UnknownLabel(CelluScanError):
    """A label of the user's own cells that names none of our classes."""


class ImageFolder(TreeSource):
    """Labels are class names, codes or plurals. An unknown class folder stops the build before it starts."""

    info = SourceInfo(
        title="Image folder",
        license="unknown",
        citation="provided by the user",
        url="https://huggingface.co/docs/datasets/image_load#imagefolder",
        caution="Images and labels were provided by the user who built this.",
    )
    landmarks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name, tree)
        self._described = Descriptions()
        self._folders = FolderGroups({})

    def records(self) -> Iterator[Record | Dropped]:
        yield from super().records()
        for path, table in sorted(self._described.missing.items()):
            yield Dropped(f"{self.name}/{path}", "missing_file", f"named in {table}")

    def expected(self) -> str:
        return f"expected <class name or code>/<images>, or {_TABLES} with file_name and label"

    def without_layout(self) -> str:
        return ""  # `cells` then reports the unknown class folder

    def prepare(self, entries: Sequence[Entry]) -> None:
        files = [entry.path for entry in entries if not is_table(entry.path)]
        endings = {"", *Image.registered_extensions()}
        images = [path for path in files if PurePosixPath(path).suffix.lower() in endings] or files
        with self._naming_source():
            self._check_other_tables(files)
            tables = [self._table(entry) for entry in entries if is_table(entry.path)]
            self._described = describe(tables, files, images)
        labelled = [path for path in images if self._description(path).label or place_of(folder_of(path)).classes]
        self._folders = self._read_folders(labelled)
        self._note_tables(tables)
        self.note_published_labels(
            self._description(path).label or place_of(folder_of(path)).classes[-1] for path in labelled
        )
        self._explain_groups(tables, labelled)

    @contextmanager
    def _naming_source(self) -> Iterator[None]:
        """Prefix errors with the name of the source."""
        try:
            yield
        except CelluScanError as error:
            raise CelluScanError(f"source {self.name}: {error}") from None

    def _check_other_tables(self, files: Sequence[str]) -> None:
        others = [path for path in files if is_other_table(path)]
        for path in others:
            if PurePosixPath(path).name.lower().startswith("metadata."):
                raise CelluScanError(f"{path} is not read; save it as {_TABLES}")
        if others:
            self.notes.append(f"not read, since labels and groups come from {_TABLES}: {shown(others)}")

    def _table(self, entry: Entry) -> Table:
        try:
            if entry.problem:
                raise BadImage(entry.problem)
            return parse(entry.path, self.tree.read(entry.path))
        except BadImage as bad:
            raise CelluScanError(f"{entry.path} cannot be read: {bad}") from None

    def _note_tables(self, tables: Sequence[Table]) -> None:
        """Note what was not used of the tables."""
        if ignored := {column for table in tables for column in table.other_columns}:
            self.notes.append(
                f"ignored the columns {', '.join(sorted(ignored))} of {shown(table.path for table in tables)}; cells "
                "are grouped by group_id alone, so rename the column of patients or slides to group_id"
            )
        if unknown := sum(table.unknown_groups for table in tables):
            rows = sum(len(table.rows) for table in tables)
            self.notes.append(f"{unknown:,} of {rows:,} rows have no group_id, or one such as NA or unknown")
        if empty := [table.path for table in tables if not table.rows]:
            self.notes.append(f"tables without rows: {shown(empty)}")

    def _read_folders(self, labelled: Sequence[str]) -> FolderGroups:
        if all(self._description(path).group_id for path in labelled):
            return FolderGroups({})
        groups = groups_of_folders({folder_of(path) for path in labelled})
        if groups.unclear:
            raise CelluScanError(
                f"source {self.name}: two levels of folders could be the patients, {groups.unclear}; name the group of "
                f"each file in {_TABLES} (file_name, group_id)"
            )
        return groups

    def _explain_groups(self, tables: Sequence[Table], labelled: Sequence[str]) -> None:
        """Describe where groups come from, which images have none, and which folders were not taken as groups."""
        naming = {PurePosixPath(table.path).name for table in tables if any(row.group_id for row in table.rows)}
        origins = [f"group_id of {name}" for name in sorted(naming)]  # without the path, which depends on the packing
        if names := {self._group(path) for path in labelled if not self._description(path).group_id} - {""}:
            origins.append(f"{self._folders.level} ({shown(names)})")
        self.groups_from = "; ".join(origins)
        ungrouped = [path for path in labelled if not self._group(path)]
        if origins and ungrouped:
            self.notes.append(f"{len(ungrouped):,} of {len(labelled):,} images have no group: {shown(ungrouped)}")
        if self._folders.unused:
            self.notes.append(
                f"not taken as patients or slides: the folders {shown(self._folders.unused)}; if they are, name the "
                f"group of each file in {_TABLES} (file_name, group_id)"
            )

    def _description(self, path: str) -> Description:
        return self._described.files.get(path, _EMPTY)

    def _group(self, path: str) -> str:
        return self._description(path).group_id or self._folders.names.get(folder_of(path), "")

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        path = file.member
        if is_table(path):
            return
        text = self._label(path)
        if not text:
            yield Record(file.image_id, path, None, text, file.image_id)
            return
        group = self._group(path)
        group_id = f"{self.name}/group:{group}" if group else file.image_id
        yield Record(file.image_id, path, self._class(text, path), text, group_id)

    def _label(self, path: str) -> str:
        return self._description(path).label or self._label_of_folder(path)

    def _label_of_folder(self, path: str) -> str:
        """Return the innermost class folder of a path; if it has none, a misspelt one, or else all folders."""
        place = place_of(folder_of(path))
        if misspelt := [
            folder for folder in (place.between if place.classes else place.above) if taxonomy.resembles(folder)
        ]:
            return misspelt[0]
        if not place.classes:
            return "/".join(place.above)
        if taxonomy.finest({taxonomy.lookup(name).name for name in place.classes}) is None:
            raise CelluScanError(
                f"source {self.name}: {path} is in folders of two classes, {' and '.join(place.classes)}; "
                f"rename one, or give its label in {_TABLES}"
            )
        return place.classes[-1]

    def _class(self, text: str, member: str) -> str | None:
        try:
            return taxonomy.lookup(text).name
        except KeyError as error:
            if member.endswith(".parquet"):
                raise CelluScanError(
                    f"source {self.name}: {self.tree.location} holds parquet files; give --source "
                    f"hf_dataset={self.tree.location}"
                ) from None
            raise UnknownLabel(
                f"source {self.name}: the label of {member}: {error.args[0]}{self._also_unknown(text)}; rename it, "
                f"move it out of {self.tree.location}, or give the label in {_TABLES}"
            ) from None

    def _also_unknown(self, text: str) -> str:
        """List the other labels that name no class."""
        labels = {self._label(path) for path in self.members if not is_table(path)} - {text, ""}
        unknown = sorted(label for label in labels if not is_class(label))
        more = f" and {len(unknown) - _LISTED} more" if len(unknown) > _LISTED else ""
        return f"; nor are {', '.join(map(repr, unknown[:_LISTED]))}{more}" if unknown else ""

    def root_of(self, path: str) -> str | None:
        """Return the folder of the table that names the file, or else the folder that holds its class folder."""
        if path in self._described.files:
            return self._described.files[path].root
        if is_table(path):
            return path[: path.rfind("/") + 1]
        folders = path.split("/")[:-1]
        place = place_of(folder_of(path))
        return "".join(f"{folder}/" for folder in folders[: folders.index(place.classes[0])]) if place.classes else None


class OwnFolder(ImageFolder):
    """The same with classes of one's own: a label that names no class of ours stays as it is written.

    The class is the outermost folder that is named after one of `classes`, or else that differs between the images (the
    innermost, if none does); the group is the folder below it, if there is one.
    """

    def __init__(self, name: str, tree: Tree, classes: Collection[str] = ()) -> None:
        super().__init__(name, tree)
        self.classes = classes

    def _label_of_folder(self, path: str) -> str:
        return next(iter(self._parts(path)), "")

    def _group(self, path: str) -> str:
        return self._description(path).group_id or "/".join(self._parts(path)[1:2])

    def _parts(self, path: str) -> tuple[str, ...]:
        """The folders of a path from that of the class on."""
        folders = PurePosixPath(path).parts[:-1]
        named = (place for place, folder in enumerate(folders) if _own_class(folder) in self.classes)
        return folders[next(named, min(self._shared, len(folders) - 1)) :]

    @cached_property
    def _shared(self) -> int:
        """Number of folders that all images share."""
        folders = {PurePosixPath(path).parts[:-1] for path in self.members if not is_table(path)}
        levels = zip(*folders, strict=False)  # as deep as the shallowest
        return len(list(takewhile(lambda names: len(set(names)) == 1, levels)))

    def _class(self, text: str, member: str) -> str | None:
        return taxonomy.lookup(text).name if is_class(text) else None


def _own_class(text: str) -> str:
    """Return the name of the class that a folder's name means: ours, or as it is written."""
    return taxonomy.lookup(text).name if is_class(text) else text
