"""Turn scanned images into clean rows: drop duplicates and conflicts, join groups, assign splits and tiers."""

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
from . import facts, quality, splits, squares
from .duplicates import ExactGroups, NearPair, exact_duplicates, join_groups, near_duplicates
from .hash_search import Hashes, Integers
from .orientation import UPRIGHT
from .scan import PixelReader

_SHOWN = 5  # acquisitions in a message
_NAMES = np.array(taxonomy.NAMES, object)
QUALITIES = ("sharpness", "brightness", "contrast")
_KEPT = (
    "image_id", "source", "source_label", "label", "group", "sha256", "acquisition", "width", "height", *QUALITIES,
    "channel_sums", "conversions", "chunk", "position",
)  # fmt: skip


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

    `rows` has the scanned columns of the rows that are kept, sorted by `image_id`, with `phash` (upright), `group_id`,
    `split`, `tier` (empty outside train) and a `<quality>_outlier` flag for each quality; it is mapped from disk, and
    text that repeats is encoded (`facts`). `conflicts` lists groups of identical images with conflicting labels, as
    (image_id, label).
    """

    rows: pa.Table
    dropped: list[Dropped]
    duplicates: list[Duplicate]
    conflicts: list[list[tuple[str, str]]]


def exclude(scanned: pa.Table, acquisitions: Sequence[str]) -> pa.Table:
    """Mark the rows of the given acquisitions as dropped. Raises if no usable image has one of them."""
    if not acquisitions:
        return scanned
    names, column = facts.values(scanned["acquisition"]), facts.codes(scanned["acquisition"])
    is_usable = facts.codes(scanned["reason"]) < 0
    usable = np.bincount(column[is_usable & (column >= 0)], minlength=len(names))
    for name in acquisitions:
        if name not in names or not usable[names.index(name)]:
            most = np.argsort(-usable, kind="stable")[:_SHOWN]
            frequent = ", ".join(f"{names[code]} ({usable[code]:,})" for code in most if usable[code])
            raise CelluScanError(f"no usable image has the acquisition {name}; the most frequent are: {frequent}")
    excluded = pa.array(is_usable & np.isin(column, [names.index(name) for name in acquisitions]))
    texts = {name: facts.single(scanned[name]) for name in ("reason", "detail", "acquisition")}
    reason = pc.if_else(excluded, "excluded_acquisition", texts["reason"].dictionary_decode())
    detail = pc.if_else(excluded, texts["acquisition"].dictionary_decode(), texts["detail"])
    for name, values in (("reason", facts.encode(reason)), ("detail", detail)):
        scanned = scanned.set_column(scanned.schema.get_field_index(name), name, values)
    return scanned


def curate(
    scanned: pa.Table,
    pixels: PixelReader,
    seed: int,
    train_only: set[str],
    progress: Callable[[int], object],
) -> Curated:
    """Clean the scanned rows. `train_only` names the sources whose images may only be used for training.

    The table of the rows that are kept is written below the folder of `pixels`.
    """
    usable = usable_rows(scanned)
    hashes = store_hashes(scanned, usable, pixels.folder)
    near = near_duplicates(hashes, lambda row: _load_content(scanned, int(usable[row]), pixels), progress)
    return clean(scanned, usable, near, pixels.folder, seed, train_only)


def usable_rows(scanned: pa.Table) -> Integers:
    """Return the positions of the usable rows, sorted by `image_id`. Raises if there are none."""
    order: Integers = pc.sort_indices(facts.single(scanned["image_id"])).to_numpy().view(np.int64)
    usable = order[(facts.codes(scanned["reason"]) < 0)[order]]
    if not len(usable):
        raise CelluScanError("no usable image is left: the excluded acquisitions cover all of them")
    return usable


def store_hashes(scanned: pa.Table, usable: Integers, folder: Path) -> Hashes:
    """Write the perceptual hashes of the usable rows in all orientations to `folder`; return them mapped, (N, 8)."""
    column = facts.single(scanned["phashes"])
    orientations = len(column[int(usable[0])])
    hashes = np.lib.format.open_memmap(folder / "hashes.npy", "w+", np.uint64, (len(usable), orientations))
    for start in range(0, len(usable), facts.BATCH):
        taken = column.take(pa.array(usable[start : start + facts.BATCH]))
        hashes[start : start + facts.BATCH] = taken.flatten().to_numpy().reshape(-1, orientations)
    return hashes


def clean(
    scanned: pa.Table, usable: Integers, near: list[NearPair], folder: Path, seed: int, train_only: set[str]
) -> Curated:
    """Drop exact duplicates and conflicts of the `usable` rows, join groups, and assign splits and tiers.

    `near` pairs are positions in `usable`. The table of the rows that are kept is written below `folder`.
    """
    labels = label_ids(scanned)[usable]
    named = _Named(facts.single(scanned["image_id"]), usable, labels)
    augmented = scanned["augmented"].to_numpy()[usable]
    exact = exact_duplicates(_digests(scanned)[usable], _NAMES[labels], augmented)
    copies = {copy: kept for kept, equal in exact.kept.items() for copy in equal}
    links = [*copies.items(), *((pair.first, pair.second) for pair in near)]
    groups = join_groups(facts.codes(scanned["group"])[usable], links)
    restricted = np.unique(groups[augmented | _is_from(scanned, train_only)[usable]])
    is_kept = np.ones(len(usable), bool)
    is_kept[[*copies, *(row for group in exact.conflicts for row in group)]] = False
    if not is_kept.any():
        first = " and ".join(f"{image_id} = {label}" for image_id, label in map(named, exact.conflicts[0][:2]))
        raise CelluScanError(f"no usable image is left: each equals one of another class ({first}); correct the labels")
    rows = _kept_rows(scanned, usable[is_kept], folder)
    group_id = pa.DictionaryArray.from_arrays(groups[is_kept], facts.single(scanned["group"]).dictionary)
    return Curated(
        rows=_with_outliers(_with_splits(rows.append_column("group_id", group_id), restricted, seed)),
        dropped=_dropped(scanned, named, copies, exact),
        duplicates=_duplicates(named, copies, near),
        conflicts=[[named(row) for row in group] for group in exact.conflicts],
    )


@dataclass(frozen=True)
class _Named:
    """The `image_id` and label of a usable row, as text."""

    image_ids: pa.Array
    usable: Integers
    labels: Integers

    def __call__(self, row: int) -> tuple[str, str]:
        return self.image_ids[int(self.usable[row])].as_py(), taxonomy.NAMES[self.labels[row]]


def _digests(scanned: pa.Table) -> NDArray[np.bytes_]:
    """Return the digests of the pixels, (N,); whatever stands there in a row that is not usable."""
    column = facts.single(scanned["pixels"])
    width = column.type.byte_width
    return np.frombuffer(column.buffers()[1], f"S{width}", len(column), column.offset * width)


def _is_from(rows: pa.Table, sources: set[str]) -> NDArray[np.bool_]:
    is_listed = np.array([name in sources for name in facts.values(rows["source"])], bool)
    return is_listed[facts.codes(rows["source"])]


def _kept_rows(scanned: pa.Table, positions: Integers, folder: Path) -> pa.Table:
    """Write the columns of the rows at `positions` below `folder`."""
    taken = pa.array(positions)
    columns = ((name, facts.single(scanned[name]).take(taken)) for name in _KEPT)
    rows = facts.store_columns(columns, folder / "rows")
    return rows.append_column("phash", pa.array(_upright(scanned, positions)))


def _upright(scanned: pa.Table, positions: Integers) -> Hashes:
    column = facts.single(scanned["phashes"])
    first: Integers = column.offsets.to_numpy()[positions]
    hashes: Hashes = column.values.to_numpy()[first]
    return hashes


def _load_content(table: pa.Table, row: int, pixels: PixelReader) -> Image.Image:
    """Load the resized image of a row without its padding."""
    columns = table.select(["chunk", "position", "width", "height"]).slice(row, 1).to_pylist()[0]
    square = Image.fromarray(pixels(columns))
    return square.crop(squares.content_box(columns["width"], columns["height"], pixels.size))


def _with_splits(rows: pa.Table, restricted: Integers, seed: int) -> pa.Table:
    """Add `split` and `tier`. `restricted` are the codes of the groups that are limited to train."""
    labels, codes = label_ids(rows), facts.codes(rows["group_id"])
    group_names = facts.single(rows["group_id"]).dictionary
    names, members = np.unique(codes, return_inverse=True)
    groups = splits.Groups(pa.DictionaryArray.from_arrays(names, group_names), members, labels, strata(rows))
    eligible = ~np.isin(names, restricted)
    part = splits.assign_groups(groups, splits.SPLIT_SHARES, seed, eligible)[members].astype(np.int8)
    tier = np.full(rows.num_rows, len(splits.TIERS), np.int8)
    train = np.flatnonzero(part == splits.SPLITS.index("train"))
    names, members = np.unique(codes[train], return_inverse=True)
    train_strata = strata(rows.select(["source", "label"]).take(pa.array(train)))
    groups = splits.Groups(pa.DictionaryArray.from_arrays(names, group_names), members, labels[train], train_strata)
    tier[train] = splits.assign_groups(groups, splits.TIER_SHARES, seed)[members]
    for name, codes, texts in (("split", part, splits.SPLITS), ("tier", tier, (*splits.TIERS, ""))):
        column = pa.DictionaryArray.from_arrays(codes, pa.array(texts, pa.large_string()))
        rows = rows.append_column(name, column)
    return rows


def label_ids(rows: pa.Table) -> NDArray[np.int64]:
    """Return the label ids of the rows, (N,); -1 for one without a label."""
    ids = [taxonomy.LABEL2ID[name] for name in facts.values(rows["label"])]
    return np.array([*ids, -1], np.int64)[facts.codes(rows["label"])]


def strata(rows: pa.Table) -> NDArray[np.int64]:
    """Return the stratum of each row, a number for its class and source, (N,)."""
    _, sources = np.unique(facts.codes(rows["source"]), return_inverse=True)
    return label_ids(rows) + len(taxonomy.CLASSES) * sources.astype(np.int64)


def _with_outliers(rows: pa.Table) -> pa.Table:
    groups = strata(rows)
    for name in QUALITIES:
        flags = quality.outliers(rows[name].to_numpy(), groups)
        rows = rows.append_column(f"{name}_outlier", pa.array(flags))
    return rows


def _dropped(scanned: pa.Table, named: _Named, copies: dict[int, int], exact: ExactGroups) -> list[Dropped]:
    bad = scanned.select(["image_id", "reason", "detail"]).take(np.flatnonzero(facts.codes(scanned["reason"]) >= 0))
    dropped = [Dropped(row["image_id"], row["reason"], row["detail"] or "") for row in bad.to_pylist()]
    for copy, kept in copies.items():
        dropped.append(Dropped(named(copy)[0], "duplicate", f"identical to {named(kept)[0]}"))
    for group in exact.conflicts:
        conflict = ", ".join(f"{image_id} = {label}" for image_id, label in map(named, group))
        dropped += [Dropped(named(row)[0], "label_conflict", conflict) for row in group]
    return dropped


def _duplicates(named: _Named, copies: dict[int, int], near: list[NearPair]) -> list[Duplicate]:
    listed = [(copy, kept, "exact", 0, 1.0, UPRIGHT) for copy, kept in sorted(copies.items())]
    listed += [
        (pair.second, pair.first, "near", pair.distance, pair.correlation, pair.orientation)
        for pair in near
        if pair.second not in copies and pair.first not in copies
    ]
    duplicates = []
    for row, other, kind, distance, correlation, orientation in listed:
        (image_id, label), (original, label_of_other) = named(row), named(other)
        duplicates.append(
            Duplicate(image_id, original, kind, distance, correlation, label, label_of_other, orientation.name)
        )
    return duplicates
