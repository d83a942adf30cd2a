"""All pairs of perceptual hashes within 8 bits of each other, in all eight orientations.

The search is exact: two hashes within 8 bits agree in all bits of at least one of 511 masks (`hash_masks`). For each
mask, the hashes of all orientations are sorted by their bits under it, and those that agree are compared. A task has
some of the masks and a part of the range of keys. Tasks share only a folder, so any engine can run them, in any order:
each reads the hashes from there, memory-mapped, and writes its pairs there atomically.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray

from ..atomic_io import atomic_write
from .hash_masks import MAX_DISTANCE, covering_masks
from .orientation import ORIENTATIONS, Orientation

SORTED_KEYS = 2**27  # keys sorted at a time: 1 GiB
_TASK_KEYS = 2**28  # keys sorted by a task: some seconds
_CHUNK = 2**17  # keys made or compared at a time: they stay in the processor's cache
_CANDIDATES = 2**18  # compared at a time: bounds memory where many hashes agree
_MASKS = 16  # compared at a time with the pairs that an earlier mask may have found
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # spreads the bits under a mask over the highest ones (Knuth, TAOCP 3, 6.4)
_INVERSE = np.array([ORIENTATIONS.index(orientation.inverse) for orientation in ORIENTATIONS])
_HASHES = "hashes.npy"
_PAIR = np.dtype([("orientation", np.uint8), ("distance", np.uint8), ("first", np.int64), ("second", np.int64)])

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]
Pairs = NDArray[np.void]


@dataclass(frozen=True)
class HashPairs:
    """Positions of images `first` and `second`, (P,) each, and the distance of their hashes in bits.

    The hash of `first` in `orientation` is within `MAX_DISTANCE` bits of the upright hash of `second`. An image that is
    near its own flipped copy is paired with itself.
    """

    orientation: Orientation
    first: Integers
    second: Integers
    distance: Integers


@dataclass(frozen=True)
class SearchTask:
    """Search for the pairs of the hashes in `folder` under some `masks`, in one of `parts` of the range of keys."""

    folder: Path
    masks: range
    part: int
    parts: int

    @property
    def path(self) -> Path:
        """The file of the pairs."""
        return self.folder / f"pairs-{self.masks.start:03}-{self.masks.stop:03}-{self.part:05}-{self.parts:05}.npy"


Runner = Callable[[Callable[[SearchTask], int], Iterable[SearchTask]], Iterable[int]]


def pairs_within(
    hashes: Hashes, folder: Path, run: Runner = map, progress: Callable[[int], object] = lambda done: None
) -> Iterator[HashPairs]:
    """Find all pairs of images within `MAX_DISTANCE` bits in any orientation, each once per orientation.

    `hashes` (N, 8) are those of `perceptual_hashes`, all rows distinct. `run` runs the tasks and yields their results
    as they finish; whatever it is, the pairs are the same, sorted by orientation, `first` and `second`. Tasks whose
    pairs are in `folder` from an earlier search of the same hashes are not run again. `progress` gets the number of
    images searched since its last call, N in all.
    """
    if not len(hashes):
        return
    tasks = search_tasks(hashes, folder)
    pending = [task for task in tasks if not task.path.exists()]
    done = len(tasks) - len(pending)
    progress(len(hashes) * done // len(tasks))
    for _ in run(search, pending):
        done += 1
        progress(len(hashes) * done // len(tasks) - len(hashes) * (done - 1) // len(tasks))
    yield from _merged([np.load(task.path, mmap_mode="r") for task in tasks])


def search_tasks(hashes: Hashes, folder: Path) -> list[SearchTask]:
    """Write `hashes` (N, 8) to a folder of their own below `folder`, and divide their search into tasks."""
    folder = folder / xxhash.xxh3_64_hexdigest(np.ascontiguousarray(hashes).data)
    if not (folder / _HASHES).exists():
        # written, not mapped for writing: if the disk is full, that is an error and not the end of the process
        with atomic_write(folder / _HASHES) as partial, open(partial, "wb") as file:
            header = {"descr": "<u8", "fortran_order": False, "shape": hashes.T.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for number in range(len(ORIENTATIONS)):
                file.write(np.ascontiguousarray(hashes[:, number]).data)
    masks = len(covering_masks())
    parts = -(-hashes.size // SORTED_KEYS)
    groups = min(masks, -(-hashes.size * masks // (parts * _TASK_KEYS)))
    edges = [masks * group // groups for group in range(groups + 1)]
    ranges = [range(start, stop) for start, stop in pairwise(edges)]
    return [SearchTask(folder, masks, part, parts) for masks in ranges for part in range(parts)]


def search(task: SearchTask) -> int:
    """Write the pairs of a task, and return their number. A pair belongs to the first mask under which it agrees."""
    hashes = np.asarray(np.load(task.folder / _HASHES, mmap_mode="r"))  # (8, N)
    masks = covering_masks()
    keys = SortedKeys(hashes, task.part, task.parts)
    found = [np.empty(0, _PAIR)]
    for number in task.masks:
        for pairs, differing in _near(hashes, keys.under(masks[number]), keys.positions):
            found.append(pairs[~_agree_under_any(differing, masks[:number])])
    pairs = np.concatenate(found)
    with atomic_write(task.path) as partial, open(partial, "wb") as file:
        np.save(file, pairs)
    return len(pairs)


class SortedKeys:
    """Keys of hashes (8, N) in one of `parts` of their range, sorted in one array that is used again for each mask.

    The highest bits of a key depend on the bits of a hash under a mask; equal bits give equal keys. The lowest bits,
    those in `positions`, are the position of the hash in the flattened `hashes`.
    """

    def __init__(self, hashes: Hashes, part: int, parts: int) -> None:
        self.hashes, self.parts = hashes.reshape(-1), parts
        self.positions = np.uint64(2 ** int(hashes.size - 1).bit_length() - 1)
        self.first, self.last = (np.uint64(edge) for edge in (2**64 * part // parts, 2**64 * (part + 1) // parts - 1))
        self.keys = np.empty(hashes.size // parts, np.uint64)

    def under(self, mask: np.uint64) -> Hashes:
        """Return the sorted keys under a mask, valid until the next call."""
        count = 0
        for start in range(0, len(self.hashes), _CHUNK):
            keys = (self.hashes[start : start + _CHUNK] & mask) * _MULTIPLIER & ~self.positions
            places = np.arange(start, start + len(keys), dtype=np.uint64)
            if self.parts > 1:
                is_here = (keys >= self.first) & (keys <= self.last)
                keys, places = keys[is_here], places[is_here]
            if count + len(keys) > len(self.keys):  # this part has more than its share
                self.keys = np.concatenate([self.keys, np.empty(len(self.keys) // 4 + len(keys), np.uint64)])
            np.bitwise_or(keys, places, out=self.keys[count : count + len(keys)])
            count += len(keys)
        keys = self.keys[:count]
        keys.sort()
        return keys


def _near(hashes: Hashes, keys: Hashes, positions: np.uint64) -> Iterator[tuple[Pairs, Hashes]]:
    """Yield the pairs within `MAX_DISTANCE` bits among hashes with equal keys, and their differing bits."""
    flat, count = hashes.reshape(-1), hashes.shape[1]
    for places, upright in _candidates(keys, positions, count):
        differing = flat[places] ^ flat[upright]
        near = np.flatnonzero(np.bitwise_count(differing) <= MAX_DISTANCE)
        if len(near):
            differing = differing[near]
            pairs = _pairs(places[near], upright[near], np.bitwise_count(differing), count)
            kept = _is_canonical(flat, pairs, count)
            yield pairs[kept], differing[kept]


def _candidates(keys: Hashes, positions: np.uint64, count: int) -> Iterator[tuple[Integers, Integers]]:
    """Yield the positions of hashes, and of upright ones before them that have equal keys."""
    cuts = np.searchsorted(keys, keys[_CHUNK::_CHUNK] | positions, side="right")  # where a run of equal keys ends
    for start, stop in pairwise([0, *np.unique(cuts), len(keys)]):
        chunk = keys[start:stop]
        repeated = np.flatnonzero((chunk[1:] ^ chunk[:-1]) <= positions) + 1
        is_second = np.diff(repeated, prepend=-1) > 1  # the second of a run of equal keys
        first = (repeated[is_second] - 1)[np.cumsum(is_second) - 1]
        follows_upright = (chunk[first] & positions) < count  # upright hashes have the lowest positions
        repeated, first = repeated[follows_upright], first[follows_upright]
        places = (chunk & positions).astype(np.int64)
        for number, other in _expanded(first, _upright_before(places[repeated] < count, first)):
            yield places[repeated[number]], places[other]


def _upright_before(is_upright: NDArray[np.bool_], first: Integers) -> Integers:
    """Count the upright hashes before each one in its run of equal keys, (R,), of runs that begin with an upright one.

    `is_upright` (R,) flags the hashes after the first of each run, and `first` (R,) has the position of that first one.
    """
    before: Integers = np.cumsum(is_upright) - is_upright
    begins = np.flatnonzero(np.diff(first, prepend=-1))
    counts: Integers = 1 + before - np.repeat(before[begins], np.diff(begins, append=len(first)))
    return counts


def _expanded(first: Integers, counts: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yield each number `i` with `counts[i]` positions from `first[i]` on, about `_CANDIDATES` at a time."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    for part in np.split(np.arange(len(counts)), np.searchsorted(ends, range(_CANDIDATES, total, _CANDIDATES))):
        lengths = counts[part]
        before = np.cumsum(lengths) - lengths
        yield np.repeat(part, lengths), np.arange(lengths.sum()) + np.repeat(first[part] - before, lengths)


def _pairs(places: Integers, upright: Integers, distance: NDArray[np.uint8], count: int) -> Pairs:
    """Name the pairs of hashes by their images, (P,); of two upright hashes the lower one is `first`."""
    pairs = np.empty(len(places), _PAIR)
    rows = places % count
    is_upright = places < count
    pairs["orientation"], pairs["distance"] = places // count, distance
    pairs["first"] = np.where(is_upright, upright, rows)
    pairs["second"] = np.where(is_upright, rows, upright)
    return pairs


def _is_canonical(flat: Hashes, pairs: Pairs, count: int) -> NDArray[np.bool_]:
    """Flag the pairs to keep, (P,): of a pair and its inverse (`second` first), the one with the lower `first`.

    Medians differ slightly between orientations, so a pair may be near in one direction only; then that one is kept.
    """
    first, second = pairs["first"], pairs["second"]
    back = flat[_INVERSE[pairs["orientation"]] * count + second]
    inverse_near = np.bitwise_count(back ^ flat[first]) <= MAX_DISTANCE
    kept: NDArray[np.bool_] = (first <= second) | ~inverse_near
    return kept


def _agree_under_any(differing: Hashes, masks: Hashes) -> NDArray[np.bool_]:
    """Whether hashes with these differing bits agree in all bits of any mask, (P,)."""
    agree = np.zeros(len(differing), bool)
    for start in range(0, len(masks), _MASKS):
        rest = np.flatnonzero(~agree)
        if not len(rest):
            break
        agree[rest] = (differing[rest, None] & masks[start : start + _MASKS] == 0).any(axis=1)
    return agree


def _merged(found: list[Pairs]) -> Iterator[HashPairs]:
    """Sort the pairs of all tasks, one orientation at a time."""
    for number, orientation in enumerate(ORIENTATIONS):
        pairs = np.concatenate([part[part["orientation"] == number] for part in found])
        pairs = pairs[np.lexsort((pairs["second"], pairs["first"]))]
        if len(pairs):
            yield HashPairs(orientation, pairs["first"], pairs["second"], pairs["distance"].astype(np.int64))
