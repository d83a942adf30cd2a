"""Find the images that a user names by files, folders, patterns or parquet files.

- A file is read whatever its name. One that ends in `.parquet`, or starts with parquet's magic bytes, is a table of
  images.
- A folder stands for the image files below it, by their endings and in the order of their paths. Hidden and system
  files are skipped. A folder with parquet files is refused: a built dataset would mix its train and test rows, and its
  card's image is not a cell.
- A pattern (`'cells/**/*.png'`, quoted) stands for the matching image files, and for files with the ending that the
  pattern itself ends in. Leading folders that exist as spelled are not treated as patterns; if nothing matches, neither
  are brackets.

Files in folders and patterns without an image ending are skipped and counted.
"""

import glob
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePath
from typing import Any, ClassVar, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ..curation.decoding import Decoded, decode
from ..errors import BadImage, CelluScanError
from ..remote import file_system, is_address, is_remote, locate
from ..sources.hf_tables import open_parquet
from ..sources.hidden import hidden_part, is_hidden_folder, is_system_file
from ..sources.tree import open_folder

IMAGE_SUFFIXES = frozenset(  # of the formats that `decode` reads
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
)
ROWS_AT_ONCE = 32  # rows of a parquet file in memory
_BUFFER_BYTES = 2**20  # a column is read in pieces of this size, not a row group at once
_PARQUET, _PARQUET_MAGIC = ".parquet", b"PAR1"
_HIDING = {"unreadable_folder", "broken_link"}  # problems of a tree that may hide images
_EXPECTED = "expected image files, folders of them, patterns such as 'cells/*.jpg', or parquet files"


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image with its name; `decode` reads it, in any thread, or raises `BadImage`."""

    name: str
    decode: Callable[[], Decoded]

    def read(self) -> Image.Image:
        """Read the image without its notes. Raises `BadImage`."""
        return self.decode().image


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file; `problem` says why it cannot be opened, if so."""

    path: Path
    problem: str = ""
    rows: ClassVar[int] = 1

    def images(self) -> Iterator[NamedImage]:
        read = partial(_refuse, self.problem) if self.problem else partial(_read_file, self.path)
        yield NamedImage(readable_path(self.path), read)


@dataclass(frozen=True, slots=True)
class ImageTable:
    """A parquet file with a column `image`. Images are named by their `image_id`, else `<path>#<row>`, from 0.

    `groups` are the first of its row groups and the one after the last, None for all; `rows` are the rows in them.
    """

    path: Path
    rows: int
    columns: tuple[str, ...]
    groups: tuple[int, int] | None = None

    def images(self) -> Iterator[NamedImage]:
        """Yield the images row by row. If a row group is damaged, its remaining rows become unreadable images."""
        with open_parquet(self.path, buffer_size=_BUFFER_BYTES) as file:
            for group, row, end in self.row_groups(file):
                try:
                    for cell, name in self._cells(file, group):
                        yield NamedImage(self._row_name(row) if name is None else str(name), partial(_read_cell, cell))
                        row += 1
                except (pa.ArrowException, OSError) as error:
                    refuse = partial(_refuse, "unreadable", str(error).partition("\n")[0])
                    yield from (NamedImage(self._row_name(rest), refuse) for rest in range(row, end))

    def row_groups(self, file: pq.ParquetFile) -> Iterator[tuple[int, int, int]]:
        """Yield the number of each of its row groups in a file, its first row and the one after its last."""
        end = 0
        for group in range(file.num_row_groups):
            row, end = end, end + file.metadata.row_group(group).num_rows
            if self.groups is None or self.groups[0] <= group < self.groups[1]:
                yield group, row, end

    def _cells(self, file: pq.ParquetFile, group: int) -> Iterator[tuple[Any, Any]]:
        """Yield the image of each row, and its `image_id` or None."""
        for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=list(self.columns)):
            names = batch.column("image_id").to_pylist() if "image_id" in self.columns else [None] * len(batch)
            yield from zip(batch.column("image").to_pylist(), names, strict=True)

    def _row_name(self, row: int) -> str:
        return f"{readable_path(self.path)}#{row}"


Place = ImageFile | ImageTable


class Images:
    """Named images in the given order, each once; `len` reads no image.

    `skipped` counts files in folders and patterns without an image ending, by ending; `repeated` the files that were
    named again.
    """

    def __init__(self, places: Iterable[Place], others: Iterable[Path] = ()) -> None:
        unique: dict[tuple[str, str], Place] = {}
        self.repeated = 0
        key_of = file_keys()
        for place in places:
            key = key_of(place.path)
            self.repeated += key in unique
            unique.setdefault(key, place)
        self._places = list(unique.values())
        self.skipped = _endings({key_of(path) for path in others})

    def __len__(self) -> int:
        return sum(place.rows for place in self._places)

    def __iter__(self) -> Iterator[NamedImage]:
        for place in self._places:
            yield from place.images()


def find_images(named: Iterable[str | Path], lists: Iterable[str] = ()) -> Images:
    """Find the images that files, folders, patterns, parquet files and `lists` of paths stand for. None is opened yet.

    Raises:
        CelluScanError: One of them does not exist or stands for no image, or a parquet file is damaged or has no column
            `image` with the bytes of image files.
    """
    others: list[Path] = []
    images = Images(find_places(named, others.append, lists), others)
    if not len(images):
        raise no_images()
    return images


def find_places(
    named: Iterable[str | Path], skip: Callable[[Path], object], lists: Iterable[str] = ()
) -> Iterator[Place]:
    """Yield the files and tables that names, and lists of names, stand for, one by one; see `find_images`.

    A file named twice is yielded twice. `skip` gets each file that is skipped since it has no image ending.
    """
    for name in named:
        yield from _places(str(name), skip)
    for file in lists:
        for name in _lines(file):
            yield from _listed(name, skip)


def no_images() -> CelluScanError:
    """Return the error of inputs that stand for no image."""
    return CelluScanError(f"no image was given, or only parquet files without rows; {_EXPECTED}")


def file_keys() -> Callable[[Path], tuple[str, str]]:
    """Return a function whose value is equal for two names of one file.

    The file itself is not resolved: in the Hub's cache, equal files are links to one blob.
    """
    real = lru_cache(_real_path)
    return lambda path: (real(path.parent), path.name)


def _lines(file: str) -> Iterator[str]:
    """Yield the paths in a list, one a line; `-` is standard input."""
    try:
        with nullcontext(sys.stdin) if file == "-" else open(file, encoding="utf-8", errors="surrogateescape") as lines:
            yield from filter(None, (line.rstrip("\r\n") for line in lines))
    except OSError as error:
        raise CelluScanError(f"--list {file}: {error.strerror}; expected a text file with one path a line") from error


def _listed(name: str, skip: Callable[[Path], object]) -> Iterator[Place]:
    """Yield what a path in a list stands for. One that stands for no image is an unusable image: a list may be long."""
    if not is_address(name) and not os.path.lexists(name):
        yield ImageFile(Path(name), "missing_file")
        return
    try:
        yield from _places(name, skip)
    except CelluScanError:
        yield ImageFile(Path(name), "unusable_path")


def counted(endings: Counter[str]) -> str:
    """List the number of files with each ending, most frequent first: `3 .heic, 1 without an ending`."""
    return ", ".join(f"{count} {ending or 'without an ending'}" for ending, count in endings.most_common())


def _endings(files: Iterable[tuple[str, str]]) -> Counter[str]:
    return Counter(sorted(PurePath(name).suffix.lower() for _, name in files))


def _places(name: str, skip: Callable[[Path], object]) -> Iterator[Place]:
    """Yield the files and tables that a name stands for; `skip` gets the skipped files."""
    if not name:
        raise CelluScanError(f"an empty name; {_EXPECTED}")
    path = locate(name)
    if path.is_dir():
        yield from _in_named_folder(path, skip)
    elif path.exists():
        yield _place(path)
    elif not is_remote(path) and os.path.lexists(path):
        raise CelluScanError(f"{readable_path(path)} is a broken link; {_EXPECTED}")
    elif glob.has_magic(name):
        yield from _matching(path, skip)
    else:
        raise CelluScanError(f"{readable_path(path)} does not exist; {_EXPECTED}")


def _in_named_folder(folder: Path, skip: Callable[[Path], object]) -> Iterator[Place]:
    skipped: Counter[str] = Counter()

    def count(path: Path) -> None:
        skipped[path.suffix.lower()] += 1
        skip(path)

    places = _in_folder(folder, count)
    first = next(places, None)
    if first is None:
        endings, holds = " ".join(sorted(IMAGE_SUFFIXES)), counted(skipped)
        raise CelluScanError(
            f"{readable_path(folder)} contains no image file ({endings})"
            f"{f', but {holds}' if holds else ''}; {_EXPECTED}"
        )
    yield first
    yield from places


def _place(path: Path) -> Place:
    if not path.is_file():
        raise CelluScanError(f"{readable_path(path)} is neither a file nor a folder; {_EXPECTED}")
    return open_table(path) if _is_parquet(path) else ImageFile(path)


def _in_folder(folder: Path, skip: Callable[[Path], object]) -> Iterator[Place]:
    tables: list[str] = []
    for entry in open_folder(folder).walk():
        if hidden_part(entry.path) or PurePath(entry.path).name.startswith("."):
            continue
        if entry.path.lower().endswith(_PARQUET):
            tables.append(entry.path)
        elif PurePath(entry.path).suffix.lower() in IMAGE_SUFFIXES or entry.problem in _HIDING:
            yield ImageFile(folder / entry.path, entry.problem)
        else:
            skip(folder / entry.path)
    if tables:
        example = next((path for path in tables if PurePath(path).name.startswith("test")), tables[0])
        raise CelluScanError(
            f"{readable_path(folder)} contains {len(tables)} parquet files, maybe of train and test; give those "
            f"you mean, such as {readable_path(folder / example)}, or the images, such as "
            f"'{readable_path(folder)}/**/*.jpg'"
        )


def _matching(pattern: Path, skip: Callable[[Path], object]) -> Iterator[Place]:
    wanted = IMAGE_SUFFIXES | ({pattern.suffix.lower()} - {""})
    empty = True
    for path in _remote_matches(pattern) if is_remote(pattern) else map(Path, _matches(pattern)):
        matched = set(path.parts) - set(pattern.parts)  # by a wildcard
        if any(is_hidden_folder(part) or is_system_file(part) for part in matched):
            continue
        if path.is_dir():
            for place in _in_folder(path, skip):
                empty = False
                yield place
        elif path.suffix.lower() in wanted:
            empty = False
            yield _place(path)
        else:
            skip(path)
    if empty:
        raise CelluScanError(f"no image matches {readable_path(pattern)!r}; {_EXPECTED}")


def _remote_matches(pattern: Path) -> list[Path]:
    system, place = file_system(pattern)
    return sorted((locate(system.unstrip_protocol(match)) for match in system.glob(place)), key=str)


def _matches(pattern: Path) -> list[str]:
    """Return the paths that match. Names often contain `[2]`, which a pattern takes for a set of characters."""
    parts = pattern.parts
    depth = next(depth for depth in range(len(parts), -1, -1) if depth == 0 or os.path.lexists(Path(*parts[:depth])))
    above, below = [glob.escape(part) for part in parts[:depth]], parts[depth:]
    for rest in (below, [re.sub(r"\[", "[[]", part) for part in below]):
        if paths := sorted(glob.glob(os.path.join(*above, *rest), recursive=True)):
            return paths
    return []


def _is_parquet(path: Path) -> bool:
    suffix = path.suffix.lower()
    if suffix == _PARQUET or suffix in IMAGE_SUFFIXES:
        return suffix == _PARQUET
    try:
        with path.open("rb") as file:
            return file.read(len(_PARQUET_MAGIC)) == _PARQUET_MAGIC
    except OSError:
        return False  # reported when the image is read


def open_table(path: Path) -> ImageTable:
    try:
        with open_parquet(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise CelluScanError(
            f"{readable_path(path)} is not a parquet file, or damaged ({reason}); rewrite it"
        ) from error
    if "image" not in schema.names or not _holds_bytes(schema.field("image").type):
        content = (
            f"a column image of {schema.field('image').type}"
            if "image" in schema.names
            else f"the columns {', '.join(schema.names)}"
        )
        raise CelluScanError(
            f"{readable_path(path)} has {content}; expected a column image with the bytes of image files (binary, or a "
            "struct with bytes, as in datasets on the Hub)"
        )
    return ImageTable(path, rows, tuple(name for name in ("image", "image_id") if name in schema.names))


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _read_file(path: Path) -> Decoded:
    return decode(open_folder(path.parent).read(path.name))


def _read_cell(cell: bytes | dict[str, Any] | None) -> Decoded:
    """Decode one table cell: the bytes of an image file, or a struct with bytes and path."""
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if data is None and path:  # an untrusted path is not opened
        raise BadImage("not_embedded", f"the row has no bytes, only the path {path}")
    return decode(data or b"")


def _refuse(reason: str, detail: str = "") -> NoReturn:
    raise BadImage(reason, detail)


def readable_path(path: Path) -> str:
    """Return the path as text; bytes that are not UTF-8 are written as `\\xNN`."""
    return os.fsencode(str(path)).decode("utf-8", "backslashreplace")


def _real_path(path: Path) -> str:
    return str(path) if is_remote(path) else os.path.realpath(path)
