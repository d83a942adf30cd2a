"""Writing parquet files of images: the originals here, the augmented ones in `augment`."""

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
from .features import SCHEMA
from .plan import Shard

ROW_GROUP = 128  # rows; 2.5 MB at 224 px, what a streaming reader fetches at a time
_PIXELS = ["image_id", "chunk", "position", "width", "height"]
JPEG_QUALITY = 95  # with full chroma: granules are told by their colour


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

    def plan(self) -> pa.Table:
        """The columns of its rows but for the image, and where their pixels lie."""
        return pq.read_table(self.shard.plan_path(self.plans))

    def squares(self) -> "PaddedSquares":
        return PaddedSquares(PixelReader(self.scanned, self.image_size), self.colour)


@dataclass(frozen=True)
class PaddedSquares:
    """Scanned images with their padding in `colour`, RGB in [0, 255]."""

    pixels: PixelReader
    colour: tuple[int, int, int]

    def __call__(self, row: Mapping[str, Any]) -> Image.Image:
        """The square of a row (columns `chunk`, `position`, `width`, `height`)."""
        return Image.fromarray(squares.pad(self.pixels(row), row["width"], row["height"], self.colour))


def write_originals(task: ShardTask) -> int:
    """Write one shard of original images; the number of its rows."""
    plan, square = task.plan(), task.squares()

    def groups() -> Iterator[pa.Table]:
        for start in range(0, plan.num_rows, ROW_GROUP):
            part = plan.slice(start, ROW_GROUP)
            images = [stored(row["image_id"], encode(square(row))) for row in part.select(_PIXELS).to_pylist()]
            yield part.append_column("image", pa.array(images, SCHEMA.field("image").type)).select(SCHEMA.names)

    write_groups(groups(), task.path)
    return task.shard.rows


def encode(image: Image.Image) -> bytes:
    """The JPEG file of an RGB image."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def stored(image_id: str, jpeg: bytes) -> dict[str, object]:
    """An image as `datasets` stores it: its bytes, and a file name for who saves it."""
    name = image_id.rpartition("/")[2]
    return {"bytes": jpeg, "path": name if name.endswith(".jpg") else f"{name}.jpg"}


def write_groups(groups: Iterable[pa.Table], path: Path) -> None:
    """Write row groups to a parquet file that exists only when it is whole."""
    with (
        atomic_write(path) as partial,
        pq.ParquetWriter(partial, SCHEMA, use_content_defined_chunking=True, write_page_index=True) as writer,
    ):
        for group in groups:
            writer.write_table(group.cast(SCHEMA), row_group_size=ROW_GROUP)
