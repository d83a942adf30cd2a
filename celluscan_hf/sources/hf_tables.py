"""Tables of a Hugging Face data set, parquet or Arrow: their columns, and single images out of them.

A parquet file is read a row group at a time, and an Arrow file is mapped into memory, so few images are in memory at a
time. Row groups too large for that are first written again as small ones into a scratch folder.
"""

import hashlib
import json
import threading
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..atomic_io import atomic_write
from ..errors import CelluScanError
from ..modeling.formats_celluscan import is_lfs_pointer

MAX_GROUP_BYTES = 64 * 2**20  # of the images of a row group
_WRITTEN_BYTES = 8 * 2**20  # of a row group that is written again
_BATCH = 16  # rows
_BUFFER_BYTES = 2**20
_reading = threading.Lock()  # a parquet file must not be read by two threads at once


def schema_of(path: Path) -> pa.Schema:
    """The columns of a table. Raises `CelluScanError` where the file is damaged or missing."""
    try:
        return pq.read_schema(path) if _is_parquet(path) else _mapped(str(path)).schema
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """What `datasets` has noted of each column of a table; empty where nothing is noted."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def read_column(path: Path, column: str) -> pa.ChunkedArray:
    """A column; of a struct `"image.path"` reads one field alone. Raises `CelluScanError` for a damaged file."""
    name, _, child = column.partition(".") if column not in schema_of(path).names else (column, "", "")
    try:
        table = pq.ParquetFile(path).read(columns=[column]) if _is_parquet(path) else _mapped(str(path))
        return pc.struct_field(table[name], child) if child else table[name]
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def count_rows(path: Path) -> int:
    """The number of rows of a table."""
    return int(pq.read_metadata(path).num_rows if _is_parquet(path) else _mapped(str(path)).num_rows)


def with_small_groups(path: Path, column: str, scratch: Path) -> Path:
    """A file to read single values of a column from: `path`, or a copy of the column in `scratch`.

    The copy is made once, where the column is larger than `MAX_GROUP_BYTES` in a row group.
    """
    if not _is_parquet(path) or _largest_group(path, column) <= MAX_GROUP_BYTES:
        return path
    status = path.stat()
    identity = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{column}"
    copy = scratch / f"{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.parquet"
    if not copy.exists():
        try:
            with atomic_write(copy) as partial, pq.ParquetFile(path, buffer_size=_BUFFER_BYTES) as file:
                _copy_column(file, column, partial)
        except pa.ArrowException as error:
            raise damaged(path, error) from error
    return copy


def _largest_group(path: Path, column: str) -> int:
    meta = pq.read_metadata(path)
    sizes = [0]
    for number in range(meta.num_row_groups):
        group = meta.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        own = (one for one in columns if one.path_in_schema.partition(".")[0] == column)
        sizes.append(sum(one.total_uncompressed_size for one in own) if group.num_rows > 1 else 0)
    return max(sizes)


def _copy_column(file: pq.ParquetFile, column: str, target: Path) -> None:
    schema = pa.schema([file.schema_arrow.field(column)])
    with pq.ParquetWriter(target, schema, compression="none", use_dictionary=False) as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in file.iter_batches(_BATCH, columns=[column]):
            waiting.append(batch)
            if sum(one.nbytes for one in waiting) >= _WRITTEN_BYTES:
                writer.write_table(pa.Table.from_batches(waiting))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting))


def read_cell(path: Path, column: str, row: int) -> Any:
    """One value of a column. Raises `OSError` or `pyarrow.ArrowException` where it cannot be read."""
    if not _is_parquet(path):
        return _mapped(str(path))[column][row].as_py()
    with _reading:
        ends = _group_ends(str(path))
        group = bisect_right(ends, row)
        values = _group(str(path), column, group)
    return values[row - (ends[group - 1] if group else 0)].as_py()


@lru_cache(maxsize=8)
def _opened(path: str) -> pq.ParquetFile:
    return pq.ParquetFile(path)


@lru_cache(maxsize=8)
def _group_ends(path: str) -> list[int]:
    """For each row group the number of the row behind it."""
    meta = _opened(path).metadata
    return list(accumulate(meta.row_group(number).num_rows for number in range(meta.num_row_groups)))


@lru_cache(maxsize=2)
def _group(path: str, column: str, group: int) -> pa.ChunkedArray:
    return _opened(path).read_row_group(group, columns=[column], use_threads=False)[column]


@lru_cache(maxsize=8)
def _mapped(path: str) -> pa.Table:
    """The table of an Arrow file, whose pages the system reads as they are asked for."""
    return pa.ipc.open_stream(pa.memory_map(path)).read_all()


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def damaged(path: Path, error: Exception) -> CelluScanError:
    """What to say of a table that cannot be read."""
    if path.is_file():
        with path.open("rb") as file:
            if is_lfs_pointer(file.read(64)):
                return CelluScanError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    reason = str(error).partition("\n")[0]
    return CelluScanError(f"{path} is damaged or missing ({reason}); save or download it again")
