"""Data sets made of the rows of a built one, dealt out in another way: what the experiments of this room train on.

They have the files of a built data set, so that training and evaluation read them as any other. They are not for
publishing: a split may be one that a build would refuse.
"""

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from .. import taxonomy
from ..curation.splits import SPLITS, TIERS, Groups, Integers, assign_groups, seeded_order
from ..dataset.augment import one_thread, variants
from ..dataset.features import SCHEMA, Part
from ..dataset.plan import SHARD_ROWS, variants_per_parent
from ..dataset.reading import CellDataset, open_dataset
from ..dataset.shards import ROW_GROUP, write_groups
from ..dataset.workers import Workers, progress
from ..errors import CelluScanError

CONFIG = "originals"  # the config that holds all rows of such a data set
_PARENTS = 32  # of one task of augmentation
_WHOLE, _PARTIAL = "derived.json", "derived.partial"  # a file in it: what it holds; that it is not whole yet


def originals(data: CellDataset, *splits: str) -> pa.Table:
    """The original rows of some splits, columns as `dataset.features.SCHEMA`, images encoded."""
    files = [file for split in splits for file in data.files(CONFIG, split)]
    return pa.concat_tables([pq.read_table(file, schema=SCHEMA) for file in files])


def derive(
    folder: Path, base: CellDataset, said: dict[str, Any], seed: int, make: Callable[[], Mapping[str, pa.Table]]
) -> CellDataset:
    """The data set of the rows that `make` gives for each split, in seeded order, with the statistics of `base`.

    `said` tells it from others of the same base: where the folder holds what it says, nothing is made again.

    Raises:
        CelluScanError: The folder holds something else.
    """
    content, done, partial = said | {"seed": seed, "base": base.fingerprint}, folder / _WHOLE, folder / _PARTIAL
    if done.is_file():
        found = json.loads(done.read_text("utf-8"))
        if found != content:
            raise CelluScanError(
                f"{folder} was made with other settings, {found} where {content} are asked for; choose another --output"
            )
        return open_dataset(folder)
    if folder.exists() and any(folder.iterdir()) and not partial.is_file():
        raise CelluScanError(f"{folder} holds something that no audit has written; choose another --output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    partial.touch()
    for split, rows in make().items():
        part = Part("originals", split, TIERS[-1] if split == SPLITS[0] else "")
        ordered = rows.take(pa.array(seeded_order(rows["image_id"].to_pylist(), seed)))
        total = -(-ordered.num_rows // SHARD_ROWS)
        for number in range(total):
            path = folder / f"{part.prefix}-{number:05d}-of-{total:05d}.parquet"
            write_groups(_groups(ordered.slice(number * SHARD_ROWS, SHARD_ROWS)), path)
    (folder / "curation").mkdir()
    shutil.copy(base.folder / "curation" / "statistics.json", folder / "curation")
    shutil.copy(base.folder / "curation" / "sources.json", folder / "curation")
    done.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    partial.unlink()
    return open_dataset(folder)


def _groups(rows: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, ROW_GROUP):
        yield rows.slice(start, ROW_GROUP)


def relabelled(rows: pa.Table, labels: Sequence[int]) -> pa.Table:
    """The same rows with other class numbers."""
    place = rows.schema.get_field_index("label")
    field = rows.schema.field(place)
    return rows.set_column(place, field, pa.array(labels, field.type))


def dealt(rows: pa.Table, shares: Sequence[float], seed: int) -> Integers:
    """The part (number in `shares`) of each row, (N,): whole groups, the parts alike in classes and sources."""
    names, members = np.unique(np.array(rows["group_id"].to_pylist(), object), return_inverse=True)
    labels = rows["label"].to_numpy()
    strata = np.unique(
        [f"{a}|{b}" for a, b in zip(labels, rows["source"].to_pylist(), strict=True)], return_inverse=True
    )[1]
    return assign_groups(Groups(names.tolist(), members, labels, strata), shares, seed)[members]


@dataclass(frozen=True)
class _Parents:
    rows: list[dict[str, Any]]
    seed: int


def balanced(rows: pa.Table, target: int, seed: int, workers: Workers) -> pa.Table:
    """Rows with augmented ones added, until every class that has any has `target`, as the build balances train."""
    named = pa.table(
        {"label": [taxonomy.NAMES[label] for label in rows["label"].to_pylist()], "image_id": rows["image_id"]}
    )
    counts = variants_per_parent(named, target, seed)
    tasks = (_Parents(_with_counts(rows, counts, chosen), seed) for chosen in _chunks(np.flatnonzero(counts).tolist()))
    with progress("augmenting", int(counts.sum()), "image") as advance:
        made = []
        for table in workers.run(_augment, tasks):
            made.append(table)
            advance(table.num_rows)
    return pa.concat_tables([rows, *made])


def _chunks(positions: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(positions), _PARENTS):
        yield positions[start : start + _PARENTS]


def _with_counts(rows: pa.Table, counts: Any, chosen: Sequence[int]) -> list[dict[str, Any]]:
    found = rows.take(pa.array(chosen)).to_pylist()
    return [row | {"variants": int(counts[position])} for row, position in zip(found, chosen, strict=True)]


def _augment(task: _Parents) -> pa.Table:
    with one_thread():
        made = [row for parent in task.rows for row in variants(parent, decoded(parent), task.seed)]
    return pa.table({name: [row[name] for row in made] for name in SCHEMA.names}, schema=SCHEMA)


def decoded(row: dict[str, Any]) -> Image.Image:
    """The stored square of a row, RGB."""
    with Image.open(io.BytesIO(row["image"]["bytes"]), formats=("JPEG",)) as image:
        return image.convert("RGB")
