"""The table of a folder of images: `metadata.csv`, `metadata.jsonl` or `metadata.parquet`, as `datasets` reads them.

https://huggingface.co/docs/datasets/image_dataset — the column `file_name` (or one that ends in `_file_name`) is the
path of a file, relative to the table's folder. The optional columns `label` and `group_id` are this project's.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import CelluScanError
from .groups import group_name

NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
EXPECTED = "expected file_name and, each optional, label and group_id"
_COLUMNS = ("file_name", "label", "group_id")
_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_OTHER_TABLES = re.compile(
    r"(?:metadata\.(?:json|ndjson|(?:csv|tsv|jsonl?)\.\w+)|.*\.(?:csv|tsv|tab|xlsx?|ods|jsonl|parquet|feather|arrow))"
)
_Rows = Iterator[tuple[str, Mapping[str, Any]]]  # position in the file, and values by column


@dataclass(frozen=True, slots=True)
class Row:
    """The entry of one file in a table; missing values are empty."""

    file_name: str
    label: str
    group_id: str


@dataclass(frozen=True)
class Table:
    """A table and its path in the tree. `other_columns` are not used; `unknown_groups` counts values such as NA."""

    path: str
    rows: tuple[Row, ...]
    other_columns: tuple[str, ...]
    unknown_groups: int

    @property
    def root(self) -> str:
        """The folder of the table, to which its paths are relative: empty, or ending in `/`."""
        return self.path[: self.path.rfind("/") + 1]


def is_table(path: str) -> bool:
    """Whether a file is a metadata table, by its name."""
    return path.rpartition("/")[2].lower() in NAMES


def is_other_table(path: str) -> bool:
    """Whether a file is a table in a form that is not read, by its name."""
    return not is_table(path) and _OTHER_TABLES.fullmatch(path.rpartition("/")[2].lower()) is not None


def parse(path: str, data: bytes) -> Table:
    """Read a table. Raises `CelluScanError` if it is damaged, ambiguous or has no file names."""
    reader = _READERS[path.lower().rpartition(".")[2]]
    try:
        columns, rows = reader(data)
        names = _chosen(columns)
        if "file_name" not in names:
            raise _InvalidTable(f"has the columns {columns}; {_expected(columns)}")
        return _table(path, names, columns, rows)
    except UnicodeDecodeError:
        raise CelluScanError(f"{path} is not UTF-8; save it as UTF-8 (in Excel: CSV UTF-8)") from None
    except _InvalidTable as error:
        raise CelluScanError(f"{path} {error}") from None
    except (csv.Error, pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CelluScanError(f"{path} is damaged ({reason}); save it again") from None


class _InvalidTable(Exception):
    """A problem with a table, worded to follow its name."""


def _table(path: str, names: Mapping[str, str], columns: Iterable[str], rows: _Rows) -> Table:
    entries: list[Row] = []
    unknown = 0
    for position, values in rows:
        name, label, group = (_text(values.get(names.get(column, ""))) for column in _COLUMNS)
        if not (name or label or group):
            continue
        if not name:
            raise _InvalidTable(f"has no file_name in {position}; give each file one row")
        group_id = group_name(group)
        unknown += "group_id" in names and not group_id
        entries.append(Row(name, label, group_id))
    others = tuple(sorted(column for column in columns if column and column not in names.values()))
    return Table(path, tuple(entries), others, unknown)


def _chosen(columns: Iterable[str]) -> dict[str, str]:
    """Map our names of columns to those of the table. Raises if two columns have the same name."""
    names: dict[str, str] = {}
    file_names = []
    for column in columns:
        name = column.strip().casefold()
        if name in names:
            raise _InvalidTable(f"has two columns {name}; keep one")
        if name in _COLUMNS:
            names[name] = column
        elif name.endswith("_file_name"):
            file_names.append(column)
    if "file_name" not in names and file_names:
        if len(file_names) > 1:
            raise _InvalidTable(f"has the columns {', '.join(file_names)}; rename the one of the cell to file_name")
        names["file_name"] = file_names[0]
    return names


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of whole numbers with gaps
    return str(value).encode("utf-8", "replace").decode().strip()  # JSON can hold unpaired surrogates


def _expected(columns: Iterable[str]) -> str:
    header = " ".join(columns)
    separator = next((name for sign, name in _SEPARATORS.items() if sign in header), "")
    return EXPECTED + (f", separated by commas, not by {separator}" if separator else "")


def _csv_rows(data: bytes) -> tuple[list[str], _Rows]:
    reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    columns = next(reader, [])

    def rows() -> _Rows:
        for fields in reader:
            if any(field.strip() for field in fields[len(columns) :]):
                raise _InvalidTable(f"has more fields than columns in line {reader.line_num}; quote fields with commas")
            yield f"line {reader.line_num}", dict(zip(columns, fields, strict=False))

    return columns, rows()


def _jsonl_rows(data: bytes) -> tuple[list[str], _Rows]:
    objects: list[tuple[str, Mapping[str, Any]]] = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise _InvalidTable(f"holds no JSON object in line {number}; expected one object per line and file")
        objects.append((f"line {number}", value))
    return list(dict.fromkeys(column for _, value in objects for column in value)), iter(objects)


def _parquet_rows(data: bytes) -> tuple[list[str], _Rows]:
    file = pq.ParquetFile(pa.BufferReader(data))
    columns = list(file.schema_arrow.names)
    used = list(_chosen(columns).values())

    def rows() -> _Rows:
        number = 0
        for batch in file.iter_batches(columns=used):
            for values in batch.to_pylist():
                number += 1
                yield f"row {number}", values

    return columns, rows()


_READERS: dict[str, Callable[[bytes], tuple[list[str], _Rows]]] = {
    "csv": _csv_rows,
    "jsonl": _jsonl_rows,
    "parquet": _parquet_rows,
}
