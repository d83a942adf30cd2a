"""The plan of a prediction of many images: which of them each shard covers, in a file and never as a whole in memory.

The plan is an Arrow file with a record batch per shard (https://arrow.apache.org/docs/format/Columnar.html), so that
the images of one shard are read alone. A row is a file, or row groups of a parquet file, which are not divided.
"""

import hashlib
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..atomic_io import atomic_write
from ..dataset.inspection import parquet_files
from ..dataset.workspace import STATISTICS
from ..remote import is_address, locate
from ..sources.entries import file_stamp
from ..sources.hf_tables import open_parquet
from .inputs import ImageFile, ImageTable, Place, file_keys, find_places, no_images, open_table

SCHEMA = pa.schema(
    {
        "path": pa.binary(),  # names of files need not be text
        "problem": pa.string(),
        "first_group": pa.int32(),  # of a parquet file, else null
        "end_group": pa.int32(),
        "images": pa.int64(),
    }
)
PLAN = "plan.arrow"  # name of the file
_CACHE_KIB = 128 * 1024  # of the database of files seen, which is on disk


@dataclass(frozen=True)
class Plan:
    """A plan in a file: numbers of images and shards; `digest` is equal for equal, unchanged inputs.

    `skipped` and `repeated` as in `predict.Summary`.
    """

    path: Path
    images: int
    shards: int
    digest: str
    skipped: Counter[str]
    repeated: int

    def images_of(self, shard: int) -> int:
        """Return the number of images of a shard."""
        return sum(place.rows for place in read_places(self.path, shard))


def read_places(plan: Path, shard: int) -> list[Place]:
    """Read the files and parts of tables that a shard of a plan covers."""
    with pa.memory_map(os.fspath(plan)) as file:
        rows = pa.ipc.open_file(file).get_batch(shard).to_pylist()
    return [_place(**row) for row in rows]


def _place(path: bytes, problem: str, first_group: int | None, end_group: int | None, images: int) -> Place:
    file = locate(os.fsdecode(path))
    if first_group is None or end_group is None:
        return ImageFile(file, problem)
    return ImageTable(file, images, open_table(file).columns, (first_group, end_group))


def write_plan(path: Path, named: Sequence[str | Path], lists: Sequence[str], shard_size: int) -> Plan:
    """Divide the images that `named` and `lists` stand for into shards of about `shard_size`, and write the plan.

    Of a built dataset (its folder) the originals are taken. Each file is taken once, whatever the number of its names.

    Raises:
        CelluScanError: An input does not exist or stands for no image; see `inputs.find_images`.
    """
    skipped: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    digest = hashlib.sha256(str(shard_size).encode())
    places = find_places(_with_datasets(named), lambda file: skipped.update([file.suffix.lower()]), lists)
    with atomic_write(path) as partial, pa.OSFile(os.fspath(partial), "wb") as sink:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, SCHEMA, options=options) as writer:
            for rows in _shards(_once(places, counts), shard_size):
                for row, stamp in rows:
                    digest.update(repr((row, stamp)).encode())
                batch = pa.RecordBatch.from_pylist([row for row, _ in rows], SCHEMA)
                writer.write_batch(batch)
                counts.update(images=sum(row["images"] for row, _ in rows), shards=1)
        if not counts["images"]:
            raise no_images()
    return Plan(path, counts["images"], counts["shards"], digest.hexdigest(), skipped, counts["repeated"])


def _with_datasets(named: Iterable[str | Path]) -> Iterator[str | Path]:
    for name in named:
        if name and not is_address(str(name)) and (Path(name) / STATISTICS).is_file():
            yield from (file for file in parquet_files(Path(name)) if file.parent.name == "originals")
        else:
            yield name


def _once(places: Iterable[Place], counts: Counter[str]) -> Iterator[Place]:
    """Leave out files that were named before; they are remembered on disk."""
    with closing(sqlite3.connect("")) as seen:  # a temporary database
        for setting in (f"cache_size=-{_CACHE_KIB}", "journal_mode=OFF"):
            seen.execute(f"PRAGMA {setting}")
        seen.execute("CREATE TABLE seen (file BLOB PRIMARY KEY) WITHOUT ROWID")
        key_of = file_keys()
        for place in places:
            key = hashlib.blake2b(os.fsencode("/".join(key_of(place.path))), digest_size=16).digest()
            if seen.execute("INSERT OR IGNORE INTO seen VALUES (?)", (key,)).rowcount:
                yield place
            else:
                counts["repeated"] += 1


def _shards(places: Iterable[Place], size: int) -> Iterator[list[tuple[dict[str, Any], tuple[int, int]]]]:
    """Yield the rows of each shard, with the size and modification time of their files."""
    rows: list[tuple[dict[str, Any], tuple[int, int]]] = []
    images = 0
    for place in places:
        stamp = _stamp(place.path)
        for row in _rows(place, size):
            rows.append((row, stamp))
            images += row["images"]
            if images >= size:
                yield rows
                rows, images = [], 0
    if rows:
        yield rows


def _rows(place: Place, size: int) -> Iterator[dict[str, Any]]:
    path = os.fsencode(str(place.path))
    if isinstance(place, ImageFile):
        yield {"path": path, "problem": place.problem, "first_group": None, "end_group": None, "images": 1}
        return
    with open_parquet(place.path) as file:
        lengths = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    first = images = 0
    for group, length in enumerate(lengths, start=1):
        images += length
        if images >= size or (group == len(lengths) and images):
            yield {"path": path, "problem": "", "first_group": first, "end_group": group, "images": images}
            first, images = group, 0


def _stamp(path: Path) -> tuple[int, int]:
    try:
        return file_stamp(path.stat())
    except OSError:
        return 0, 0
