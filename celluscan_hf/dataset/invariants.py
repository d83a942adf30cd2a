"""Check a built folder, as it was read back: no leak between splits, nothing lost, balanced and distinct train rows.

Each check lists its violations in words, and uses nothing but the folder itself.
"""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..curation.duplicates import NearPair, min_correlation, near_duplicates
from ..curation.hash_masks import MAX_DISTANCE
from ..curation.orientation import UPRIGHT
from ..taxonomy import NAMES
from .inspection import FileReport, stored_content

# a pair this far above the threshold was also above it before JPEG compression
_CORRELATION_MARGIN = 0.02
_JPEG_BITS = 4  # JPEG compression can change this many bits of the hash of a turned image
_COLUMNS = ("image_id", "label", "group_id", "sha256", "phash", "pixels", "parent_id", "position")


def check(
    folder: Path,
    reports: Sequence[FileReport],
    seen: int,
    target_per_class: int,
    progress: Callable[[int], object] = lambda done: None,
) -> dict[str, list[str]]:
    """Run all checks; return the violations of each by its name.

    `folder` contains `curation/dropped.csv`; `seen` is the number of files and boxes in the sources. `progress` is
    called with the number of originals compared since its last call.
    """
    rows = pa.concat_tables(_rows(number, report) for number, report in enumerate(reports))
    originals = rows.filter(pc.equal(rows["kind"], "originals"))
    return {
        "files seen = rows + dropped": _lost_rows(folder, originals.num_rows, seen),
        "image_id is unique": _repeated(rows, ["image_id"]),
        "no group crosses a split or tier": _crossing(rows, "group_id", "part"),
        "no exact duplicate crosses a split": [
            *_crossing(originals, "sha256", "split"),
            *_crossing(originals, "pixels", "split"),
        ],
        "no near duplicate crosses a split": _near_duplicates(originals, reports, progress),
        "validation and test hold originals only": _augmented_outside_train(rows),
        "a parent is a train original of the same class, tier and group": _stray_children(rows, originals),
        "train classes reach the target": _short_classes(rows, target_per_class),
        "no augmented image equals its parent or a sibling": _repeated_variants(rows),
    }


def _rows(number: int, report: FileReport) -> pa.Table:
    """Select the columns that the checks need from one file; `file` is its number, `part` its split and tier."""
    part = report.part
    table = report.rows.select(_COLUMNS)
    constants = {
        "file": pa.scalar(number, pa.int32()),
        "kind": pa.scalar(part.kind),
        "split": pa.scalar(part.split),
        "part": pa.scalar(f"{part.split} {part.tier}".rstrip()),
    }
    for name, value in constants.items():
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def _lost_rows(folder: Path, originals: int, seen: int) -> list[str]:
    with open(folder / "curation" / "dropped.csv", encoding="utf-8", newline="") as file:
        dropped = sum(1 for _ in csv.DictReader(file))
    return [] if seen == originals + dropped else [f"{seen} seen, {originals} rows, {dropped} dropped"]


def _repeated(rows: pa.Table, keys: list[str]) -> list[str]:
    counts = rows.group_by(keys).aggregate([("image_id", "count"), ("image_id", "min")])
    repeated = counts.filter(pc.greater(counts["image_id_count"], 1))
    return [f"{row['image_id_min']} occurs {row['image_id_count']} times" for row in repeated.to_pylist()]


def _crossing(rows: pa.Table, key: str, place: str) -> list[str]:
    places = rows.group_by(key).aggregate([(place, "count_distinct"), (place, "distinct")])
    crossing = places.filter(pc.greater(places[f"{place}_count_distinct"], 1))
    return [f"{row[key]!r} is in {', '.join(sorted(row[f'{place}_distinct']))}" for row in crossing.to_pylist()]


def _near_duplicates(
    originals: pa.Table, reports: Sequence[FileReport], progress: Callable[[int], object]
) -> list[str]:
    hashes = np.concatenate([report.hashes for report in reports])
    hashes[:, 0] = [int(text.as_py(), 16) for text in originals["phash"]]  # from before JPEG compression

    def record(row: int) -> dict[str, Any]:
        values: dict[str, Any] = originals.slice(row, 1).to_pylist()[0]
        return values

    def image(row: int) -> Image.Image:
        values = record(row)
        return stored_content(reports[values["file"]].path, values["position"])

    pairs = (pair for pair in near_duplicates(hashes, image, progress) if _certain(pair))
    records = ((record(pair.first), record(pair.second), pair.correlation) for pair in pairs)
    return [
        f"{first['image_id']} and {second['image_id']} correlate by {correlation}"
        for first, second, correlation in records
        if first["split"] != second["split"]
    ]


def _certain(pair: NearPair) -> bool:
    near = pair.orientation is UPRIGHT or pair.distance <= MAX_DISTANCE - _JPEG_BITS
    return near and pair.correlation >= min_correlation(pair.orientation) + _CORRELATION_MARGIN


def _augmented_outside_train(rows: pa.Table) -> list[str]:
    augmented = pc.or_(pc.equal(rows["kind"], "augmented"), pc.is_valid(rows["parent_id"]))
    wrong = rows.filter(pc.and_(augmented, pc.not_equal(rows["split"], "train")))
    return [f"{row['image_id']} in {row['split']}" for row in wrong.to_pylist()]


def _stray_children(rows: pa.Table, originals: pa.Table) -> list[str]:
    children = rows.filter(pc.equal(rows["kind"], "augmented"))
    parents = originals.take(pc.index_in(children["parent_id"], originals["image_id"]))
    same = pa.chunked_array([pa.repeat(True, children.num_rows)])
    for name in ("part", "label", "group_id"):
        same = pc.and_(same, pc.fill_null(pc.equal(children[name], parents[name]), False))
    return [f"{row['image_id']} of {row['parent_id']}" for row in children.filter(pc.invert(same)).to_pylist()]


def _short_classes(rows: pa.Table, target: int) -> list[str]:
    train = rows.filter(pc.equal(rows["split"], "train"))
    counts = {entry["values"]: entry["counts"] for entry in train["label"].value_counts().to_pylist()}
    return [
        f"{NAMES[label]} has {counts[label]} of {target} rows" for label in sorted(counts) if counts[label] < target
    ]


def _repeated_variants(rows: pa.Table) -> list[str]:
    families = rows.append_column("family", pc.coalesce(rows["parent_id"], rows["image_id"]))
    return _repeated(families, ["family", "pixels"])
