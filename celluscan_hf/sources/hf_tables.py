"""Tables of a Hugging Face dataset, parquet or Arrow: access to columns and to single images.

Parquet files are read by row group and Arrow files are memory-mapped, so few images are in memory at a time. Row groups
that are too large are first rewritten as small ones in a scratch folder.
"""

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
from ..remote import file_system, is_remote, locate
from .entries import scratch_copy

MAX_GROUP_BYTES = 64 * 2**20  # images in a row group
_WRITTEN_BYTES = 8 * 2**20  # a rewritten row group
_BATCH = 16  # rows
_BUFFER_BYTES = 2**20
_reading = threading.Lock()  # a parquet file must not be read by two threads at once


def schema_of(path: Path) -> pa.Schema:
    """Return the schema of a table. Raises `CelluScanError` if the file is damaged or missing."""
    try:
        return open_parquet(path).schema_arrow if _is_parquet(path) else _mapped(str(path)).schema
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def features_of(schema: pa.Schema) -> dict[str, Any]:
    """Return the features that `datasets` stores in a schema by column; empty if there are none."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def read_column(path: Path, column: str) -> pa.ChunkedArray:
    """Read a column, or one field of a struct (`"image.path"`). Raises `CelluScanError` if the file is damaged."""
    name, _, child = column.partition(".") if column not in schema_of(path).names else (column, "", "")
    try:
        table = open_parquet(path).read(columns=[column]) if _is_parquet(path) else _mapped(str(path))
        return pc.struct_field(table[name], child) if child else table[name]
    except (OSError, pa.ArrowException) as error:
        raise damaged(path, error) from error


def count_rows(path: Path) -> int:
    """Return the number of rows of a table."""
    return int(open_parquet(path).metadata.num_rows if _is_parquet(path) else _mapped(str(path)).num_rows)


def with_small_groups(path: Path, column: str, scratch: Path) -> Path:
    """Return a file with small row groups: `path`, or a copy of the column in `scratch`.

    The copy is written once, if the column takes more than `MAX_GROUP_BYTES` in a row group of a local file.
    """
    if not _is_parquet(path) or is_remote(path) or _largest_group(path, column) <= MAX_GROUP_BYTES:
        return path
    copy = scratch_copy(path, scratch, ".parquet", column)
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
        chunks = (group.column(index) for index in range(group.num_columns))
        selected = (chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] == column)
        sizes.append(sum(chunk.total_uncompressed_size for chunk in selected) if group.num_rows > 1 else 0)
    return max(sizes)


def _copy_column(file: pq.ParquetFile, column: str, target: Path) -> None:
    schema = pa.schema([file.schema_arrow.field(column)])
    with pq.ParquetWriter(target, schema, compression="none", use_dictionary=False) as writer:
        buffered: list[pa.RecordBatch] = []
        for batch in file.iter_batches(_BATCH, columns=[column]):
            buffered.append(batch)
            if sum(batch.nbytes for batch in buffered) >= _WRITTEN_BYTES:
                writer.write_table(pa.Table.from_batches(buffered))
                buffered = []
        if buffered:
            writer.write_table(pa.Table.from_batches(buffered))


def read_cell(path: Path, column: str, row: int) -> Any:
    """Read one value of a column. Raises `OSError` or `pyarrow.ArrowException` if that fails."""
    if not _is_parquet(path):
        return _mapped(str(path))[column][row].as_py()
    with _reading:
        ends = _group_ends(str(path))
        group = bisect_right(ends, row)
        values = _group(str(path), column, group)
    return values[row - (ends[group - 1] if group else 0)].as_py()


def open_parquet(path: Path, **options: Any) -> pq.ParquetFile:
    """Open a local or remote parquet file, of which the parts that are asked for are read."""
    system, place = file_system(path)
    return pq.ParquetFile(place, filesystem=system, **options)


@lru_cache(maxsize=8)
def _opened(path: str) -> pq.ParquetFile:
    return open_parquet(locate(path))


@lru_cache(maxsize=8)
def _group_ends(path: str) -> list[int]:
    """Return the end of each row group, as a row number."""
    meta = _opened(path).metadata
    return list(accumulate(meta.row_group(number).num_rows for number in range(meta.num_row_groups)))


@lru_cache(maxsize=2)
def _group(path: str, column: str, group: int) -> pa.ChunkedArray:
    return _opened(path).read_row_group(group, columns=[column], use_threads=False)[column]


@lru_cache(maxsize=8)
def _mapped(path: str) -> pa.Table:
    """Open an Arrow file as a memory-mapped table."""
    return pa.ipc.open_stream(pa.memory_map(path)).read_all()


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


def damaged(path: Path, error: Exception) -> CelluScanError:
    """Return the error for a table that cannot be read."""
    if path.is_file():
        with path.open("rb") as file:
            if is_lfs_pointer(file.read(64)):
                return CelluScanError(f"{path} is a Git LFS pointer, not the file itself: run git lfs pull")
    reason = str(error).partition("\n")[0]
    return CelluScanError(f"{path} is damaged or missing ({reason}); save or download it again")
