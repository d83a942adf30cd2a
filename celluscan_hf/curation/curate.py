"""Turn scanned images into clean rows: drop duplicates and conflicts, join groups, assign splits and tiers."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from .. import taxonomy
from ..errors import CelluScanError
from ..sources import Dropped
from . import quality, splits, squares
from .duplicates import ExactGroups, NearPair, exact_duplicates, join_groups, near_duplicates
from .hash_search import Runner
from .orientation import UPRIGHT
from .scan import PixelReader

_SHOWN = 5  # acquisitions in a message
QUALITIES = ("sharpness", "brightness", "contrast")


@dataclass(frozen=True)
class Duplicate:
    """A row of `duplicates.csv`: an image, the image that it duplicates, and the evidence.

    `orientation` is Pillow's name of the rotation or flip that turns `duplicate_of` into `image_id`.
    """

    image_id: str
    duplicate_of: str
    kind: str
    distance: int
    correlation: float
    label: str
    label_of_other: str
    orientation: str


@dataclass(frozen=True)
class Curated:
    """The result of curation, which the rest of a build works on.

    `rows` has the scanned columns of the rows that are kept, sorted by `image_id`, with `group_id`, `split`, `tier`
    (empty outside train) and a `<quality>_outlier` flag for each quality. `conflicts` lists groups of identical images
    with conflicting labels, as (image_id, label).
    """

    rows: pa.Table
    dropped: list[Dropped]
    duplicates: list[Duplicate]
    conflicts: list[list[tuple[str, str]]]


def exclude(scanned: pa.Table, acquisitions: Sequence[str]) -> pa.Table:
    """Mark the rows of the given acquisitions as dropped. Raises if no usable image has one of them."""
    columns = scanned.select(["acquisition", "reason"]).to_pylist()
    usable = Counter(row["acquisition"] for row in columns if row["reason"] is None)
    for name in acquisitions:
        if name not in usable:
            frequent = ", ".join(f"{acquisition} ({count:,})" for acquisition, count in usable.most_common(_SHOWN))
            raise CelluScanError(f"no usable image has the acquisition {name}; the most frequent are: {frequent}")
    excluded = pc.and_(
        pc.is_null(scanned["reason"]), pc.is_in(scanned["acquisition"], pa.array(acquisitions, pa.string()))
    )
    for column, value in (("reason", pa.scalar("excluded_acquisition")), ("detail", scanned["acquisition"])):
        index = scanned.schema.get_field_index(column)
        scanned = scanned.set_column(index, scanned.schema.field(index), pc.if_else(excluded, value, scanned[column]))
    return scanned


def curate(
    scanned: pa.Table,
    pixels: PixelReader,
    seed: int,
    train_only: set[str],
    progress: Callable[[int], object],
    run: Runner = map,
    folder: Path | None = None,
) -> Curated:
    """Clean the scanned rows. `train_only` names the sources whose images may only be used for training.

    `run` runs the tasks of the duplicate search, which share `folder`, as in `near_duplicates`.
    """
    usable = scanned.filter(pc.is_null(scanned["reason"])).sort_by("image_id")
    if usable.num_rows == 0:
        raise CelluScanError("no usable image is left: the excluded acquisitions cover all of them")
    ids, labels = usable["image_id"].to_pylist(), usable["label"].to_pylist()
    exact = exact_duplicates(np.array(usable["pixels"].to_pylist()), labels, usable["augmented"].to_pylist())
    near = near_duplicates(_hashes(usable), lambda row: _load_content(usable, row, pixels), progress, run, folder)
    copies = {copy: kept for kept, equal in exact.kept.items() for copy in equal}
    conflicting = {row for group in exact.conflicts for row in group}
    links = [*copies.items(), *((pair.first, pair.second) for pair in near)]
    usable = usable.append_column("group_id", pa.array(join_groups(usable["group"].to_pylist(), links)))
    restricted = _restricted_groups(usable, train_only)
    kept = np.array([row not in copies and row not in conflicting for row in range(len(ids))])
    rows = usable.filter(pa.array(kept))
    if rows.num_rows == 0:
        first = " and ".join(f"{ids[row]} = {labels[row]}" for row in exact.conflicts[0][:2])
        raise CelluScanError(f"no usable image is left: each equals one of another class ({first}); correct the labels")
    return Curated(
        rows=_with_outliers(_with_splits(rows, restricted, seed)),
        dropped=_dropped(scanned, ids, labels, copies, exact),
        duplicates=_duplicates(ids, labels, copies, near),
        conflicts=[[(ids[row], labels[row]) for row in group] for group in exact.conflicts],
    )


def _hashes(rows: pa.Table) -> NDArray[np.uint64]:
    """Return the perceptual hashes in all orientations, (N, 8)."""
    hashes: NDArray[np.uint64] = pc.list_flatten(rows["phashes"]).to_numpy().reshape(rows.num_rows, -1)
    return hashes


def _load_content(table: pa.Table, row: int, pixels: PixelReader) -> Image.Image:
    """Load the resized image of a row without its padding."""
    columns = table.select(["chunk", "position", "width", "height"]).slice(row, 1).to_pylist()[0]
    square = Image.fromarray(pixels(columns))
    return square.crop(squares.content_box(columns["width"], columns["height"], pixels.size))


def _restricted_groups(table: pa.Table, train_only: set[str]) -> set[str]:
    """Return the groups that are limited to train: those with an augmented copy or an image of a train-only source."""
    restricted = pc.or_(table["augmented"], pc.is_in(table["source"], pa.array(sorted(train_only), pa.string())))
    return set(table.filter(restricted)["group_id"].to_pylist())


def _with_splits(rows: pa.Table, restricted: set[str], seed: int) -> pa.Table:
    groups = _groups(rows)
    eligible = np.array([name not in restricted for name in groups.names])
    part = splits.assign_groups(groups, splits.SPLIT_SHARES, seed, eligible)[groups.members]
    tier = np.full(rows.num_rows, "", object)
    train = np.flatnonzero(part == splits.SPLITS.index("train"))
    train_groups = _groups(rows.take(pa.array(train)))
    tier[train] = np.array(splits.TIERS, object)[
        splits.assign_groups(train_groups, splits.TIER_SHARES, seed)[train_groups.members]
    ]
    split = np.array(splits.SPLITS, object)[part]
    return rows.append_column("split", pa.array(split.tolist())).append_column("tier", pa.array(tier.tolist()))


def _groups(rows: pa.Table) -> splits.Groups:
    names, members = np.unique(np.array(rows["group_id"].to_pylist(), object), return_inverse=True)
    labels = label_ids(rows)
    return splits.Groups(names.tolist(), members, labels, strata(rows))


def label_ids(rows: pa.Table) -> NDArray[np.int64]:
    """Return the label ids of the rows, (N,)."""
    return np.array([taxonomy.LABEL2ID[label] for label in rows["label"].to_pylist()], np.int64)


def strata(rows: pa.Table) -> NDArray[np.int64]:
    """Return the stratum of each row, a number for its class and source, (N,)."""
    _, sources = np.unique(np.array(rows["source"].to_pylist(), object), return_inverse=True)
    return label_ids(rows) + len(taxonomy.CLASSES) * sources.astype(np.int64)


def _with_outliers(rows: pa.Table) -> pa.Table:
    groups = strata(rows)
    for name in QUALITIES:
        flags = quality.outliers(rows[name].to_numpy(), groups)
        rows = rows.append_column(f"{name}_outlier", pa.array(flags))
    return rows


def _dropped(
    scanned: pa.Table, ids: list[str], labels: list[str], copies: dict[int, int], exact: ExactGroups
) -> list[Dropped]:
    bad = scanned.filter(pc.is_valid(scanned["reason"])).select(["image_id", "reason", "detail"])
    dropped = [Dropped(row["image_id"], row["reason"], row["detail"] or "") for row in bad.to_pylist()]
    dropped += [Dropped(ids[copy], "duplicate", f"identical to {ids[kept]}") for copy, kept in copies.items()]
    for group in exact.conflicts:
        names = ", ".join(f"{ids[row]} = {labels[row]}" for row in group)
        dropped += [Dropped(ids[row], "label_conflict", names) for row in group]
    return dropped


def _duplicates(ids: list[str], labels: list[str], copies: dict[int, int], near: list[NearPair]) -> list[Duplicate]:
    exact = [
        Duplicate(ids[copy], ids[kept], "exact", 0, 1.0, labels[copy], labels[kept], UPRIGHT.name)
        for copy, kept in sorted(copies.items())
    ]
    return exact + [
        Duplicate(
            ids[pair.second], ids[pair.first], "near", pair.distance, pair.correlation,
            labels[pair.second], labels[pair.first], pair.orientation.name,
        )
        for pair in near
        if pair.second not in copies and pair.first not in copies
    ]  # fmt: skip
