"""What every built folder promises, checked on the folder as it was read back.

Each check returns what breaks it, in words; none is told how the build came to its rows.
"""

import csv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..curation.duplicates import MIN_CORRELATION, near_duplicates
from ..taxonomy import NAMES
from .inspection import FileReport, stored_content

# a pair this far above the threshold was above it before its images were stored as JPEG too
_CLEARLY = 0.02
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Row:
    """What the checks need to know of one row."""

    image_id: str
    label: int
    kind: str
    split: str
    tier: str
    group_id: str
    sha256: str
    phash: int
    pixels: bytes
    parent_id: str | None
    path: Path
    position: int


def rows_of(reports: Iterable[FileReport]) -> Iterator[Row]:
    """The rows of all files that were read back."""
    columns = ("image_id", "label", "group_id", "sha256", "phash", "pixels", "parent_id", "position")
    for report in reports:
        for row in report.rows.select(columns).to_pylist():
            row["phash"] = int(row["phash"], 16)
            yield Row(
                **row, kind=report.part.kind, split=report.part.split, tier=report.part.tier, path=report.path
            )  # fmt: skip


def check(folder: Path, reports: Sequence[FileReport], seen: int, target_per_class: int) -> dict[str, list[str]]:
    """All invariants by name, each with what breaks it (at best nothing).

    `folder` holds `curation/dropped.csv`; `seen` is the number of files and boxes the sources held.
    """
    rows = list(rows_of(reports))
    originals = [row for row in rows if row.kind == "originals"]
    return {
        "files seen = rows + dropped": _nothing_lost(folder, len(originals), seen),
        "image_id is unique": _repeated(row.image_id for row in rows),
        "no group crosses a split or tier": _crossing(rows, lambda row: row.group_id, by_tier=True),
        "no exact duplicate crosses a split": _crossing(originals, lambda row: row.sha256)
        + _crossing(originals, lambda row: row.pixels),
        "no near duplicate crosses a split": _near_duplicates(originals),
        "validation and test hold originals only": _augmented_outside_train(rows),
        "a parent is a train original of the same class, tier and group": _stray_children(rows),
        "train classes reach the target": _short_classes(rows, target_per_class),
        "no augmented image equals its parent or a sibling": _repeated_variants(rows),
    }


def _nothing_lost(folder: Path, originals: int, seen: int) -> list[str]:
    with open(folder / "curation" / "dropped.csv", encoding="utf-8", newline="") as file:
        dropped = sum(1 for _ in csv.DictReader(file))
    return [] if seen == originals + dropped else [f"{seen} seen, {originals} rows, {dropped} dropped"]


def _repeated(values: Iterable[str]) -> list[str]:
    return [f"{value} stands {count} times" for value, count in Counter(values).items() if count > 1]


def _crossing(rows: Iterable[Row], key: Any, by_tier: bool = False) -> list[str]:
    places: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        places[key(row)].add(f"{row.split} {row.tier}".rstrip() if by_tier else row.split)
    return [f"{value!r} is in {', '.join(sorted(where))}" for value, where in places.items() if len(where) > 1]


def _near_duplicates(originals: list[Row]) -> list[str]:
    hashes = np.array([row.phash for row in originals], np.uint64)
    pairs = near_duplicates(hashes, lambda row: stored_content(originals[row].path, originals[row].position))
    return [
        f"{originals[pair.first].image_id} and {originals[pair.second].image_id} correlate by {pair.correlation}"
        for pair in pairs
        if pair.correlation >= MIN_CORRELATION + _CLEARLY
        and originals[pair.first].split != originals[pair.second].split
    ]


def _augmented_outside_train(rows: Iterable[Row]) -> list[str]:
    return [
        f"{row.image_id} in {row.split}"
        for row in rows
        if (row.kind == "augmented" and row.split != "train") or ((row.kind == "originals") != (row.parent_id is None))
    ]


def _stray_children(rows: Sequence[Row]) -> list[str]:
    originals = {row.image_id: row for row in rows if row.kind == "originals"}
    return [f"{row.image_id} of {row.parent_id}" for row in rows if row.parent_id and _stray(row, originals)]


def _stray(row: Row, originals: dict[str, Row]) -> bool:
    parent = originals.get(row.parent_id or "")
    if parent is None:
        return True
    return (parent.split, parent.tier, parent.label, parent.group_id) != (row.split, row.tier, row.label, row.group_id)


def _short_classes(rows: Iterable[Row], target: int) -> list[str]:
    train = Counter(row.label for row in rows if row.split == "train")
    return [f"{NAMES[label]} has {count} of {target} rows" for label, count in sorted(train.items()) if count < target]


def _repeated_variants(rows: Iterable[Row]) -> list[str]:
    families: dict[tuple[str, bytes], list[str]] = defaultdict(list)
    for row in rows:
        families[row.parent_id or row.image_id, row.pixels].append(row.image_id)
    return [f"equal: {', '.join(ids[:_SHOWN])}" for ids in families.values() if len(ids) > 1]
