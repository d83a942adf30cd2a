"""The scan of a build: decode, check, fingerprint, measure and resize each image once.

A chunk of records becomes two files: `NNNNN.parquet` with a row per record (`reason` is set if it was dropped) and
`NNNNN.pixels` with the resized images, (size, size, 3) bytes each, whose padding has no colour yet. The parquet file is
written last and atomically: a resumed build takes it as the sign that the chunk is complete.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..atomic_io import atomic_write
from ..errors import BadImage
from ..sources import Record, Source
from . import fingerprints, quality, squares
from .decoding import Decoded, crop, decode
from .facts import Facts, encode, store
from .squares import Pixels

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("source", pa.string()),
        ("source_label", pa.string()),
        ("label", pa.string()),
        ("group", pa.string()),
        ("augmented", pa.bool_()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("sha256", pa.string()),
        ("phashes", pa.list_(pa.uint64())),  # of variable length: fixed ones with nulls are misread by pyarrow 25
        ("pixels", pa.binary(16)),
        ("acquisition", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sharpness", pa.float64()),
        ("brightness", pa.float64()),
        ("contrast", pa.float64()),
        ("channel_sums", pa.list_(pa.int64())),
        ("conversions", pa.list_(pa.string())),
        ("largest_sample", pa.int32()),
        ("sample_bits", pa.int8()),
        ("chunk", pa.int32()),
        ("position", pa.int32()),
    ]
)
# columns whose text repeats; their codes also order and join rows without it
ENCODED = ("source", "source_label", "label", "group", "reason", "acquisition")
_LOADED = pa.schema([(field.name, pa.large_string() if field.type == pa.string() else field.type) for field in SCHEMA])
_FACTS, _STAGED = "facts", ".staged"
_CHUNKS_READ = 512  # files, of which one record batch is made
_OPEN_FILES = 256
MIN_CONTENT = 8  # shorter side in pixels of a resized image without padding: enough for its border and edges


@dataclass(frozen=True, slots=True)
class Chunk:
    """A task: records of one source that are scanned together and written to `folder` under `number`.

    `sample_bits` is the depth of files that do not state theirs; with None each is scaled by its own range.
    """

    number: int
    source: Source
    records: tuple[Record, ...]
    size: int
    folder: Path
    sample_bits: int | None = None

    @property
    def table_path(self) -> Path:
        return self.folder / f"{self.number:05d}.parquet"


def scan(chunk: Chunk) -> int:
    """Scan the records of a chunk, write its two files and return the number of records."""
    rows: list[dict[str, Any]] = []
    usable: list[tuple[dict[str, Any], Pixels]] = []
    reader = _FileReader(chunk.source, chunk.sample_bits)
    for record in chunk.records:
        row = _row(chunk, record)
        rows.append(row)
        try:
            columns, square = resize(record, *reader.read(record), chunk.size)
        except BadImage as bad:
            row.update(reason=bad.reason, detail=bad.detail)
        else:
            row.update(columns, position=len(usable))
            usable.append((row, square))
    # a separate loop: the small steps are twice as fast if large images do not evict them from the cache in between
    for row, square in usable:
        row.update(measure(row, square))
    with atomic_write(pixels_file(chunk.folder, chunk.number)) as partial, open(partial, "wb") as pixels:
        pixels.writelines(square.data for _, square in usable)
    write_table(pa.Table.from_pylist(rows, SCHEMA), chunk.table_path)
    return len(rows)


def resize(record: Record, data: bytes, decoded: Decoded, size: int) -> tuple[dict[str, Any], Pixels]:
    """Return the columns that describe a record's full-size image, and its resized pixels (size, size, 3).

    Raises `BadImage` if the image cannot be used.
    """
    image = decoded.image if record.box is None else crop(decoded.image, record.box)
    if record.label is None:
        raise BadImage(f"unknown_label:{record.source_label}", "this label is not mapped to a class")
    left, top, right, bottom = squares.content_box(*image.size, size)
    if min(right - left, bottom - top) < MIN_CONTENT:
        raise BadImage("too_elongated", f"{image.width}x{image.height}")
    columns = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "acquisition": fingerprints.capture(*decoded.image.size, decoded.coding),
        "width": image.width,
        "height": image.height,
        "conversions": list(decoded.conversions),
        "largest_sample": decoded.largest_sample,
    }
    return columns, squares.square(image, size)


def measure(row: dict[str, Any], square: Pixels) -> dict[str, Any]:
    """Return the columns measured on resized pixels: hashes, background tone, quality, channel sums."""
    left, top, right, bottom = squares.content_box(row["width"], row["height"], len(square))
    content = square[top:bottom, left:right]
    grey = Image.fromarray(content).convert("L")
    return {
        "phashes": fingerprints.perceptual_hashes(grey).tolist(),
        "pixels": fingerprints.pixel_digest(square),
        "acquisition": f"{row['acquisition']}/{fingerprints.tone(fingerprints.background_colour(content))}",
        **asdict(quality.measure(grey)),
        "channel_sums": _channel_sums(square),
    }


def _channel_sums(square: Pixels) -> list[int]:
    """Sum each channel; over rows first, since long sums along a short axis are slow."""
    sums: list[int] = square.sum(axis=0, dtype=np.uint32).sum(axis=0, dtype=np.int64).tolist()
    return sums


def _row(chunk: Chunk, record: Record) -> dict[str, Any]:
    return {
        "image_id": record.image_id,
        "source": chunk.source.name,
        "source_label": record.source_label,
        "label": record.label,
        "group": record.group,
        "augmented": record.augmented,
        "sample_bits": chunk.sample_bits,
        "chunk": chunk.number,
    }


class _FileReader:
    """Decoder that keeps the last file, so that a field with many boxes is decoded once."""

    def __init__(self, source: Source, sample_bits: int | None) -> None:
        self.source = source
        self.sample_bits = sample_bits
        self.member: str | None = None
        self.file: tuple[bytes, Decoded] | BadImage

    def read(self, record: Record) -> tuple[bytes, Decoded]:
        if record.member != self.member:
            self.member = record.member
            try:
                data = self.source.read(record)
                self.file = data, decode(data, self.sample_bits)
            except BadImage as bad:
                self.file = bad
        if isinstance(self.file, BadImage):
            raise self.file
        return self.file


def write_table(table: pa.Table, path: Path) -> None:
    """Write a parquet file atomically."""
    with atomic_write(path) as partial:
        pq.write_table(table, partial)


def pixels_file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.pixels"


class PixelReader:
    """Random access to the resized images of scanned chunks. Keeps some files open."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._open = lru_cache(maxsize=_OPEN_FILES)(self._open_chunk)

    def __call__(self, row: Mapping[str, Any]) -> Pixels:
        """Read the pixels of a row (columns `chunk`, `position`), (size, size, 3), with zero padding."""
        count = self.size * self.size * 3
        data = bytearray(count)
        file = self._open(row["chunk"])
        file.seek(row["position"] * count)
        if file.readinto(data) != count:
            raise OSError(f"{file.name} is shorter than expected; delete the unfinished build and start again")
        return np.frombuffer(data, np.uint8).reshape(self.size, self.size, 3)

    def _open_chunk(self, chunk: int) -> FileIO:
        return FileIO(pixels_file(self.folder, chunk))


def load_tables(folder: Path) -> Facts:
    """Load the rows of all chunks of a folder, in the order of their numbers.

    They are kept in `folder/facts`, one file a column. Text is of the type `large_string`; that of `ENCODED` columns is
    encoded.
    """
    facts = folder / _FACTS
    facts.mkdir(exist_ok=True)
    with ExitStack() as stack:
        streams = {field.name: stack.enter_context(_stage(field, facts)) for field in _LOADED}
        for tables in _read_chunks(sorted(folder.glob("[0-9]*.parquet"))):
            rows = pa.concat_tables(tables).combine_chunks().cast(_LOADED)
            for name, stream in streams.items():
                stream.write_table(rows.select([name]))
    return store(((name, _staged(name, facts)) for name in _LOADED.names), facts)


def _stage(field: pa.Field, folder: Path) -> pa.RecordBatchStreamWriter:
    return pa.ipc.new_stream(str(folder / f"{field.name}{_STAGED}"), pa.schema([field]))


def _staged(name: str, folder: Path) -> pa.Array | pa.ChunkedArray:
    """Return a staged column, encoded if it repeats, and remove its file, which stays mapped as long as it is used."""
    path = folder / f"{name}{_STAGED}"
    column = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()[name]
    path.unlink()
    return encode(column) if name in ENCODED else column


def _read_chunks(paths: Sequence[Path]) -> Iterator[list[pa.Table]]:
    for start in range(0, len(paths), _CHUNKS_READ):
        yield [pq.ParquetFile(path).read() for path in paths[start : start + _CHUNKS_READ]]
