"""Writing parquet files of images: the originals here, the augmented ones in `augment`."""

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..curation import squares
from ..curation.scan import load_pixels
from ..curation.whole import whole
from .features import SCHEMA
from .plan import Shard

ROW_GROUP = 128  # rows; 2.5 MB at 224 px, what a streaming reader fetches at a time
JPEG_QUALITY = 95  # with full chroma: on PBC cells the mean error is under one grey level


@dataclass(frozen=True)
class ShardTask:
    """A file to be written: its plan, the folders it reads from and writes to, and how images are made."""

    shard: Shard
    plans: Path
    scanned: Path
    final: Path
    image_size: int
    colour: tuple[int, int, int]
    seed: int

    @property
    def path(self) -> Path:
        return self.final / self.shard.name

    def plan(self) -> list[dict[str, Any]]:
        return pq.read_table(self.shard.plan_path(self.plans)).to_pylist()

    def square(self, row: dict[str, Any]) -> Image.Image:
        """The padded square of a planned row."""
        return padded_square(row, self.scanned, self.image_size, self.colour)


def padded_square(row: dict[str, Any], scanned: Path, size: int, colour: tuple[int, int, int]) -> Image.Image:
    """A scanned image, `size` pixels a side, its padding in `colour`. `row` says where its pixels lie."""
    pixels = load_pixels(scanned, row["chunk"], row["position"], size)
    return Image.fromarray(squares.pad(pixels, row["width"], row["height"], colour))


def write_originals(task: ShardTask) -> int:
    """Write one shard of original images; the number of its rows."""
    rows = ({**row, "image": stored(row["image_id"], encode(task.square(row)))} for row in task.plan())
    write_rows(rows, task.path)
    return task.shard.rows


def encode(image: Image.Image) -> bytes:
    """The JPEG file of an RGB image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def stored(image_id: str, jpeg: bytes) -> dict[str, object]:
    """An image as `datasets` stores it: its bytes, and a file name for who saves it."""
    return {"bytes": jpeg, "path": PurePosixPath(image_id).with_suffix(".jpg").name}


def write_rows(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Write rows to a parquet file, a row group at a time; it gets its name once it is whole."""
    with (
        whole(path) as partial,
        pq.ParquetWriter(partial, SCHEMA, use_content_defined_chunking=True, write_page_index=True) as writer,
    ):
        for group in _groups(rows, ROW_GROUP):
            columns = {name: [row[name] for row in group] for name in SCHEMA.names}
            writer.write_table(pa.table(columns, schema=SCHEMA), row_group_size=ROW_GROUP)


def _groups(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
