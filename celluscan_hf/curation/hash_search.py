"""All pairs of perceptual hashes within 8 bits of each other, in all eight orientations.

The search is exact: if two hashes differ in at most 8 bits, one of their three blocks of 21 bits differs in at most two
(pigeonhole), so looking up all blocks with up to two flipped bits misses none (multi-index hashing, Norouzi et al.,
CVPR 2012). Hashes are looked up in the order of their blocks, so that neighbours read the same parts of the table.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .orientation import ORIENTATIONS, Orientation

MAX_DISTANCE = 8  # bits
_BLOCK_BITS, _FLIPS = 21, 2
_SHIFTS = (0, 21, 42)  # without the highest bit: it belongs to the mean, which hardly ever differs
_BLOCK = np.uint64(2**_BLOCK_BITS - 1)
_QUERIES = 32_768  # hashes looked up at a time: their arrays stay in the processor's cache
_CANDIDATES = 2_000_000  # compared at a time: bounds memory where many hashes share a block

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


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


def pairs_within(hashes: Hashes, progress: Callable[[int], object] = lambda done: None) -> Iterator[HashPairs]:
    """Find all pairs of images within `MAX_DISTANCE` bits in any orientation, each once per orientation.

    `hashes` (N, 8) are those of `perceptual_hashes`, all rows distinct. `progress` gets the number of images looked up
    since its last call, N in all.
    """
    tables = [_Table(hashes[:, 0], shift) for shift in _SHIFTS]
    steps = [(number, table) for number in range(len(ORIENTATIONS)) for table in tables]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (number, table) in enumerate(steps):
            for first, second, distance in _block_pairs(hashes[:, number], table, pool):
                kept = _is_canonical(hashes, number, first, second)
                if kept.any():
                    yield HashPairs(ORIENTATIONS[number], first[kept], second[kept], distance[kept])
            progress(len(hashes) * (done + 1) // len(steps) - len(hashes) * done // len(steps))


def _is_canonical(hashes: Hashes, number: int, first: Integers, second: Integers) -> NDArray[np.bool_]:
    """Flag the pairs to keep, (P,): of a pair and its inverse (`second` first), the one with the lower `first`.

    Medians differ slightly between orientations, so a pair may be near in one direction only; then that one is kept.
    """
    back = ORIENTATIONS.index(ORIENTATIONS[number].inverse)
    inverse_near = np.bitwise_count(hashes[second, back] ^ hashes[first, 0]) <= MAX_DISTANCE
    same_image = first == second
    kept: NDArray[np.bool_] = (first < second) | ~(inverse_near | same_image) | (same_image & (number > 0))
    return kept


class _Table:
    """Hashes sorted by one block of their bits; those with a block begin at `starts[block]`."""

    def __init__(self, hashes: Hashes, shift: int) -> None:
        self.shift = shift
        blocks = self.blocks(hashes)
        self.order = np.argsort(blocks, kind="stable")
        self.hashes = hashes[self.order]
        counts = np.bincount(blocks, minlength=2**_BLOCK_BITS)
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def blocks(self, hashes: Hashes) -> Integers:
        return ((hashes >> np.uint64(self.shift)) & _BLOCK).astype(np.int64)


def _block_pairs(queries: Hashes, table: _Table, pool: Executor) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Yield queries, matches and distances of pairs that are near in the block of `table` and in no earlier one."""
    order = np.argsort(table.blocks(queries), kind="stable")
    batches = np.split(order, range(_QUERIES, len(order), _QUERIES))
    for matches in pool.map(lambda batch: list(_matches(batch, queries[batch], table)), batches):
        yield from matches


def _matches(batch: Integers, queries: Hashes, table: _Table) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Yield positions of a batch of queries, their matches and distances."""
    blocks = table.blocks(queries)
    for flipped in _flips():
        probes = blocks ^ flipped
        starts = table.starts[probes]
        for query, position in _candidates(starts, table.starts[probes + 1] - starts):
            differing = queries[query] ^ table.hashes[position]
            near = np.flatnonzero(np.bitwise_count(differing) <= MAX_DISTANCE)
            near = near[~_found_earlier(differing[near], table.shift)]
            if len(near):
                distance = np.bitwise_count(differing[near]).astype(np.int64)
                yield batch[query[near]], table.order[position[near]], distance


def _flips() -> list[int]:
    """Return the masks that flip up to two bits of a block."""
    bits = [1 << bit for bit in range(_BLOCK_BITS)]
    return [0, *(sum(chosen) for count in range(1, _FLIPS + 1) for chosen in combinations(bits, count))]


def _candidates(starts: Integers, counts: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yield each query with each table position of its bucket, about `_CANDIDATES` at a time."""
    filled = np.flatnonzero(counts)
    ends = np.cumsum(counts[filled], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, range(_CANDIDATES, total, _CANDIDATES))
    for part in np.split(filled, cuts):
        lengths = counts[part]
        before = np.cumsum(lengths, dtype=np.int64) - lengths
        yield np.repeat(part, lengths), np.arange(lengths.sum()) + np.repeat(starts[part] - before, lengths)


def _found_earlier(differing: Hashes, shift: int) -> NDArray[np.bool_]:
    """Whether a block before the one at `shift` differs in at most two bits too, so that the pair was found there."""
    is_found = np.zeros(len(differing), bool)
    for earlier in _SHIFTS[: _SHIFTS.index(shift)]:
        is_found |= np.bitwise_count((differing >> np.uint64(earlier)) & _BLOCK) <= _FLIPS
    return is_found
