"""What a user names, as a sequence of named images: files, folders, patterns, parquet files.

- A file is read whatever it is called. One that ends in `.parquet`, or begins as parquet does, is a table of images.
- A folder stands for the image files below it, by their endings and in the order of their paths. Hidden files and what
  systems leave behind are passed over. One that holds parquet files is refused: a built data set would mix its train
  and test rows, and the picture of its card is no cell.
- A pattern (`'cells/**/*.png'`, quoted) stands for what the shell would have found, of that the image files and those
  with the ending that it spells out.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, ClassVar, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..curation.decoding import decode
from ..errors import BadImage, CelluScanError
from ..sources.hidden import is_hidden_folder, is_system_file
from ..sources.tree import FolderTree
from .prediction import ReadImage

IMAGE_SUFFIXES = frozenset(  # of the formats that `decode` reads
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
)
ROWS_AT_ONCE = 32  # of a parquet file
_BUFFER_BYTES = 2**20  # a column is read in such pieces, not a row group at once
_PARQUET, _PARQUET_MAGIC = ".parquet", b"PAR1"
_HIDING = {"unreadable_folder", "broken_link"}  # of a tree's problems: there may be images behind
_EXPECTED = "expected image files, folders of them, patterns such as 'cells/*.jpg', or parquet files"


@dataclass(frozen=True, slots=True)
class NamedImage:
    """`read` decodes it in whatever thread, or raises `BadImage`."""

    name: str
    read: ReadImage


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file; `problem` is set where it cannot be opened."""

    path: Path
    problem: str = ""
    rows: ClassVar[int] = 1

    def images(self) -> Iterator[NamedImage]:
        read: ReadImage = partial(_refuse, self.problem) if self.problem else partial(_read_file, self.path)
        yield NamedImage(_readable(self.path), read)


@dataclass(frozen=True, slots=True)
class ImageTable:
    """A parquet file with a column `image`. An image is called by its `image_id`, else `<path>#<row>`, from 0."""

    path: Path
    rows: int
    columns: tuple[str, ...]

    def images(self) -> Iterator[NamedImage]:
        """Row by row. Where a row group turns out to be damaged, its rows from there on are unreadable images."""
        with pq.ParquetFile(self.path, buffer_size=_BUFFER_BYTES) as file:
            end = 0
            for group in range(file.num_row_groups):
                row, end = end, end + file.metadata.row_group(group).num_rows
                try:
                    for cell, name in self._cells(file, group):
                        yield NamedImage(self._called(row) if name is None else str(name), partial(_read_cell, cell))
                        row += 1
                except (pa.ArrowException, OSError) as error:
                    refuse = partial(_refuse, "unreadable", str(error).partition("\n")[0])
                    yield from (NamedImage(self._called(rest), refuse) for rest in range(row, end))

    def _cells(self, file: pq.ParquetFile, group: int) -> Iterator[tuple[Any, Any]]:
        """The image of each row, and its `image_id` or None."""
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(self.columns)):
            names = batch.column("image_id").to_pylist() if "image_id" in self.columns else [None] * len(batch)
            yield from zip(batch.column("image").to_pylist(), names, strict=True)

    def _called(self, row: int) -> str:
        return f"{_readable(self.path)}#{row}"


class Images:
    """Named images in the order in which they were named, each once; `len` needs no reading."""

    def __init__(self, places: Iterable[ImageFile | ImageTable]) -> None:
        unique: dict[tuple[str, str], ImageFile | ImageTable] = {}
        real = lru_cache(os.path.realpath)
        for place in places:  # not resolved itself: in the Hub's cache, equal files are links to one
            unique.setdefault((real(place.path.parent), place.path.name), place)
        self._places = list(unique.values())

    def __len__(self) -> int:
        return sum(place.rows for place in self._places)

    def __iter__(self) -> Iterator[NamedImage]:
        for place in self._places:
            yield from place.images()


def find_images(named: Iterable[str | Path]) -> Images:
    """The images that files, folders, patterns and parquet files stand for. No image is opened yet.

    Raises:
        CelluScanError: One of them does not exist or stands for no image, or a parquet file is damaged or has no column
            `image` with the bytes of image files.
    """
    images = Images(place for name in named for place in _places(str(name)))
    if not len(images):
        raise CelluScanError(f"no image was named, or only parquet files without rows; {_EXPECTED}")
    return images


def _places(name: str) -> list[ImageFile | ImageTable]:
    path = Path(name)
    if not name:
        raise CelluScanError(f"an empty name; {_EXPECTED}")
    if path.is_dir():
        if found := _in_folder(path):
            return found
        endings = " ".join(sorted(IMAGE_SUFFIXES))
        raise CelluScanError(f"{_readable(path)} holds no image file ({endings}); {_EXPECTED}")
    if path.exists():
        return [_place(path)]
    if os.path.lexists(path):
        raise CelluScanError(f"{_readable(path)} is a link to a file that is gone; {_EXPECTED}")
    if glob.has_magic(name):
        return _matching(name)
    raise CelluScanError(f"{_readable(path)} does not exist; {_EXPECTED}")


def _place(path: Path) -> ImageFile | ImageTable:
    if not path.is_file():
        raise CelluScanError(f"{_readable(path)} is neither a file nor a folder; {_EXPECTED}")
    return _table(path) if _is_parquet(path) else ImageFile(path)


def _in_folder(folder: Path) -> list[ImageFile | ImageTable]:
    entries = [entry for entry in FolderTree(folder).entries() if not PurePath(entry.path).name.startswith(".")]
    tables = [entry.path for entry in entries if entry.path.lower().endswith(_PARQUET)]
    if tables:
        example = next((path for path in tables if PurePath(path).name.startswith("test")), tables[0])
        raise CelluScanError(
            f"{_readable(folder)} holds {len(tables)} parquet files, maybe of train and test; name those you mean, "
            f"such as {_readable(folder / example)}, or the images, such as '{_readable(folder)}/**/*.jpg'"
        )
    return [
        ImageFile(folder / entry.path, entry.problem)
        for entry in entries
        if PurePath(entry.path).suffix.lower() in IMAGE_SUFFIXES or entry.problem in _HIDING
    ]


def _matching(pattern: str) -> list[ImageFile | ImageTable]:
    wanted = IMAGE_SUFFIXES | ({PurePath(pattern).suffix.lower()} - {""})
    places: list[ImageFile | ImageTable] = []
    for match in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):
        path = Path(match)
        matched = set(path.parts) - set(PurePath(os.path.expanduser(pattern)).parts)  # not spelled out by the user
        if any(is_hidden_folder(part) or is_system_file(part) for part in matched):
            continue
        if path.is_dir():
            places += _in_folder(path)
        elif path.suffix.lower() in wanted:
            places.append(_place(path))
    if not places:
        raise CelluScanError(f"no image matches {_readable(Path(pattern))!r}; {_EXPECTED}")
    return places


def _is_parquet(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix == _PARQUET or suffix in IMAGE_SUFFIXES:
        return suffix == _PARQUET
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except OSError:
        return False  # its row will say so


def _table(path: Path) -> ImageTable:
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CelluScanError(f"{_readable(path)} is no parquet file, or damaged ({reason}); write it again") from error
    if "image" not in schema.names or not _holds_bytes(schema.field("image").type):
        found = (
            f"a column image of {schema.field('image').type}"
            if "image" in schema.names
            else f"the columns {', '.join(schema.names)}"
        )
        raise CelluScanError(
            f"{_readable(path)} has {found}; expected a column image with the bytes of image files (binary, or a "
            "struct with bytes, as data sets on the Hub have)"
        )
    return ImageTable(path, rows, tuple(name for name in ("image", "image_id") if name in schema.names))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _read_file(path: Path) -> Image.Image:
    return decode(FolderTree(path.parent).read(path.name)).image


def _read_cell(cell: bytes | dict[str, Any] | None) -> Image.Image:
    """The image of one cell of a table: the bytes of a file, or a struct of them and a path."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if data is None and path:  # a path that a stranger wrote: not opened
        raise BadImage("not_embedded", f"the row has no bytes, only the path {path}")
    return decode(data or b"").image


def _refuse(reason: str, detail: str = "") -> NoReturn:
    raise BadImage(reason, detail)


def _readable(path: Path) -> str:
    """The path itself where it is UTF-8; else with the foreign bytes written as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
