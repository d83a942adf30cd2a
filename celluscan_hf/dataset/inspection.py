"""Read a written folder back: every row and every image, as users will load them."""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from ..atomic_io import atomic_write
from ..curation import squares
from ..curation.fingerprints import perceptual_hashes, pixel_digest
from ..curation.orientation import ORIENTATIONS
from ..errors import CelluScanError
from .schema import SCHEMA, Part
from .shortcuts import RING_FEATURES, ring

_NAME = re.compile(r"(?P<kind>originals|augmented)/(?P<split>[a-z]+)(?:-(?P<tier>tier\d+))?-\d{5}-of-\d{5}\.parquet$")
_HASHES = len(ORIENTATIONS)
_COLUMNS = [name for name in SCHEMA.names if name != "image"]


@dataclass(frozen=True)
class FileReport:
    """Content of one parquet file; what was read of each row is in the file `facts`.

    - `count`: number of rows; `labels` and `licenses`: number of rows of each label id and licence.
    - `memory_bytes`: size of the decoded columns.
    - `sums`, `squares`: (3,) sums of the channel levels and of their squares over `values` pixels.
    """

    path: Path
    part: Part
    facts: Path
    count: int
    labels: dict[int, int]
    licenses: dict[str, int]
    memory_bytes: int
    sums: NDArray[np.int64]
    squares: NDArray[np.int64]
    values: int

    @property
    def rows(self) -> pa.Table:
        """Map what was read of each row.

        That is the columns of the dataset without the image, plus `pixels`, a digest of each decoded image, and
        `position`, its row in the file; and of originals also `ring`, the border features from `shortcuts.ring`, and
        `hashes`, the perceptual hashes of the stored image in all orientations.
        """
        return pa.ipc.open_file(pa.memory_map(str(self.facts))).read_all()

    @property
    def rings(self) -> NDArray[np.float32]:
        """Border features of originals, (rows, features)."""
        return _matrix(self.rows["ring"])

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Perceptual hashes of originals in all orientations, (rows, 8)."""
        return _matrix(self.rows["hashes"])


def _matrix(column: pa.ChunkedArray) -> NDArray[Any]:
    values: NDArray[Any] = column.combine_chunks().flatten().to_numpy()
    return values.reshape(len(column), -1)


@dataclass(frozen=True)
class FileTask:
    """A parquet file to read back, the expected side of its images in pixels, and a folder for what it says of rows."""

    path: Path
    image_size: int
    facts: Path


def parquet_files(folder: Path) -> list[Path]:
    """Return all data files of a folder, sorted by name."""
    return sorted(folder.glob("data/*/*.parquet"))


def inspect(task: FileTask) -> FileReport:
    """Read one file back and write what was read of its rows.

    Raises `CelluScanError` for unexpected columns or images.
    """
    file = pq.ParquetFile(task.path)
    if not file.schema_arrow.equals(SCHEMA):
        raise CelluScanError(f"{task.path} has the columns {file.schema_arrow.names}, expected {SCHEMA.names}")
    tables: list[pa.Table] = []
    digests: list[bytes] = []
    rings: list[NDArray[np.float32]] = []
    hashes: list[NDArray[np.uint64]] = []
    part = part_of(task.path)
    histogram = np.zeros((3, 256), np.int64)
    memory_bytes = 0
    for batch in file.iter_batches(batch_size=128):
        memory_bytes += batch.nbytes
        for row in batch.select(["image", "width", "height"]).to_pylist():
            image = _decode(row["image"]["bytes"], task)
            if part.kind == "originals":
                content = image.crop(squares.content_box(row["width"], row["height"], image.width))
                rings.append(ring(content))
                hashes.append(perceptual_hashes(content.convert("L")))
            digests.append(pixel_digest(np.asarray(image)))
            histogram += np.asarray(image.histogram(), np.int64).reshape(3, 256)
        tables.append(pa.Table.from_batches([batch]).select(_COLUMNS))
    columns = {"pixels": pa.array(digests, pa.binary(16)), "position": pa.array(range(len(digests)), pa.int32())}
    if part.kind == "originals":
        columns |= {"ring": _lists(rings, RING_FEATURES, pa.float32()), "hashes": _lists(hashes, _HASHES, pa.uint64())}
    rows = pa.concat_tables(tables)
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    facts = task.facts / f"{part.kind}~{task.path.stem}.arrow"
    with atomic_write(facts) as partial, pa.ipc.new_file(str(partial), rows.schema) as to:
        to.write_table(rows.combine_chunks())
    levels = np.arange(256)
    return FileReport(
        path=task.path,
        part=part,
        facts=facts,
        count=rows.num_rows,
        labels=_counts(rows["label"]),
        licenses=_counts(rows["license"]),
        memory_bytes=memory_bytes,
        sums=histogram @ levels,
        squares=histogram @ levels**2,
        values=int(histogram[0].sum()),
    )


def _lists(values: list[NDArray[Any]], length: int, type: pa.DataType) -> pa.Array:
    flat = np.array(values, type.to_pandas_dtype()).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, type), length)


def _counts(column: pa.ChunkedArray) -> dict[Any, int]:
    return {entry["values"]: entry["counts"] for entry in column.value_counts().to_pylist()}


def part_of(path: Path) -> Part:
    """Parse the part that a file belongs to from its name."""
    match = _NAME.search(path.as_posix())
    if match is None:
        raise CelluScanError(
            f"{path} is not named like a file of this dataset; expected data/originals/test-00000-of-00001.parquet"
        )
    return Part(match["kind"], match["split"], match["tier"] or "")


def channel_statistics(reports: Iterable[FileReport]) -> tuple[list[float], list[float]]:
    """Compute channel mean and standard deviation, (3,) each in [0, 1], of the train originals."""
    train = [report for report in reports if report.part.kind == "originals" and report.part.split == "train"]
    values = sum(report.values for report in train)
    mean = np.sum([report.sums for report in train], axis=0) / values
    variance = np.sum([report.squares for report in train], axis=0) / values - mean**2
    return _unit(mean), _unit(np.sqrt(variance))


def stored_content(path: Path, position: int) -> Image.Image:
    """Load the image of one row without its padding."""
    file = pq.ParquetFile(path)
    for number in range(file.num_row_groups):
        length = file.metadata.row_group(number).num_rows
        if position < length:
            group = file.read_row_group(number, columns=["image", "width", "height"])
            row = group.slice(position, 1).to_pylist()[0]
            image = Image.open(io.BytesIO(row["image"]["bytes"]))
            return image.crop(squares.content_box(row["width"], row["height"], image.width))
        position -= length
    raise IndexError(f"{path} has no row {position}")


def _decode(data: bytes, task: FileTask) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    if image.mode != "RGB" or image.size != (task.image_size, task.image_size):
        raise CelluScanError(
            f"{task.path} holds an image of mode {image.mode} and size {image.size}, "
            f"expected RGB, {task.image_size} x {task.image_size}"
        )
    return image


def _unit(levels: NDArray[np.float64]) -> list[float]:
    return [round(float(level) / 255, 6) for level in levels]
