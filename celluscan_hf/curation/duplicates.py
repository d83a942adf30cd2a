"""Exact and near duplicates, and the groups they make.

Exact duplicates are images equal pixel for pixel at the size of the data set, however their files are coded. Near
duplicates are found by perceptual hashes within 8 of 64 bits and confirmed on the pixels. On the published part of PBC
this finds, beside the exact pairs, two cells that were captured twice; the correlation of their thumbnails is 0.93 and
0.97, that of the most similar different cells with near hashes 0.83.

The search is exact: of three blocks of 21 bits, two hashes within 8 bits agree in one up to two bits (pigeonhole), so
looking up all blocks with up to two flipped bits misses none (multi-index hashing, Norouzi et al., CVPR 2012).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import faiss
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .. import taxonomy

MAX_DISTANCE = 8  # bits
MIN_CORRELATION = 0.9
_BITS, _BLOCKS, _BLOCK_BITS, _FLIPS = 64, 3, 21, 2
_QUERIES = 16_384  # hashes looked up at a time: bounds memory, gives progress
_THUMBNAIL = 32  # pixels a side
_KEPT_THUMBNAILS = 512  # 6 MiB
_SMALL_BUCKET = 32  # rows
_FLAT = 1e-3  # grey levels; the length of a centred thumbnail that holds rounding only

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class NearPair:
    """Rows `first` < `second` whose images nearly agree: bits between their hashes, correlation of their pixels."""

    first: int
    second: int
    distance: int
    correlation: float


@dataclass(frozen=True)
class ExactGroups:
    """Rows equal pixel for pixel: `kept` stands for `copies`; the rows of `conflicts` have labels that disagree."""

    kept: dict[int, list[int]]
    conflicts: list[list[int]]


def exact_duplicates(digests: NDArray[np.bytes_], labels: Sequence[str], rank: Sequence[bool]) -> ExactGroups:
    """Group rows with equal `digests`.

    One row of each group is kept: one with the finest label (a class before its parent), then one with the lower
    `rank` (False before True: an original before a publisher's augmented copy), then the first. Where no one label
    explains all, the whole group is a conflict.
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
    """The positions of each value that stands more than once, in the order of their first position."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, values[order][1:] != values[order][:-1]])
    runs = (run.tolist() for run in np.split(order, starts[1:]))
    return sorted(run for run in runs if len(run) > 1)


def pairs_within(hashes: NDArray[np.uint64], progress: Callable[[int], object] = lambda done: None) -> Iterator[Pairs]:
    """All pairs of distinct `hashes` (N,) within `MAX_DISTANCE` bits, as blocks of (first, second, distance).

    `progress` is told how many hashes were looked up since it was last told.
    """
    codes = hashes.astype(">u8").view(np.uint8).reshape(-1, 8)
    index = faiss.IndexBinaryMultiHash(_BITS, _BLOCKS, _BLOCK_BITS)
    index.nflip = _FLIPS
    index.add(codes)
    for start in range(0, len(codes), _QUERIES):
        block = codes[start : start + _QUERIES]
        limits, distances, found = index.range_search(block, MAX_DISTANCE + 1)  # the radius itself is excluded
        queries = start + np.repeat(np.arange(len(block)), limits[1:].astype(np.int64) - limits[:-1].astype(np.int64))
        once = queries < found
        yield np.stack([queries[once], found[once], distances[once].astype(np.int64)], axis=1)
        progress(len(block))


def near_duplicates(
    hashes: NDArray[np.uint64],
    image_of: Callable[[int], Image.Image],
    progress: Callable[[int], object] = lambda done: None,
) -> list[NearPair]:
    """Pairs of rows with near hashes (N,) whose pixels agree. `image_of` gives a row's RGB image without padding.

    `progress` is told how many rows were done since it was last told.
    """
    distinct, rows_of = np.unique(hashes, return_inverse=True)
    buckets = _Buckets(rows_of, len(distinct), image_of)
    progress(len(hashes) - len(distinct))
    found = [pair for bucket in buckets.shared() for pair in buckets.within(bucket)]
    for block in pairs_within(distinct, progress):
        for first, second, distance in block.tolist():
            found.extend(buckets.between(first, second, distance))
    return sorted(found, key=lambda pair: (pair.first, pair.second))


class _Buckets:
    """Rows that share a hash, and which of them are compared.

    All rows of small buckets are compared with all. In a large one a row is compared with those that were unlike all
    before it ("leaders"), and only leaders with other buckets: a thousand equal empty fields cost a thousand
    comparisons, not a million pairs.
    """

    def __init__(self, bucket_of: Pairs, count: int, image_of: Callable[[int], Image.Image]) -> None:
        order = np.argsort(bucket_of, kind="stable")
        self.rows = order
        self.starts = np.searchsorted(bucket_of[order], np.arange(count + 1))
        self.image_of = image_of
        self._leaders: dict[int, list[int]] = {}
        self._thumbnails: dict[int, NDArray[np.float32]] = {}

    def shared(self) -> list[int]:
        shared: list[int] = np.flatnonzero(np.diff(self.starts) > 1).tolist()
        return shared

    def within(self, bucket: int) -> list[NearPair]:
        rows = self._all(bucket)
        if len(rows) <= _SMALL_BUCKET:
            pairs = (self._compare(a, b, 0) for a, b in combinations(rows, 2))
            return [pair for pair in pairs if pair]
        leaders: list[int] = []
        found: list[NearPair] = []
        for row in rows:
            match = next((pair for leader in leaders if (pair := self._compare(leader, row, 0))), None)
            if match is None:
                leaders.append(row)
            else:
                found.append(match)
        self._leaders[bucket] = leaders
        return found

    def between(self, first: int, second: int, distance: int) -> list[NearPair]:
        pairs = (self._compare(a, b, distance) for a in self._compared(first) for b in self._compared(second))
        return [pair for pair in pairs if pair]

    def _all(self, bucket: int) -> list[int]:
        rows: list[int] = self.rows[self.starts[bucket] : self.starts[bucket + 1]].tolist()
        return rows

    def _compared(self, bucket: int) -> list[int]:
        return self._leaders.get(bucket) or self._all(bucket)

    def _compare(self, a: int, b: int, distance: int) -> NearPair | None:
        agreement = correlation(self._thumbnail(a), self._thumbnail(b))
        if agreement < MIN_CORRELATION:
            return None
        return NearPair(min(a, b), max(a, b), distance, round(agreement, 3))

    def _thumbnail(self, row: int) -> NDArray[np.float32]:
        if row not in self._thumbnails:
            if len(self._thumbnails) == _KEPT_THUMBNAILS:
                self._thumbnails.clear()
            self._thumbnails[row] = thumbnail(self.image_of(row))
        return self._thumbnails[row]


def thumbnail(image: Image.Image) -> NDArray[np.float32]:
    """A 32 x 32 x 3 copy of an image as a vector of unit length, each channel centred; zero for a flat image."""
    small = np.asarray(image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BILINEAR), np.float32)
    centred = (small - small.mean((0, 1))).ravel()
    length = float(np.linalg.norm(centred))
    return centred / length if length > _FLAT else np.zeros_like(centred)


def correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Pearson correlation of two thumbnails over pixels and channels; 1.0 for two flat images."""
    return float(a @ b) if a.any() or b.any() else 1.0


def join_groups(groups: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Each row's final group: `groups` (N,) joined wherever a pair of rows is a duplicate, named by its first name."""
    names, members = np.unique(np.array(groups, object), return_inverse=True)
    ends = members[np.asarray(pairs, np.int64).reshape(-1, 2)]
    links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names), len(names)))
    _, component = connected_components(links, directed=False)
    first = np.full(component.max(initial=-1) + 1, len(names))
    np.minimum.at(first, component, np.arange(len(names)))
    joined: list[str] = names[first[component[members]]].tolist()
    return joined
