"""Derived datasets: rows of a built one in other splits, for the experiments of this package.

They have the files of a built dataset, so that training and evaluation read them as any other. They are not for
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
from ..dataset.plan import SHARD_ROWS, variants_per_parent
from ..dataset.reading import CellDataset, open_dataset
from ..dataset.schema import SCHEMA, Part
from ..dataset.shards import ROW_GROUP, write_groups
from ..errors import CelluScanError
from ..workers import Workers, progress

CONFIG = "originals"  # the config that holds all rows of a derived dataset
_PARENTS = 32  # parents in one augmentation task
_RECORD, _PARTIAL = "derived.json", "derived.partial"  # its settings, written last; marks an unfinished one


def originals(data: CellDataset, *splits: str) -> pa.Table:
    """Read the original rows of some splits, columns of `dataset.schema.SCHEMA`, images encoded."""
    files = [file for split in splits for file in data.files(CONFIG, split)]
    return pa.concat_tables([pq.read_table(file, schema=SCHEMA) for file in files])


def derive(
    folder: Path, base: CellDataset, settings: dict[str, Any], seed: int, make: Callable[[], Mapping[str, pa.Table]]
) -> CellDataset:
    """Write a dataset of the rows that `make` returns for each split, in seeded order, with the statistics of `base`.

    If the folder already holds a dataset of the same `settings`, seed and base, it is reused.

    Raises:
        CelluScanError: The folder holds something else.
    """
    content, record, partial = settings | {"seed": seed, "base": base.fingerprint}, folder / _RECORD, folder / _PARTIAL
    if record.is_file():
        recorded = json.loads(record.read_text("utf-8"))
        if recorded != content:
            raise CelluScanError(
                f"{folder} was made with other settings: expected {content}, got {recorded}; choose another --output"
            )
        return open_dataset(folder)
    if folder.exists() and any(folder.iterdir()) and not partial.is_file():
        raise CelluScanError(f"{folder} holds files that are not from an audit; choose another --output")
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
    record.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    partial.unlink()
    return open_dataset(folder)


def _groups(rows: pa.Table) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, ROW_GROUP):
        yield rows.slice(start, ROW_GROUP)


def relabelled(rows: pa.Table, labels: Sequence[int]) -> pa.Table:
    """Replace the class numbers of rows."""
    place = rows.schema.get_field_index("label")
    field = rows.schema.field(place)
    return rows.set_column(place, field, pa.array(labels, field.type))


def split_groups(rows: pa.Table, shares: Sequence[float], seed: int) -> Integers:
    """Assign each row a part (its number in `shares`), (N,): by whole groups, stratified by class and source."""
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
    """Add augmented rows until every class with rows has `target` of them, as the build balances train."""
    named = pa.table(
        {"label": [taxonomy.NAMES[label] for label in rows["label"].to_pylist()], "image_id": rows["image_id"]}
    )
    counts = variants_per_parent(named, target, seed)
    tasks = (_Parents(_with_counts(rows, counts, chosen), seed) for chosen in _chunks(np.flatnonzero(counts).tolist()))
    with progress("augmenting", int(counts.sum()), "image") as advance:
        augmented = []
        for table in workers.run(_augment, tasks):
            augmented.append(table)
            advance(table.num_rows)
    return pa.concat_tables([rows, *augmented])


def _chunks(positions: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(positions), _PARENTS):
        yield positions[start : start + _PARENTS]


def _with_counts(rows: pa.Table, counts: Any, chosen: Sequence[int]) -> list[dict[str, Any]]:
    parents = rows.take(pa.array(chosen)).to_pylist()
    return [row | {"variants": int(counts[position])} for row, position in zip(parents, chosen, strict=True)]


def _augment(task: _Parents) -> pa.Table:
    with one_thread():
        rows = [row for parent in task.rows for row in variants(parent, decoded(parent), task.seed)]
    return pa.table({name: [row[name] for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def decoded(row: dict[str, Any]) -> Image.Image:
    """Decode the stored square image of a row, RGB."""
    with Image.open(io.BytesIO(row["image"]["bytes"]), formats=("JPEG",)) as image:
        return image.convert("RGB")
