"""Which row goes into which file: decided before any image is written, so that files can be written in any order.

A plan is a parquet file per shard: the data set's columns but for the image, and where to find the pixels.
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
from .features import SCHEMA, Part

SHARD_ROWS = 2048  # 40 MB at 224 px: held in memory while augmented rows are mixed, and enough files to share out
_LOCATION = pa.schema({"chunk": pa.int32(), "position": pa.int32(), "variants": pa.int32()})
PLAN_SCHEMA = pa.schema([*(field for field in SCHEMA if field.name != "image"), *_LOCATION])


@dataclass(frozen=True)
class Shard:
    """One file to be written: what part it belongs to, its number of all, and how many rows it will have."""

    part: Part
    number: int
    total: int
    rows: int

    @property
    def name(self) -> str:
        """The path of the file from the root of the data set."""
        return f"{self.part.prefix}-{self.number:05d}-of-{self.total:05d}.parquet"

    def plan_path(self, plans: Path) -> Path:
        return plans / self.name.replace(os.sep, "~")


def plan_originals(rows: pa.Table, licenses: dict[str, str], seed: int, plans: Path) -> list[Shard]:
    """Write a plan for every shard of original images."""
    table = _plan_table(rows, licenses)
    shards = []
    for part, chosen in _parts_of(rows):
        order = _seeded(table.filter(chosen), seed)
        shards += _write_plans(part, order, np.ones(order.num_rows, np.int64), plans)
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
        chosen = pc.and_(pc.equal(train["tier"], tier), pa.array(variants > 0))
        parents = _seeded(table.filter(chosen), seed)
        shards += _write_plans(Part("augmented", "train", tier), parents, parents["variants"].to_numpy(), plans)
    return shards


def variants_per_parent(train: pa.Table, target: int, seed: int) -> NDArray[np.int64]:
    """How many augmented rows each train row is the parent of, (N,): as even as can be within its class."""
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


def _seeded(table: pa.Table, seed: int) -> pa.Table:
    """Rows in seeded order: who streams a file from its beginning sees all classes."""
    return table.take(pa.array(seeded_order(table["image_id"].to_pylist(), seed)))


def _write_plans(part: Part, table: pa.Table, weights: NDArray[np.int64], plans: Path) -> list[Shard]:
    """Cut a part into shards of about `SHARD_ROWS` rows, a row of the plan counting as many as its weight."""
    if table.num_rows == 0:
        return []
    shard_of = (np.cumsum(weights) - weights) // SHARD_ROWS
    _, shard_of = np.unique(shard_of, return_inverse=True)  # a heavy row can leave a number out
    total = int(shard_of[-1]) + 1
    shards = []
    for number in range(total):
        chosen = shard_of == number
        shard = Shard(part, number, total, int(weights[chosen].sum()))
        write_table(table.filter(pa.array(chosen)), shard.plan_path(plans))
        shards.append(shard)
    return shards
