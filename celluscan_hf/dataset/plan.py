"""Assign rows to files before any image is written, so that files can be written in any order.

A plan is a parquet file per shard: the columns of the dataset without the image, and the location of the pixels.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .. import taxonomy
from ..curation.scan import write_table
from ..curation.splits import SPLITS, TIERS, seeded_order
from .schema import SCHEMA, Part

SHARD_ROWS = 2048  # 40 MB at 224 px: fits in memory for shuffling, and gives enough files for all processes
_LOCATION = pa.schema({"chunk": pa.int32(), "position": pa.int32(), "variants": pa.int32()})
PLAN_SCHEMA = pa.schema([*(field for field in SCHEMA if field.name != "image"), *_LOCATION])


@dataclass(frozen=True)
class Shard:
    """A file to write: its part, its number among all files of the part, and its number of rows."""

    part: Part
    number: int
    total: int
    rows: int

    @property
    def name(self) -> str:
        """Path of the file from the root of the dataset."""
        return f"{self.part.prefix}-{self.number:05d}-of-{self.total:05d}.parquet"

    def plan_path(self, plans: Path) -> Path:
        return plans / self.name.replace(os.sep, "~")


def plan_originals(rows: pa.Table, licenses: dict[str, str], seed: int, plans: Path) -> list[Shard]:
    """Write a plan for every shard of original images."""
    table = _plan_table(rows, licenses)
    shards = []
    for part, members in _parts_of(rows):
        own = _shuffle(table.filter(members), seed)
        shards += _write_plans(part, own, np.ones(own.num_rows, np.int64), plans)
    return shards


def plan_augmented(rows: pa.Table, licenses: dict[str, str], seed: int, target: int, plans: Path) -> list[Shard]:
    """Write a plan for every shard of augmented images: parents, each with its number of variants."""
    train = rows.filter(pc.equal(rows["split"], SPLITS[0]))
    variants = variants_per_parent(train, target, seed)
    table = _plan_table(train, licenses).set_column(
        PLAN_SCHEMA.get_field_index("variants"), "variants", pa.array(variants, pa.int32())
    )
    shards = []
    for tier in TIERS:
        members = pc.and_(pc.equal(train["tier"], tier), pa.array(variants > 0))
        parents = _shuffle(table.filter(members), seed)
        shards += _write_plans(Part("augmented", "train", tier), parents, parents["variants"].to_numpy(), plans)
    return shards


def variants_per_parent(train: pa.Table, target: int, seed: int) -> NDArray[np.int64]:
    """Return how many augmented rows each train row gets, (N,): as even as possible within its class."""
    variants = np.zeros(train.num_rows, np.int64)
    labels = np.array(train["label"].to_pylist(), object)
    order = seeded_order(train["image_id"].to_pylist(), seed)
    for name in sorted(set(labels)):
        parents = order[labels[order] == name]
        missing = max(0, target - len(parents))
        variants[parents] = missing // len(parents)
        variants[parents[: missing % len(parents)]] += 1
    return variants


def _plan_table(rows: pa.Table, licenses: dict[str, str]) -> pa.Table:
    labels = [taxonomy.LABEL2ID[name] for name in rows["label"].to_pylist()]
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {
        "label": pa.array(labels, pa.int64()),
        "license": pa.array([licenses[name] for name in rows["source"].to_pylist()], pa.string()),
        "phash": pa.array([f"{hashes[0]:016x}" for hashes in rows["phashes"].to_pylist()], pa.string()),
        "parent_id": pa.nulls(rows.num_rows, pa.string()),
        "augmentation": pa.nulls(rows.num_rows, pa.string()),
        "variants": pa.nulls(rows.num_rows, pa.int32()),
    }
    return pa.table({name: columns[name] for name in PLAN_SCHEMA.names}, schema=PLAN_SCHEMA)


def _parts_of(rows: pa.Table) -> Iterator[tuple[Part, pa.Array]]:
    for split in SPLITS:
        for tier in TIERS if split == SPLITS[0] else ("",):
            yield (
                Part("originals", split, tier),
                pc.and_(pc.equal(rows["split"], split), pc.equal(rows["tier"], tier)),
            )


def _shuffle(table: pa.Table, seed: int) -> pa.Table:
    """Shuffle rows by seed, so that streaming a file from its beginning gives all classes."""
    return table.take(pa.array(seeded_order(table["image_id"].to_pylist(), seed)))


def _write_plans(part: Part, table: pa.Table, weights: NDArray[np.int64], plans: Path) -> list[Shard]:
    """Cut a part into shards of about `SHARD_ROWS` rows, a row of the plan counting as many as its weight."""
    if table.num_rows == 0:
        return []
    shard_of = (np.cumsum(weights) - weights) // SHARD_ROWS
    _, shard_of = np.unique(shard_of, return_inverse=True)  # a row with a large weight can skip a number
    total = int(shard_of[-1]) + 1
    shards = []
    for number in range(total):
        members = shard_of == number
        shard = Shard(part, number, total, int(weights[members].sum()))
        write_table(table.filter(pa.array(members)), shard.plan_path(plans))
        shards.append(shard)
    return shards
