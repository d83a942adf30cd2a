"""Check a built folder, as it was read back: no leak between splits, nothing lost, balanced and distinct train rows.

Each check lists its violations in words, and uses nothing but the folder itself. Rows stay on disk: what may repeat is
compared by a 64-bit hash of each value, and only rows whose hash repeats where it must not are then compared in full.
"""

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from PIL import Image

from ..curation import facts
from ..curation.duplicates import NearPair, min_correlation, near_duplicates
from ..curation.facts import Integers
from ..curation.hash_masks import MAX_DISTANCE
from ..curation.hash_search import Hashes, Runner
from ..curation.orientation import UPRIGHT
from ..taxonomy import NAMES
from .inspection import FileReport, stored_content

# a pair this far above the threshold was also above it before JPEG compression
_CORRELATION_MARGIN = 0.02
_JPEG_BITS = 4  # JPEG compression can change this many bits of the hash of a turned image
_COLUMNS = ("image_id", "label", "group_id", "sha256", "pixels", "parent_id")


def check(
    folder: Path,
    reports: Sequence[FileReport],
    seen: int,
    target_per_class: int,
    progress: Callable[[int], object] = lambda done: None,
    run: Runner = map,
    search: Path | None = None,
) -> dict[str, list[str]]:
    """Run all checks; return the violations of each by its name.

    `run` runs the tasks of the duplicate search, which share the folder `search`, as in `near_duplicates`.

    `folder` contains `curation/dropped.csv`; `seen` is the number of files and boxes in the sources. `progress` is
    called with the number of originals compared since its last call.
    """
    originals = [report for report in reports if report.part.kind == "originals"]
    augmented = [report for report in reports if report.part.kind != "originals"]
    return {
        "files seen = rows + dropped": _lost_rows(folder, sum(report.count for report in originals), seen),
        "image_id is unique": _repeated(_sharing(reports, "image_id"), ["image_id"]),
        "no group crosses a split or tier": _crossing(reports, "group_id", "part"),
        "no exact duplicate crosses a split": [
            *_crossing(originals, "sha256", "split"),
            *_crossing(originals, "pixels", "split"),
        ],
        "no near duplicate crosses a split": _near_duplicates(originals, progress, run, search),
        "validation and test hold originals only": _augmented_outside_train(reports),
        "a parent is a train original of the same class, tier and group": _stray_children(augmented, originals),
        "train classes reach the target": _short_classes(reports, target_per_class),
        "no augmented image equals its parent or a sibling": _repeated_variants(reports),
    }


def _rows(report: FileReport) -> pa.Table:
    """Select the columns that the checks need from one file; `part` is its split and tier."""
    table = report.rows.select(_COLUMNS)
    for name, value in (("split", report.part.split), ("part", _place(report, "part"))):
        table = table.append_column(name, pa.repeat(value, table.num_rows))
    return table


def _place(report: FileReport, kind: str) -> str:
    split = report.part.split
    return split if kind == "split" else f"{split} {report.part.tier}".rstrip()


def _keys(reports: Iterable[FileReport], column: str) -> Hashes:
    """Return a hash of each value of a column, (N,); equal values have equal hashes."""
    columns = (report.rows[column].cast(pa.binary()).fill_null(b"").to_pylist() for report in reports)
    keys = (np.array([xxhash.xxh3_64_intdigest(value) for value in values], np.uint64) for values in columns)
    return np.concatenate([np.empty(0, np.uint64), *keys])


def _at(reports: Sequence[FileReport], positions: Integers) -> pa.Table:
    """Load the rows at ascending `positions` among those of all files."""
    ends = np.cumsum([report.count for report in reports])
    files = np.searchsorted(ends, positions, "right")
    tables = [
        _rows(reports[file]).take(pa.array(positions[files == file] - (ends[file] - reports[file].count)))
        for file in np.unique(files).tolist()
    ]
    return pa.concat_tables(tables) if tables else _rows(reports[0]).slice(0, 0)


def _runs(keys: Hashes) -> tuple[Integers, Integers]:
    """Sort rows by their keys: their order, and where in it each distinct key starts."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    return order, starts


def _sharing(reports: Sequence[FileReport], column: str) -> pa.Table:
    """Load the rows that seem to share a value of a column with another row."""
    order, starts = _runs(_keys(reports, column))
    lengths = np.diff(starts, append=len(order))
    return _at(reports, np.sort(order[np.repeat(lengths > 1, lengths)]))


def _lost_rows(folder: Path, originals: int, seen: int) -> list[str]:
    with open(folder / "curation" / "dropped.csv", encoding="utf-8", newline="") as file:
        dropped = sum(1 for _ in csv.DictReader(file))
    return [] if seen == originals + dropped else [f"{seen} seen, {originals} rows, {dropped} dropped"]


def _repeated(rows: pa.Table, keys: list[str]) -> list[str]:
    counts = rows.group_by(keys).aggregate([("image_id", "count"), ("image_id", "min")])
    repeated = counts.filter(pc.greater(counts["image_id_count"], 1))
    return [f"{row['image_id_min']} occurs {row['image_id_count']} times" for row in repeated.to_pylist()]


def _crossing(reports: Sequence[FileReport], key: str, place: str) -> list[str]:
    """List the values of `key` in more than one `place`: split, or part of it."""
    names = sorted({_place(report, place) for report in reports})
    places = np.repeat(
        [names.index(_place(report, place)) for report in reports], [report.count for report in reports]
    ).astype(np.int8)
    order, starts = _runs(_keys(reports, key))
    ordered = places[order]
    is_crossing = np.minimum.reduceat(ordered, starts) != np.maximum.reduceat(ordered, starts)
    rows = _at(reports, np.sort(order[np.repeat(is_crossing, np.diff(starts, append=len(order)))]))
    found = rows.group_by(key).aggregate([(place, "count_distinct"), (place, "distinct")])
    crossing = found.filter(pc.greater(found[f"{place}_count_distinct"], 1))
    return [f"{row[key]!r} is in {', '.join(sorted(row[f'{place}_distinct']))}" for row in crossing.to_pylist()]


def _near_duplicates(
    originals: Sequence[FileReport], progress: Callable[[int], object], run: Runner, search: Path | None
) -> list[str]:
    starts = np.cumsum([0, *(report.count for report in originals)])

    def place(row: int) -> tuple[FileReport, int]:
        file = int(np.searchsorted(starts, row, "right")) - 1
        return originals[file], row - int(starts[file])

    def image(row: int) -> Image.Image:
        report, position = place(row)
        return stored_content(report.path, position)

    lines = []
    for pair in filter(_certain, near_duplicates(_hashes(originals), image, progress, run, search)):
        (first, one), (second, other) = place(pair.first), place(pair.second)
        if first.part.split != second.part.split:
            names = f"{first.rows['image_id'][one]} and {second.rows['image_id'][other]}"
            lines.append(f"{names} correlate by {pair.correlation}")
    return lines


def _hashes(originals: Sequence[FileReport]) -> Hashes:
    """Collect the hashes of all originals on disk, (N, 8); the upright ones are those from before JPEG compression."""
    return facts.store_matrix(map(_hashes_of, originals), originals[0].facts.parent / "hashes")


def _hashes_of(report: FileReport) -> Hashes:
    upright = [int(text, 16) for text in report.rows["phash"].to_pylist()]
    return np.concatenate([np.array(upright, np.uint64)[:, None], report.hashes[:, 1:]], axis=1)


def _certain(pair: NearPair) -> bool:
    near = pair.orientation is UPRIGHT or pair.distance <= MAX_DISTANCE - _JPEG_BITS
    return near and pair.correlation >= min_correlation(pair.orientation) + _CORRELATION_MARGIN


def _augmented_outside_train(reports: Iterable[FileReport]) -> list[str]:
    wrong: list[str] = []
    for report in reports:
        if report.part.split != "train":
            rows = _rows(report)
            if report.part.kind != "augmented":
                rows = rows.filter(pc.is_valid(rows["parent_id"]))
            wrong += [f"{image_id} in {report.part.split}" for image_id in rows["image_id"].to_pylist()]
    return wrong


def _stray_children(augmented: Sequence[FileReport], originals: Sequence[FileReport]) -> list[str]:
    if not augmented:
        return []
    wanted = np.unique(_keys(augmented, "parent_id"))
    candidates = _at(originals, np.flatnonzero(np.isin(_keys(originals, "image_id"), wanted)))
    return [line for report in augmented for line in _strays(_rows(report), candidates)]


def _strays(children: pa.Table, originals: pa.Table) -> Iterator[str]:
    parents = originals.take(pc.index_in(children["parent_id"], originals["image_id"]))
    same = pa.chunked_array([pa.repeat(True, children.num_rows)])
    for name in ("part", "label", "group_id"):
        same = pc.and_(same, pc.fill_null(pc.equal(children[name], parents[name]), False))
    for row in children.filter(pc.invert(same)).to_pylist():
        yield f"{row['image_id']} of {row['parent_id']}"


def _short_classes(reports: Iterable[FileReport], target: int) -> list[str]:
    counts: Counter[int] = Counter()
    for report in reports:
        if report.part.split == "train":
            counts.update(report.labels)
    return [
        f"{NAMES[label]} has {counts[label]} of {target} rows" for label in sorted(counts) if counts[label] < target
    ]


def _repeated_variants(reports: Sequence[FileReport]) -> list[str]:
    rows = _sharing(reports, "pixels")
    families = rows.append_column("family", pc.coalesce(rows["parent_id"], rows["image_id"]))
    return _repeated(families, ["family", "pixels"])
