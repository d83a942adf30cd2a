"""Any Hugging Face dataset with images and labels: parquet, `save_to_disk`, or a name on the Hub.

Images are used as stored. Label names are looked up in the taxonomy; one error lists all unknown labels, which
`Selection.labels` can map. The splits of the dataset are pooled, since a build makes its own, by group. Of a dataset
built by this project, the originals are read.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa

from .. import taxonomy
from ..errors import BadImage, CelluScanError
from . import hf_tables
from .base import Source
from .entries import check_size, clean_path
from .groups import group_name
from .hf_files import DataFile, DatasetFiles
from .records import Dropped, Record, SourceInfo
from .tree import FolderTree

DROP = "drop"  # instead of a class name
GROUP_COLUMNS = ("patient", "subject", "slide", "smear", "donor", "case", "individual", "person", "group")
_BUILT = {"image_id", "group_id", "parent_id", "augmentation"}  # columns of a dataset built by this project
_SHOWN = 12  # labels in a message


@dataclass(frozen=True)
class Selection:
    """What to read from a dataset: columns, config (empty: the default), splits (none: all) and a mapping of labels.

    `group` is the column with the patient, slide or smear, or empty. `labels` pairs labels of the dataset with a class
    or `drop`.
    """

    image: str = "image"
    label: str = "label"
    group: str = ""
    config: str = ""
    splits: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for label, meaning in self.labels:
            try:
                _ = meaning == DROP or taxonomy.lookup(meaning)
            except KeyError as error:
                raise CelluScanError(f"--map-label {label}={meaning}: {error.args[0]}, or {DROP}") from None


class HFDataset(Source):
    """One dataset; `files` are its tables. `scratch` takes copies of parquet files with large row groups."""

    def __init__(self, name: str, files: DatasetFiles, selection: Selection, scratch: Path) -> None:
        self.info = _info(files, selection)
        super().__init__(name)
        self.files = files
        self.selection = selection
        self.variant = repr((selection.image, selection.config))
        for file in files.files:
            self._check(file)
        self.images = {
            file.name: hf_tables.with_small_groups(file.path, selection.image, scratch) for file in files.files
        }
        self.folder = files.folder
        self.column = selection.image
        self.license = self._stored_license() or files.card.license

    @property
    def location(self) -> Path:
        return self.files.location

    def __getstate__(self) -> dict[str, object]:
        """The state that `read` needs in a worker process."""
        kept = ("name", "license", "info", "images", "folder", "column")
        return {name: getattr(self, name) for name in kept}

    @cached_property
    def _is_built(self) -> bool:
        return all(set(hf_tables.schema_of(file.path).names) >= _BUILT for file in self.files.files)

    @cached_property
    def _group_column(self) -> str:
        return self.selection.group or ("group_id" if self._is_built else "")

    def records(self) -> Iterator[Record | Dropped]:
        self.stamp = self._stamp()
        self.groups_from = f"the column {self._group_column}" if self._group_column else ""
        self.notes = self._notes()
        classes = self._classes()
        for split in dict.fromkeys(file.split for file in self.files.files):
            files = [file for file in self.files.files if file.split == split]
            ids = iter(self._image_ids(split, files))
            for file in files:
                yield from self._rows(file, ids, classes)

    def _rows(self, file: DataFile, ids: Iterator[str], classes: dict[str, str | None]) -> Iterator[Record | Dropped]:
        count = hf_tables.count_rows(file.path)
        groups = self._texts(file, self._group_column) if self._group_column else repeat(None, count)
        parents = self._texts(file, "parent_id") if self._is_built else repeat(None, count)
        rows = zip(self._labels(file), groups, parents, strict=False)
        for row, (label, group, parent) in enumerate(rows):
            image_id = next(ids)
            name = group_name(group) if group is not None else ""
            group_id = f"{self.name}/group:{name}" if name else image_id
            if parent is not None:
                yield Dropped(image_id, "augmented", f"made from {parent}", label)
            elif label and classes[label] is None:
                yield Dropped(image_id, f"no_class:{label}", "left out by --map-label", label)
            else:
                known = classes[label] or None if label else None
                yield Record(image_id, f"{file.name}#{row}", known, label, group_id)

    def read(self, record: Record) -> bytes:
        name, _, row = record.member.rpartition("#")
        try:
            cell = hf_tables.read_cell(self.images[name], self.column, int(row))
        except (OSError, pa.ArrowException) as error:
            raise BadImage("unreadable", str(error).partition("\n")[0]) from error
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, cell)
        if isinstance(path, bytes):
            data, path = path, None
        if data is None:
            return self._read_beside(path, name)
        check_size(name, len(data))
        return bytes(data)

    def _read_beside(self, path: str | None, table: str) -> bytes:
        """Read an image stored as a path, relative to the folder of the dataset or of its table."""
        if not path:
            raise BadImage("missing_file", "the row has no image")
        if "://" in path:
            raise BadImage("not_embedded", path)
        root = self.folder.resolve()
        targets = [(folder / path.replace("\\", "/")).resolve() for folder in (root, (root / table).parent)]
        inside = [target for target in targets if target.is_relative_to(root)]
        if not inside:
            raise BadImage("unsafe_path", path)
        file = next((target for target in inside if target.is_file()), None)
        if file is None:
            raise BadImage("missing_file", path)
        return FolderTree(root).read(file.relative_to(root).as_posix())

    # Read once, from the tables

    def _check(self, file: DataFile) -> None:
        """Check that a table has the selected columns, with suitable types."""
        schema = hf_tables.schema_of(file.path)
        wanted = {"image": self.selection.image, "label": self.selection.label, "group": self.selection.group}
        for what, column in wanted.items():
            if column and column not in schema.names:
                raise CelluScanError(
                    f"source {self.name}: {file.name} has no column {column}; it has {', '.join(schema.names)}; "
                    f"name the column of the {what} with --{what}-column"
                )
        for what, column, is_fit, expected in (
            ("image", self.selection.image, _is_image, "images as bytes or paths"),
            ("label", self.selection.label, _is_label, "names or numbers of classes"),
        ):
            kind = schema.field(column).type
            if not is_fit(kind):
                raise CelluScanError(
                    f"source {self.name}: the column {column} of {file.name} holds {kind}; expected {expected}; name "
                    f"another column with --{what}-column"
                )

    def _classes(self) -> dict[str, str | None]:
        """Map labels to classes, None to drop them, empty if they are none of ours (an error, unless kept)."""
        counts: Counter[str] = Counter()
        for file in self.files.files:
            counts.update(label for label in self._labels(file) if label)
        meanings = dict(self.selection.labels)
        if absent := sorted(set(meanings) - set(counts)):
            raise CelluScanError(
                f"source {self.name}: --map-label names {', '.join(absent)}, which is not a label in it; "
                f"there are: {', '.join(sorted(counts))}"
            )
        classes: dict[str, str | None] = {}
        unknown = {}
        for label in sorted(counts):
            meaning = meanings.get(label, label)
            try:
                classes[label] = None if meaning == DROP and label in meanings else taxonomy.lookup(meaning).name
            except KeyError:
                classes[label], unknown[label] = "", counts[label]
        if unknown and not self.keeps_unmapped:
            raise self._unknown_labels(unknown)
        self.note_published_labels(set(counts) - set(meanings))
        return classes

    def _unknown_labels(self, labels: dict[str, int]) -> CelluScanError:
        named = [f"{label!r} ({count:,})" for label, count in labels.items()][:_SHOWN]
        more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
        numbers = all(label.lstrip("-").isdecimal() for label in labels)
        what = "numbers without names" if numbers else f"not among the {len(taxonomy.CLASSES)} classes"
        first = next(iter(labels))
        return CelluScanError(
            f"source {self.name}: labels of the column {self.selection.label} are {what}: {', '.join(named)}{more}; "
            f'map each of them: --map-label "{first}=CLASS" or --map-label "{first}={DROP}"; '
            f"classes: {', '.join(taxonomy.NAMES)}"
        )

    def _labels(self, file: DataFile) -> list[str]:
        """Return the label of each row as text, empty if it has none."""
        column = self.selection.label
        feature = hf_tables.features_of(hf_tables.schema_of(file.path)).get(column)
        names: Sequence[str] | None = feature.get("names") if isinstance(feature, dict) else None
        names = names or self.files.card.class_names(column, self.files.config)
        values = hf_tables.read_column(file.path, column).to_pylist()
        return [_label(value, names) for value in values]

    def _texts(self, file: DataFile, column: str) -> list[Any]:
        return list(hf_tables.read_column(file.path, column).to_pylist())

    def _image_ids(self, split: str, files: Sequence[DataFile]) -> list[str]:
        """Return the `image_id` of each row of a split: its stored name if all are unique, else its number."""
        names = [name for file in files for name in self._stored_names(file)]
        prefix = f"{self.name}/" if self._is_built else f"{self.name}/{split}/"
        unique = len(set(names)) == len(names)
        if unique and all(isinstance(name, str) and name and clean_path(name) == name for name in names):
            return [prefix + str(name) for name in names]
        return [f"{self.name}/{split}/{row}" for row in range(len(names))]

    def _stored_names(self, file: DataFile) -> list[Any]:
        if self._is_built:
            return self._texts(file, "image_id")
        kind = hf_tables.schema_of(file.path).field(self.selection.image).type
        if pa.types.is_struct(kind) and kind.get_field_index("path") >= 0:
            return self._texts(file, f"{self.selection.image}.path")
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            return self._texts(file, self.selection.image)
        return [None] * hf_tables.count_rows(file.path)

    def _stored_license(self) -> str:
        """Return the licences stated in the rows of a dataset built by this project; empty for any other."""
        if not self._is_built or any("license" not in hf_tables.schema_of(f.path).names for f in self.files.files):
            return ""
        return ", ".join(sorted({name for file in self.files.files for name in self._texts(file, "license") if name}))

    def _notes(self) -> list[str]:
        if self._group_column or not self.files.files:
            return []
        columns = hf_tables.schema_of(self.files.files[0].path).names
        likely = [name for name in columns if any(word in name.lower() for word in GROUP_COLUMNS)]
        hint = f"; {', '.join(likely)} may be one" if likely else ""
        return [f"each image is its own group: name the column with the patient or slide with --group-column{hint}"]

    def _stamp(self) -> str:
        stamps = []
        for file in self.files.files:
            status = file.path.stat()
            changed = self.files.revision or status.st_mtime_ns
            stamps.append((file.name, status.st_size, changed))
        return hashlib.sha256(repr(stamps).encode()).hexdigest()


def _label(value: object, names: Sequence[str] | None) -> str:
    if value is None or (names and value == -1):  # `datasets` writes -1 for an unlabelled row
        return ""
    if names and isinstance(value, int) and 0 <= value < len(names):
        return str(names[value]).strip()
    return str(value).strip()


def _is_image(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.get_field_index(name) >= 0 for name in ("bytes", "path"))
    return any(
        is_fit(kind)
        for is_fit in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_string, pa.types.is_large_string)
    )


def _is_label(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return any(is_fit(kind) for is_fit in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string))


def _info(files: DatasetFiles, selection: Selection) -> SourceInfo:
    title = str(files.card.metadata.get("pretty_name") or files.hub_name or files.location.stem)
    page = f"https://huggingface.co/datasets/{files.hub_name}" if files.hub_name else ""
    cited = files.card.citation or (f"{files.hub_name} on the Hugging Face Hub" if files.hub_name else "not stated")
    group = f", group {selection.group}" if selection.group else ""
    return SourceInfo(
        title=title,
        license=files.card.license,
        citation=cited,
        url=page or "https://huggingface.co/docs/datasets",
        caution=f"Read from the columns {selection.image} and {selection.label}{group} of a dataset whose labels were "
        "not checked by this project.",
    )
