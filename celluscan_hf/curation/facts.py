"""Facts on images as Arrow columns on disk, so that ten million rows are worked on column by column in little memory.

Each column is an Arrow IPC file of one batch, which is mapped into memory when it is asked for. Text that repeats is
stored once: such a column is encoded, it holds integer codes into its sorted distinct values.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..atomic_io import atomic_write

Integers = NDArray[np.int64]
BATCH = 65_536  # rows that are Python objects at a time
Texts: TypeAlias = Sequence[str] | pa.Array | pa.ChunkedArray


class Facts:
    """A table whose columns lie on disk, or in memory if they are small; each is one Arrow array.

    A column from disk is mapped whenever it is asked for and let go with the last array made of it, so that a build
    holds no more than the columns at work.
    """

    def __init__(self, columns: Mapping[str, Path | pa.Array], num_rows: int) -> None:
        self._columns = dict(columns)
        self.num_rows = num_rows

    @property
    def column_names(self) -> list[str]:
        return list(self._columns)

    def __getitem__(self, name: str) -> pa.Array:
        column = self._columns[name]
        if not isinstance(column, Path):
            return column
        return pa.ipc.open_file(pa.memory_map(str(column))).get_batch(0).column(0)

    def select(self, names: Iterable[str]) -> pa.Table:
        """Map some columns as a table."""
        return pa.table({name: self[name] for name in names})

    def with_columns(self, columns: Mapping[str, pa.Array]) -> "Facts":
        """Add or replace columns, which stay in memory."""
        return Facts({**self._columns, **columns}, self.num_rows)


def store(columns: Iterable[tuple[str, Any]], folder: Path) -> Facts:
    """Write columns, each when its turn comes, to `folder/NAME.arrow`."""
    paths: dict[str, Path] = {}
    rows = 0
    for name, column in columns:
        batch = pa.record_batch({name: single(column)})
        rows = batch.num_rows
        paths[name] = folder / f"{name}.arrow"
        with (
            atomic_write(paths[name]) as partial,
            pa.OSFile(str(partial), "wb") as file,
            pa.ipc.new_file(file, batch.schema) as to,
        ):
            to.write_batch(batch)
    return Facts(paths, rows)


def store_matrix(blocks: Iterable[NDArray[Any]], path: Path) -> NDArray[Any]:
    """Write blocks of rows, (rows, columns) each, one after the other, and return all of them mapped, read-only.

    They are written, not mapped for writing: if the disk is full, that is an error and not the end of the process.
    """
    rows = 0
    with atomic_write(path) as partial, open(partial, "wb") as file:
        for block in blocks:
            file.write(np.ascontiguousarray(block).data)
            rows += len(block)
    return np.memmap(path, block.dtype, "r", shape=(rows, block.shape[1]))


def single(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def encode(column: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """Encode a column by its sorted distinct values: codes compare as the values do; null stays null."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = single(encoded.unify_dictionaries() if isinstance(encoded, pa.ChunkedArray) else encoded)
    order = pc.sort_indices(encoded.dictionary)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return pa.DictionaryArray.from_arrays(pa.array(rank).take(encoded.indices), encoded.dictionary.take(order))


def decode(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a column as one array of its values; unlike a cast, this touches no value that the column does not use."""
    array = single(column)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def codes(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int32]:
    """Return the codes of an encoded column, (N,); -1 for null."""
    indices = single(column).indices
    filled: NDArray[np.int32] = (indices if indices.null_count == 0 else pc.fill_null(indices, -1)).to_numpy()
    return filled


def values(column: pa.Array | pa.ChunkedArray) -> list[str]:
    """Return the sorted distinct values of an encoded column, which its codes number."""
    names: list[str] = single(column).dictionary.to_pylist()
    return names


def counts(*columns: pa.Array | pa.ChunkedArray) -> dict[tuple[str, ...], int]:
    """Count the rows of each combination of values of encoded columns without null, in the order of their values."""
    names = [values(column) for column in columns]
    shape = tuple(map(len, names))
    keys = np.ravel_multi_index([codes(column) for column in columns], shape)
    numbers = np.bincount(keys)
    present = np.flatnonzero(numbers)
    places = zip(*(axis.tolist() for axis in np.unravel_index(present, shape)), strict=True)
    texts = (tuple(own[code] for own, code in zip(names, place, strict=True)) for place in places)
    return dict(zip(texts, numbers[present].tolist(), strict=True))


def equal_to(column: pa.Array | pa.ChunkedArray, value: str) -> NDArray[np.bool_]:
    """Return which rows of an encoded column have a value, (N,)."""
    names = values(column)
    return codes(column) == names.index(value) if value in names else np.zeros(len(column), bool)


def picked(column: pa.Array | pa.ChunkedArray, positions: NDArray[np.integer[Any]]) -> pa.DictionaryArray:
    """Return the rows of a column at `positions` without copying any text: as codes into the column itself."""
    return pa.DictionaryArray.from_arrays(pa.array(positions), single(column))


def batches(texts: Texts) -> Iterator[list[str]]:
    """Yield texts as lists of at most `BATCH`."""
    for start in range(0, len(texts), BATCH):
        batch = texts[start : start + BATCH]
        yield decode(batch).to_pylist() if isinstance(batch, (pa.Array, pa.ChunkedArray)) else list(batch)
