"""Write parquet files of original images; `augment` writes the augmented ones."""

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..atomic_io import atomic_write
from ..curation import squares
from ..curation.scan import PixelReader
from .plan import Shard
from .schema import SCHEMA

ROW_GROUP = 128  # rows; 2.5 MB at 224 px, what a streaming reader fetches at a time
_PIXELS = ["image_id", "chunk", "position", "width", "height"]
JPEG_QUALITY = 95  # without chroma subsampling: granules differ in colour


@dataclass(frozen=True)
class ShardTask:
    """A file to write: its plan, the folders to read from and write to, and how images are padded."""

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

    def plan(self) -> pa.Table:
        """Read the columns of its rows without the image, and the location of their pixels."""
        return pq.read_table(self.shard.plan_path(self.plans))

    def squares(self) -> "PaddedSquares":
        return PaddedSquares(PixelReader(self.scanned, self.image_size), self.colour)


@dataclass(frozen=True)
class PaddedSquares:
    """Scanned images padded to squares with `colour`, RGB in [0, 255]."""

    pixels: PixelReader
    colour: tuple[int, int, int]

    def __call__(self, row: Mapping[str, Any]) -> Image.Image:
        """Return the square image of a row (columns `chunk`, `position`, `width`, `height`)."""
        return Image.fromarray(squares.pad(self.pixels(row), row["width"], row["height"], self.colour))


def write_originals(task: ShardTask) -> int:
    """Write one shard of original images and return its number of rows."""
    plan, square = task.plan(), task.squares()

    def groups() -> Iterator[pa.Table]:
        for start in range(0, plan.num_rows, ROW_GROUP):
            part = plan.slice(start, ROW_GROUP)
            images = [stored(row["image_id"], encode(square(row))) for row in part.select(_PIXELS).to_pylist()]
            yield part.append_column("image", pa.array(images, SCHEMA.field("image").type)).select(SCHEMA.names)

    write_groups(groups(), task.path)
    return task.shard.rows


def encode(image: Image.Image) -> bytes:
    """Encode an RGB image as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def stored(image_id: str, jpeg: bytes) -> dict[str, object]:
    """Return an image as `datasets` stores it: its bytes and a file name."""
    name = image_id.rpartition("/")[2]
    return {"bytes": jpeg, "path": name if name.endswith(".jpg") else f"{name}.jpg"}


def write_groups(groups: Iterable[pa.Table], path: Path) -> None:
    """Write row groups to a parquet file, atomically."""
    with (
        atomic_write(path) as partial,
        pq.ParquetWriter(partial, SCHEMA, use_content_defined_chunking=True, write_page_index=True) as writer,
    ):
        for group in groups:
            writer.write_table(group.cast(SCHEMA), row_group_size=ROW_GROUP)
