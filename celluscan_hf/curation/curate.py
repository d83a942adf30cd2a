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
from .facts import Facts
from .hash_search import Hashes, Integers, Runner
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

    rows: Facts
    dropped: list[Dropped]
    duplicates: list[Duplicate]
    conflicts: list[list[tuple[str, str]]]


def exclude(scanned: Facts, acquisitions: Sequence[str]) -> Facts:
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
    texts = {name: scanned[name] for name in ("reason", "detail", "acquisition")}
    reason = pc.if_else(excluded, "excluded_acquisition", texts["reason"].dictionary_decode())
    detail = pc.if_else(excluded, texts["acquisition"].dictionary_decode(), texts["detail"])
    return scanned.with_columns({"reason": facts.encode(reason), "detail": detail})


def curate(
    scanned: Facts,
    pixels: PixelReader,
    seed: int,
    train_only: set[str],
    progress: Callable[[int], object],
    run: Runner = map,
    folder: Path | None = None,
) -> Curated:
    """Clean the scanned rows. `train_only` names the sources whose images may only be used for training.

    The table of the rows that are kept is written below the folder of `pixels`. `run` runs the tasks of the duplicate
    search, which share `folder`, as in `near_duplicates`.
    """
    usable = usable_rows(scanned)
    places = scanned.select(["chunk", "position", "width", "height"])
    near = near_duplicates(
        store_hashes(scanned, usable, pixels.folder),
        lambda row: _load_content(places, int(usable[row]), pixels),
        progress,
        run,
        folder,
    )
    return clean(scanned, usable, near, pixels.folder, seed, train_only)


def usable_rows(scanned: Facts) -> Integers:
    """Return the positions of the usable rows, sorted by `image_id`. Raises if there are none."""
    order: Integers = pc.sort_indices(scanned["image_id"]).to_numpy().view(np.int64)
    usable = order[(facts.codes(scanned["reason"]) < 0)[order]]
    if not len(usable):
        raise CelluScanError("no usable image is left: the excluded acquisitions cover all of them")
    return usable


def store_hashes(scanned: Facts, usable: Integers, folder: Path) -> Hashes:
    """Write the perceptual hashes of the usable rows in all orientations to `folder`; return them mapped, (N, 8)."""
    column = scanned["phashes"]
    batches = (usable[start : start + facts.BATCH] for start in range(0, len(usable), facts.BATCH))
    taken = (column.take(pa.array(batch)).flatten().to_numpy().reshape(len(batch), -1) for batch in batches)
    return facts.store_matrix(taken, folder / "hashes")


def clean(
    scanned: Facts, usable: Integers, near: list[NearPair], folder: Path, seed: int, train_only: set[str]
) -> Curated:
    """Drop exact duplicates and conflicts of the `usable` rows, join groups, and assign splits and tiers.

    `near` pairs are positions in `usable`. The table of the rows that are kept is written below `folder`.
    """
    labels = label_ids(scanned)[usable]
    named = _Named(scanned["image_id"], usable, labels)
    augmented = scanned["augmented"].to_numpy(zero_copy_only=False)[usable]
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
    group_id = pa.DictionaryArray.from_arrays(groups[is_kept], scanned["group"].dictionary)
    rows = _kept_rows(scanned, usable[is_kept], folder).with_columns({"group_id": group_id})
    return Curated(
        rows=_with_outliers(_with_splits(rows, restricted, seed)),
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


def _digests(scanned: Facts) -> NDArray[np.bytes_]:
    """Return the digests of the pixels, (N,); whatever stands there in a row that is not usable."""
    column = scanned["pixels"]
    width = column.type.byte_width
    return np.frombuffer(column.buffers()[1], f"S{width}", len(column), column.offset * width)


def _is_from(rows: Facts, sources: set[str]) -> NDArray[np.bool_]:
    is_listed = np.array([name in sources for name in facts.values(rows["source"])], bool)
    return is_listed[facts.codes(rows["source"])]


def _kept_rows(scanned: Facts, positions: Integers, folder: Path) -> Facts:
    """Write the columns of the rows at `positions` below `folder`."""
    taken = pa.array(positions)
    columns = ((name, scanned[name].take(taken)) for name in _KEPT)
    return facts.store(columns, folder / "rows").with_columns({"phash": pa.array(_upright(scanned, positions))})


def _upright(scanned: Facts, positions: Integers) -> Hashes:
    column = scanned["phashes"]
    first: Integers = column.offsets.to_numpy()[positions]
    hashes: Hashes = column.values.to_numpy()[first]
    return hashes


def _load_content(places: pa.Table, row: int, pixels: PixelReader) -> Image.Image:
    """Load the resized image of a row without its padding."""
    columns = places.slice(row, 1).to_pylist()[0]
    square = Image.fromarray(pixels(columns))
    return square.crop(squares.content_box(columns["width"], columns["height"], pixels.size))


def _with_splits(rows: Facts, restricted: Integers, seed: int) -> Facts:
    """Add `split` and `tier`. `restricted` are the codes of the groups that are limited to train."""
    groups, names = _groups(rows, np.arange(rows.num_rows))
    part = splits.assign_groups(groups, splits.SPLIT_SHARES, seed, ~np.isin(names, restricted))[groups.members]
    train = np.flatnonzero(part == splits.SPLITS.index("train"))
    groups, _ = _groups(rows, train)
    tier = np.full(rows.num_rows, len(splits.TIERS), np.int8)
    tier[train] = splits.assign_groups(groups, splits.TIER_SHARES, seed)[groups.members]
    return rows.with_columns(
        {
            "split": pa.DictionaryArray.from_arrays(part.astype(np.int8), pa.array(splits.SPLITS)),
            "tier": pa.DictionaryArray.from_arrays(tier, pa.array([*splits.TIERS, ""])),
        }
    )


def _groups(rows: Facts, positions: Integers) -> tuple[splits.Groups, NDArray[np.int32]]:
    """Return the groups of the rows at `positions`, and the code of each."""
    own = rows.select(["source", "label", "group_id"]).take(pa.array(positions))
    codes, members = np.unique(facts.codes(own["group_id"]), return_inverse=True)
    names = facts.picked(rows["group_id"].dictionary, codes)
    return splits.Groups(names, members, label_ids(own), strata(own)), codes


def label_ids(rows: Facts | pa.Table) -> NDArray[np.int64]:
    """Return the label ids of the rows, (N,); -1 for one without a label."""
    ids = [taxonomy.LABEL2ID[name] for name in facts.values(rows["label"])]
    return np.array([*ids, -1], np.int64)[facts.codes(rows["label"])]


def strata(rows: Facts | pa.Table) -> NDArray[np.int64]:
    """Return the stratum of each row, a number for its class and source, (N,)."""
    _, sources = np.unique(facts.codes(rows["source"]), return_inverse=True)
    return label_ids(rows) + len(taxonomy.CLASSES) * sources.astype(np.int64)


def _with_outliers(rows: Facts) -> Facts:
    groups = strata(rows)
    for name in QUALITIES:
        flags = quality.outliers(rows[name].to_numpy(), groups)
        rows = rows.with_columns({f"{name}_outlier": pa.array(flags)})
    return rows


def _dropped(scanned: Facts, named: _Named, copies: dict[int, int], exact: ExactGroups) -> list[Dropped]:
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
