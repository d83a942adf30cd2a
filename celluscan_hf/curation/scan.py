"""Looking at each image once: decode, check, fingerprint, measure, resize.

A chunk of records becomes two files: `NNNNN.parquet` with a row per record (`reason` is set where it was dropped) and
`NNNNN.pixels` with the resized images one behind the other, (size, size, 3) bytes each, not yet padded with a colour.
The parquet file is written last, under its final name only when it is complete: it is what a resumed run looks for.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
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
_OPEN_FILES = 256
MIN_CONTENT = 8  # pixels a side of what is left of an image once it is resized: enough for its border and edges


@dataclass(frozen=True, slots=True)
class Chunk:
    """A task: records of one source, looked at together, written to `folder` under `number`.

    `sample_bits` is the depth of samples that no file names; None for that of each file's own range.
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
    """Look at each record of a chunk and write its two files; the number of records."""
    rows: list[dict[str, Any]] = []
    seen: list[tuple[dict[str, Any], Pixels]] = []
    opened = _OneFile(chunk.source, chunk.sample_bits)
    for record in chunk.records:
        row = _row(chunk, record)
        rows.append(row)
        try:
            facts, square = shrink(record, *opened.read(record), chunk.size)
        except BadImage as bad:
            row.update(reason=bad.reason, detail=bad.detail)
        else:
            row.update(facts, position=len(seen))
            seen.append((row, square))
    # a loop of its own: small steps run twice as fast when large images don't push them out of the cache in between
    for row, square in seen:
        row.update(measure(row, square))
    with atomic_write(pixels_file(chunk.folder, chunk.number)) as partial, open(partial, "wb") as pixels:
        pixels.writelines(square.data for _, square in seen)
    write_table(pa.Table.from_pylist(rows, SCHEMA), chunk.table_path)
    return len(rows)


def shrink(record: Record, data: bytes, decoded: Decoded, size: int) -> tuple[dict[str, Any], Pixels]:
    """Facts on the record's image at its full size, and its pixels resized, (size, size, 3). Raises `BadImage`."""
    image = decoded.image if record.box is None else crop(decoded.image, record.box)
    if record.label is None:
        raise BadImage(f"unknown_label:{record.source_label}", "no class of ours is known for this label")
    left, top, right, bottom = squares.content_box(*image.size, size)
    if min(right - left, bottom - top) < MIN_CONTENT:
        raise BadImage("too_elongated", f"{image.width}x{image.height}")
    facts = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "acquisition": fingerprints.capture(*decoded.image.size, decoded.coding),
        "width": image.width,
        "height": image.height,
        "conversions": list(decoded.conversions),
        "largest_sample": decoded.largest_sample,
    }
    return facts, squares.square(image, size)


def measure(row: dict[str, Any], square: Pixels) -> dict[str, Any]:
    """What is read off the resized pixels of a row: hashes, tone of the background, quality, channel sums."""
    left, top, right, bottom = squares.content_box(row["width"], row["height"], len(square))
    content = square[top:bottom, left:right]
    grey = Image.fromarray(content).convert("L")
    measured = quality.measure(grey)
    return {
        "phashes": fingerprints.perceptual_hashes(grey).tolist(),
        "pixels": fingerprints.pixel_digest(square),
        "acquisition": f"{row['acquisition']}/{fingerprints.tone(fingerprints.background_colour(content))}",
        "sharpness": measured.sharpness,
        "brightness": measured.brightness,
        "contrast": measured.contrast,
        "channel_sums": _channel_sums(square),
    }


def _channel_sums(square: Pixels) -> list[int]:
    """The sum of each channel; of rows first, since long sums along a short axis are slow."""
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


class _OneFile:
    """The file that was read last, so that the boxes of one field decode it once."""

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
    """Write a parquet file that exists only when it is whole."""
    with atomic_write(path) as partial:
        pq.write_table(table, partial)


def pixels_file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.pixels"


class PixelReader:
    """Reads single resized images of scanned chunks. Keeps some files open: they are asked for in any order."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._open = lru_cache(maxsize=_OPEN_FILES)(self._open_chunk)

    def __call__(self, row: Mapping[str, Any]) -> Pixels:
        """The pixels of a row (columns `chunk`, `position`), (size, size, 3), their padding still zero."""
        count = self.size * self.size * 3
        data = bytearray(count)
        file = self._open(row["chunk"])
        file.seek(row["position"] * count)
        if file.readinto(data) != count:
            raise OSError(f"{file.name} is shorter than it was written; delete the unfinished build and start anew")
        return np.frombuffer(data, np.uint8).reshape(self.size, self.size, 3)

    def _open_chunk(self, chunk: int) -> FileIO:
        return FileIO(pixels_file(self.folder, chunk))


def load_tables(folder: Path) -> pa.Table:
    """The rows of all chunks of a folder, in the order of their numbers."""
    return pa.concat_tables(map(pq.read_table, sorted(folder.glob("[0-9]*.parquet"))))
