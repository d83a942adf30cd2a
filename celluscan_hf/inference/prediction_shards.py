"""Read the files of a prediction back: each image of the plan must have one row. Needs no model and no torch."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..sources.hf_tables import open_parquet
from .inputs import ImageFile, Place, readable_path
from .prediction_plan import PLAN, read_places


def part_path(folder: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return folder / f"part-{shard:05d}.parquet"


@dataclass(frozen=True)
class ShardReport:
    """What a written shard holds; `problem` says how it differs from the plan, if so."""

    shard: int
    rows: int
    errors: Counter[str]
    first_error: str
    problem: str


@dataclass(frozen=True)
class Check:
    """A task: compare the file of a shard with the plan."""

    folder: Path
    shard: int


def check_shard(check: Check) -> ShardReport:
    """Read a shard back, and compare the number and names of its rows with the images that it covers."""
    path = part_path(check.folder, check.shard)
    try:
        table = pq.read_table(path, columns=["image", "error"])
    except (pa.ArrowException, OSError) as error:
        return ShardReport(check.shard, 0, Counter(), "", f"{path} is damaged ({str(error).splitlines()[0]})")
    names = table["image"].to_pylist()
    expected = list(chain.from_iterable(map(_possible_names, read_places(check.folder / PLAN, check.shard))))
    problem = ""
    if len(names) != len(expected):
        problem = f"{path} has {len(names)} rows for {len(expected)} images"
    else:
        pairs = enumerate(zip(names, expected, strict=True))
        wrong = next((row for row, (name, known) in pairs if known is not None and name not in known), None)
        if wrong is not None:
            problem = f"{path}, row {wrong} is of {names[wrong]}, expected {' or '.join(sorted(expected[wrong] or ()))}"
    failed = [(name, error) for name, error in zip(names, table["error"].to_pylist(), strict=True) if error]
    reasons = Counter(error.partition(" (")[0] for _, error in failed)
    first = f"{failed[0][0]}: {failed[0][1]}" if failed else ""
    return ShardReport(check.shard, len(names), reasons, first, problem)


def _possible_names(place: Place) -> Iterator[set[str] | None]:
    """Yield the names that each image of a place may have in a row: of a table's `image_id` and its row; None for any.

    A damaged part of a table may give its images either name.
    """
    if isinstance(place, ImageFile):
        yield {readable_path(place.path)}
        return
    with open_parquet(place.path) as file:
        for group, row, end in place.row_groups(file):
            try:
                ids = _ids(file, group, end - row) if "image_id" in place.columns else [None] * (end - row)
            except (pa.ArrowException, OSError):
                yield from [None] * (end - row)
                continue
            for number, name in enumerate(ids, start=row):
                yield {f"{readable_path(place.path)}#{number}", *([] if name is None else [str(name)])}


def _ids(file: pq.ParquetFile, group: int, rows: int) -> list[Any]:
    ids: list[Any] = file.read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
    if len(ids) != rows:
        raise OSError("a row group is cut short")
    return ids
