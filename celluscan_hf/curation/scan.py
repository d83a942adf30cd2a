"""Looking at each image once: decode, check, fingerprint, measure, resize.

A chunk of records becomes two files: `NNNNN.parquet` with a row per record (`reason` is set where it was dropped) and
`NNNNN.pixels` with the resized images one behind the other, (size, size, 3) bytes each, not yet padded with a colour.
The parquet file is written last, under its final name only when it is complete: it is what a resumed run looks for.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from ..errors import BadImage
from ..sources import Record, Source
from . import fingerprints, quality, squares
from .decoding import Decoded, decode
from .whole import whole

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
        ("phash", pa.uint64()),
        ("pixels", pa.binary(16)),
        ("acquisition", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sharpness", pa.float64()),
        ("brightness", pa.float64()),
        ("contrast", pa.float64()),
        ("channel_sums", pa.list_(pa.int64(), 3)),
        ("conversions", pa.list_(pa.string())),
        ("chunk", pa.int32()),
        ("position", pa.int32()),
    ]
)
MIN_CONTENT = 8  # pixels a side of what is left of an image once it is resized: enough for its border and edges


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found out about one usable image; the fields of the same names in `SCHEMA`."""

    sha256: str
    phash: int
    pixels: bytes
    acquisition: str
    width: int
    height: int
    sharpness: float
    brightness: float
    contrast: float
    channel_sums: list[int]
    conversions: list[str]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A task: records of one source, looked at together, written to `folder` under `number`."""

    number: int
    source: Source
    records: tuple[Record, ...]
    size: int
    folder: Path

    @property
    def table_path(self) -> Path:
        return self.folder / f"{self.number:05d}.parquet"


def scan(chunk: Chunk) -> int:
    """Look at each record of a chunk and write its two files; the number of records."""
    rows: list[dict[str, object]] = []
    opened = _OneFile(chunk.source)
    with whole(pixels_file(chunk.folder, chunk.number)) as partial, open(partial, "wb") as pixels:
        for record in chunk.records:
            row = _row(chunk, record)
            try:
                image, seen = look(record, *opened.read(record), chunk.size)
            except BadImage as bad:
                row.update(reason=bad.reason, detail=bad.detail)
            else:
                row.update(asdict(seen), position=pixels.tell() // image.nbytes)
                pixels.write(image)
            rows.append(row)
    write_table(pa.Table.from_pylist(rows, SCHEMA), chunk.table_path)
    return len(rows)


def look(record: Record, data: bytes, decoded: Decoded, size: int) -> tuple[NDArray[np.uint8], Seen]:
    """The record's resized image and all that is recorded of it. Raises `BadImage`."""
    whole = decoded.image
    image = whole if record.box is None else _crop(whole, record.box)
    if record.label is None:
        raise BadImage(f"unknown_label:{record.source_label}", "no class of ours is known for this label")
    square = squares.square(image, size)
    content = square.crop(squares.content_box(*image.size, size))
    if min(content.size) < MIN_CONTENT:
        raise BadImage("too_elongated", f"{image.width}x{image.height}")
    background = fingerprints.background_colour(np.asarray(content))
    histogram = np.asarray(square.histogram(), np.int64).reshape(3, 256)
    seen = Seen(
        sha256=hashlib.sha256(data).hexdigest(),
        phash=fingerprints.perceptual_hash(content),
        pixels=fingerprints.pixel_digest(np.asarray(image)),
        acquisition=fingerprints.acquisition(whole.width, whole.height, decoded.coding, background),
        width=image.width,
        height=image.height,
        channel_sums=(histogram @ np.arange(256)).tolist(),
        conversions=list(decoded.conversions),
        **asdict(quality.measure(content)),
    )
    return np.asarray(square), seen


def _row(chunk: Chunk, record: Record) -> dict[str, object]:
    return {
        "image_id": record.image_id,
        "source": chunk.source.name,
        "source_label": record.source_label,
        "label": record.label,
        "group": record.group,
        "augmented": record.augmented,
        "chunk": chunk.number,
    }


def _crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise BadImage("box_outside_image", f"box {box} in an image of {image.width}x{image.height}")
    return image.crop(box)


class _OneFile:
    """The file that was read last, so that the boxes of one field decode it once."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.member: str | None = None
        self.file: tuple[bytes, Decoded] | BadImage

    def read(self, record: Record) -> tuple[bytes, Decoded]:
        if record.member != self.member:
            self.member = record.member
            try:
                data = self.source.read(record)
                self.file = data, decode(data)
            except BadImage as bad:
                self.file = bad
        if isinstance(self.file, BadImage):
            raise self.file
        return self.file


def write_table(table: pa.Table, path: Path) -> None:
    """Write a parquet file that exists only when it is whole."""
    with whole(path) as partial:
        pq.write_table(table, partial)


def pixels_file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.pixels"


def load_pixels(folder: Path, chunk: int, position: int, size: int) -> NDArray[np.uint8]:
    """One resized image of a scanned chunk, (size, size, 3), its padding still zero. The array is the caller's own."""
    count = size * size * 3
    data = np.fromfile(pixels_file(folder, chunk), np.uint8, count, offset=position * count)
    return data.reshape(size, size, 3)


def load_tables(folder: Path) -> pa.Table:
    """The rows of all chunks of a folder, in the order of their numbers."""
    return pa.concat_tables(map(pq.read_table, sorted(folder.glob("[0-9]*.parquet"))))
