"""Exact and near duplicates, and the groups they form.

Exact duplicates have equal pixels at the size of the dataset, however their files are coded. Near duplicates have
perceptual hashes within 8 of 64 bits in one of the eight rotations and flips, and pixels that correlate in that
orientation. In the published part of PBC this finds, besides exact pairs, two cells that were photographed twice, with
thumbnail correlations of 0.93 and 0.97. The most similar pairs of different cells with near hashes reach 0.83 upright
and 0.90 rotated or flipped (PBC and four other datasets); a rotated copy saved as JPEG of quality 10 keeps 0.94.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .. import taxonomy
from .facts import BATCH
from .hash_search import Hashes, Integers, Runner, pairs_within
from .orientation import UPRIGHT, Orientation

Codes = NDArray[np.int32]
MIN_CORRELATION = 0.9
MIN_ROTATED_CORRELATION = 0.93  # stricter, since seven more orientations bring more chance pairs of round dark cells
_THUMBNAIL_SIZE = 32  # side in pixels
_CACHED_THUMBNAILS = 512  # 6 MiB
_SMALL_BUCKET = 32  # rows
_FLAT = 1e-3  # grey levels; a centred thumbnail with a smaller norm holds nothing but rounding


@dataclass(frozen=True)
class NearPair:
    """Two rows, `first` < `second`, whose images nearly agree after `orientation` is applied to `first`.

    `distance` is that of their hashes in bits, `correlation` that of their thumbnails.
    """

    first: int
    second: int
    distance: int
    correlation: float
    orientation: Orientation = UPRIGHT


@dataclass(frozen=True)
class ExactGroups:
    """Groups of identical images: `kept` maps a row to its copies; rows in `conflicts` have conflicting labels."""

    kept: dict[int, list[int]]
    conflicts: list[list[int]]


def exact_duplicates(
    digests: NDArray[np.bytes_], labels: Sequence[str] | NDArray[np.object_], rank: Sequence[bool] | NDArray[np.bool_]
) -> ExactGroups:
    """Group rows with equal `digests`.

    One row of each group is kept: one with the most specific label (a class before its parent), then one with the
    lower `rank` (False before True: an original before a publisher's augmented copy), then the first. If the labels
    disagree, the group is a conflict.
    """
    kept: dict[int, list[int]] = {}
    conflicts: list[list[int]] = []
    for rows in equal_runs(digests):
        finest = taxonomy.finest({labels[row] for row in rows})
        if finest is None:
            conflicts.append(rows)
        else:
            best, *copies = sorted(rows, key=lambda row: (labels[row] != finest, rank[row], row))
            kept[best] = copies
    return ExactGroups(kept, conflicts)


def equal_runs(values: NDArray[np.bytes_] | NDArray[np.uint64]) -> list[list[int]]:
    """Return the positions of each repeated value, in the order of their first positions."""
    order = np.argsort(values, kind="stable")
    is_first = np.ones(len(order), bool)
    for start in range(1, len(order), BATCH):  # by parts: a sorted copy of all values would double their memory
        span = values[order[start - 1 : start + BATCH]]
        is_first[start : start + BATCH] = span[1:] != span[:-1]
    starts = np.flatnonzero(is_first)
    ends = np.append(starts[1:], len(order))
    repeated = ends - starts > 1
    return sorted(order[start:end].tolist() for start, end in zip(starts[repeated], ends[repeated], strict=True))


def near_duplicates(
    hashes: Hashes,
    load_image: Callable[[int], Image.Image],
    progress: Callable[[int], object] = lambda done: None,
    run: Runner = map,
    folder: Path | None = None,
) -> list[NearPair]:
    """Find pairs of rows with near `hashes` (N, 8) whose pixels agree, in the orientation in which they agree best.

    `load_image` loads the RGB image of a row without padding. `progress` gets the number of rows done since its last
    call. `run` runs the tasks of the hash search, which share `folder` (default: a temporary one); it takes 64 bytes a
    row, and an interrupted search goes on there.
    """
    if folder is None:
        with TemporaryDirectory() as temporary:
            return near_duplicates(hashes, load_image, progress, run, Path(temporary))
    distinct, bucket_of = _distinct(hashes)
    buckets = _Buckets(bucket_of, len(distinct), load_image)
    progress(len(hashes) - len(distinct))
    best: dict[tuple[int, int], NearPair] = {}

    def keep(pairs: Iterable[NearPair]) -> None:
        for pair in pairs:
            previous = best.get((pair.first, pair.second))
            if previous is None or pair.correlation > previous.correlation:
                best[pair.first, pair.second] = pair

    for bucket in buckets.shared():
        keep(buckets.upright(bucket))
    for block in pairs_within(distinct, folder, run, progress):
        for first, second, distance in zip(block.first, block.second, block.distance, strict=True):
            keep(buckets.between(int(first), int(second), int(distance), block.orientation))
    return [best[rows] for rows in sorted(best)]


def _distinct(hashes: Hashes) -> tuple[Hashes, Integers]:
    """Return the distinct rows of `hashes` (N, 8) in ascending order, and for each row the number of its own, (N,).

    As `np.unique` with an axis, in a tenth of the time: only rows with equal upright hashes are compared as a whole.
    """
    upright = hashes[:, 0]
    order = np.argsort(upright, kind="stable")
    is_copy = np.zeros(len(order), bool)  # so far: of the upright hash before
    is_copy[1:] = upright[order[1:]] == upright[order[:-1]]
    later = np.flatnonzero(is_copy)
    tied = np.union1d(later - 1, later)
    rows = order[tied]
    order[tied] = rows[np.lexsort(hashes[rows].T[::-1])]
    is_copy[later] = (hashes[order[later]] == hashes[order[later - 1]]).all(axis=1)
    bucket_of = np.empty(len(order), np.int64)
    bucket_of[order] = np.cumsum(~is_copy) - 1
    return hashes[order[~is_copy]], bucket_of


class _Buckets:
    """Buckets of rows that share all hashes, and the choice of rows to compare.

    In a small bucket all pairs are compared. In a large one, rows are compared only with "leaders", rows unlike every
    leader before them, and only leaders are compared with other buckets: a thousand identical empty fields cost a
    thousand comparisons instead of a million.
    """

    def __init__(self, bucket_of: Integers, count: int, load_image: Callable[[int], Image.Image]) -> None:
        order = np.argsort(bucket_of, kind="stable")
        self.rows = order
        self.starts = np.searchsorted(bucket_of[order], np.arange(count + 1))
        self.load_image = load_image
        self._leaders: dict[int, list[int]] = {}
        self._thumbnails: dict[int, NDArray[np.float32]] = {}

    def shared(self) -> list[int]:
        shared: list[int] = np.flatnonzero(np.diff(self.starts) > 1).tolist()
        return shared

    def upright(self, bucket: int) -> list[NearPair]:
        """Return the pairs within a bucket whose images agree upright."""
        rows = self._all(bucket)
        if len(rows) <= _SMALL_BUCKET:
            return self._agreeing(combinations(rows, 2), 0, UPRIGHT)
        leaders: list[int] = []
        pairs: list[NearPair] = []
        for row in rows:
            match = next((pair for leader in leaders if (pair := self._compare(leader, row, 0, UPRIGHT))), None)
            if match is None:
                leaders.append(row)
            else:
                pairs.append(match)
        self._leaders[bucket] = leaders
        return pairs

    def between(self, first: int, second: int, distance: int, orientation: Orientation) -> list[NearPair]:
        """Return the pairs of two buckets (or within one) that agree after `orientation` is applied to `first`."""
        firsts, seconds = self._compared(first), self._compared(second)
        pairs = ((a, b) for a in firsts for b in seconds if first != second or a < b)
        return self._agreeing(pairs, distance, orientation)

    def _agreeing(self, pairs: Iterable[tuple[int, int]], distance: int, orientation: Orientation) -> list[NearPair]:
        compared = (self._compare(a, b, distance, orientation) for a, b in pairs)
        return [pair for pair in compared if pair]

    def _all(self, bucket: int) -> list[int]:
        rows: list[int] = self.rows[self.starts[bucket] : self.starts[bucket + 1]].tolist()
        return rows

    def _compared(self, bucket: int) -> list[int]:
        return self._leaders.get(bucket) or self._all(bucket)

    def _compare(self, a: int, b: int, distance: int, orientation: Orientation) -> NearPair | None:
        agreement = correlation(orientation.pixels(self._thumbnail(a)), self._thumbnail(b))
        if agreement < min_correlation(orientation):
            return None
        if a > b:
            a, b, orientation = b, a, orientation.inverse
        return NearPair(a, b, distance, round(agreement, 3), orientation)

    def _thumbnail(self, row: int) -> NDArray[np.float32]:
        if row not in self._thumbnails:
            if len(self._thumbnails) == _CACHED_THUMBNAILS:
                self._thumbnails.clear()
            self._thumbnails[row] = thumbnail(self.load_image(row))
        return self._thumbnails[row]


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """Shrink an image to (32, 32, 3), channels centred, with unit norm overall; zero for a flat image."""
    small = np.asarray(image.resize((_THUMBNAIL_SIZE, _THUMBNAIL_SIZE), Image.Resampling.BILINEAR), np.float32)
    centred = small - small.mean((0, 1))
    length = float(np.linalg.norm(centred))
    return centred / length if length > _FLAT else np.zeros_like(centred)


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Compute the Pearson correlation of two thumbnails over pixels and channels; 1.0 for two flat images."""
    return float(np.vdot(a, b)) if a.any() or b.any() else 1.0


def min_correlation(orientation: Orientation) -> float:
    """Return the minimum correlation at which images with near hashes count as copies."""
    return MIN_CORRELATION if orientation is UPRIGHT else MIN_ROTATED_CORRELATION


def join_groups(groups: Codes, pairs: Sequence[tuple[int, int]]) -> Codes:
    """Join the groups (N,), numbers from 0, of rows that `pairs` links: each joined group gets its lowest number."""
    count = int(groups.max(initial=-1)) + 1
    ends = groups[np.asarray(pairs, np.int64).reshape(-1, 2)]
    links = coo_array((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), shape=(count, count))
    _, component = connected_components(links, directed=False)
    first = np.empty(count, groups.dtype)
    first[component[::-1]] = np.arange(count, dtype=groups.dtype)[::-1]  # the last one written is the lowest
    joined: Codes = first[component[groups]]
    return joined
