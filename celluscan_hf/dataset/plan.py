"""Assign rows to files before any image is written, so that files can be written in any order.

A plan is a parquet file per shard: the columns of the dataset without the image, and the location of the pixels.
"""

import os
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..curation import facts
from ..curation.curate import label_ids
from ..curation.facts import Facts, Integers
from ..curation.scan import write_table
from ..curation.splits import SPLITS, seeded_order
from .schema import AUGMENTED_TRAIN, HELD_OUT, ORIGINAL_TRAIN, SCHEMA, Part

SHARD_ROWS = 2048  # 40 MB at 224 px: fits in memory for shuffling, and gives enough files for all processes
_LOCATION = pa.schema({"chunk": pa.int32(), "position": pa.int32(), "variants": pa.int32()})
PLAN_SCHEMA = pa.schema([*(field for field in SCHEMA if field.name != "image"), *_LOCATION])
_PLANNED = [
    "image_id", "source", "source_label", "label", "group_id", "acquisition", "sha256", "phash", "width", "height",
    "chunk", "position",
]  # fmt: skip


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


def plan_originals(rows: Facts, licenses: dict[str, str], seed: int, plans: Path) -> list[Shard]:
    """Write a plan for every shard of original images."""
    shards = []
    for part in (*ORIGINAL_TRAIN, *HELD_OUT):
        members = facts.equal_to(rows["split"], part.split) & facts.equal_to(rows["tier"], part.tier)
        own = _shuffle(rows, np.flatnonzero(members), seed)
        shards += _write_plans(part, rows, own, None, licenses, plans)
    return shards


def plan_augmented(rows: Facts, licenses: dict[str, str], seed: int, target: int, plans: Path) -> list[Shard]:
    """Write a plan for every shard of augmented images: parents, each with its number of variants."""
    train = np.flatnonzero(facts.equal_to(rows["split"], SPLITS[0]))
    variants = np.zeros(rows.num_rows, np.int64)
    train_rows = {"image_id": facts.picked(rows["image_id"], train), "label": rows["label"].take(train)}
    variants[train] = variants_per_parent(pa.table(train_rows), target, seed)
    shards = []
    for part in AUGMENTED_TRAIN:
        parents = _shuffle(rows, np.flatnonzero(facts.equal_to(rows["tier"], part.tier) & (variants > 0)), seed)
        shards += _write_plans(part, rows, parents, variants[parents], licenses, plans)
    return shards


def variants_per_parent(train: pa.Table, target: int, seed: int) -> Integers:
    """Return how many augmented rows each train row gets, (N,): as even as possible within its class."""
    variants = np.zeros(train.num_rows, np.int64)
    labels = facts.codes(facts.encode(train["label"]))
    order = seeded_order(train["image_id"], seed)
    for label in np.unique(labels):
        parents = order[labels[order] == label]
        missing = max(0, target - len(parents))
        variants[parents] = missing // len(parents)
        variants[parents[: missing % len(parents)]] += 1
    return variants


def _shuffle(rows: Facts, positions: Integers, seed: int) -> Integers:
    """Shuffle positions of rows by seed, so that streaming a file from its beginning gives all classes."""
    return positions[seeded_order(facts.picked(rows["image_id"], positions), seed)]


def _write_plans(
    part: Part, rows: Facts, positions: Integers, variants: Integers | None, licenses: dict[str, str], plans: Path
) -> list[Shard]:
    """Cut a part into shards of about `SHARD_ROWS` rows, a row of the plan counting as many as its variants."""
    weights = np.ones(len(positions), np.int64) if variants is None else variants
    shard_of = (np.cumsum(weights) - weights) // SHARD_ROWS
    starts = np.unique(shard_of, return_index=True)[1]  # a row with a large weight can skip a number
    planned = rows.select(_PLANNED)
    shards = []
    for number, (start, end) in enumerate(pairwise([*starts.tolist(), len(positions)])):
        shard = Shard(part, number, len(starts), int(weights[start:end].sum()))
        plan = _plan_table(planned.take(pa.array(positions[start:end])), licenses)
        if variants is not None:
            place = PLAN_SCHEMA.get_field_index("variants")
            plan = plan.set_column(place, "variants", pa.array(variants[start:end], pa.int32()))
        write_table(plan, shard.plan_path(plans))
        shards.append(shard)
    return shards


def _plan_table(rows: pa.Table, licenses: dict[str, str]) -> pa.Table:
    count = rows.num_rows
    columns = {name: facts.decode(rows[name]) for name in rows.column_names}
    columns |= {
        "label": pa.array(label_ids(rows)),
        "license": pa.array([licenses[name] for name in rows["source"].to_pylist()], pa.string()),
        "phash": pa.array([f"{upright:016x}" for upright in rows["phash"].to_pylist()], pa.string()),
        **{name: pa.nulls(count, PLAN_SCHEMA.field(name).type) for name in ("parent_id", "augmentation", "variants")},
    }
    return pa.table({name: columns[name] for name in PLAN_SCHEMA.names}, schema=PLAN_SCHEMA)
