"""All pairs of perceptual hashes within some bits of each other, in all eight orientations.

The search is exact: of three blocks of 21 bits, two hashes within 8 bits agree in one up to two bits (pigeonhole), so
looking up all blocks with up to two flipped bits misses none (multi-index hashing, Norouzi et al., CVPR 2012). Hashes
are looked up in the order of their blocks, so that neighbours read the same parts of the table.
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
_SHIFTS = (0, 21, 42)  # the highest bit stays out: it is that of the mean, which hardly ever differs
_BLOCK = np.uint64(2**_BLOCK_BITS - 1)
_QUERIES = 32_768  # hashes looked up at a time: their arrays stay in the processor's cache
_CANDIDATES = 2_000_000  # compared at a time: bounds memory where many hashes share a block

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class HashPairs:
    """Images `first` and `second`, (P,) each, by position, and the bits between their hashes.

    The hash of `first` turned by `orientation` is within `MAX_DISTANCE` bits of the upright hash of `second`. An image
    may be near its own mirror image: then both are one.
    """

    orientation: Orientation
    first: Integers
    second: Integers
    distance: Integers


def pairs_within(hashes: Hashes, progress: Callable[[int], object] = lambda done: None) -> Iterator[HashPairs]:
    """All pairs of images within `MAX_DISTANCE` bits in any orientation; each pair once for an orientation.

    `hashes` (N, 8) are those of `perceptual_hashes`, all rows distinct. `progress` is told how many images were looked
    up since it was last told; in the end that is N.
    """
    tables = [_Table(hashes[:, 0], shift) for shift in _SHIFTS]
    steps = [(number, table) for number in range(len(ORIENTATIONS)) for table in tables]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, (number, table) in enumerate(steps):
            for first, second, distance in _pairs_of(hashes[:, number], table, pool):
                once = _once(hashes, number, first, second)
                if once.any():
                    yield HashPairs(ORIENTATIONS[number], first[once], second[once], distance[once])
            progress(len(hashes) * (done + 1) // len(steps) - len(hashes) * done // len(steps))


def _once(hashes: Hashes, number: int, first: Integers, second: Integers) -> NDArray[np.bool_]:
    """Which pairs count: of the two ways to see one (`first` turned, `second` turned back), that with `first` lower.

    Medians differ a little between orientations, so a pair may be near in one way alone: then that one counts.
    """
    back = ORIENTATIONS.index(ORIENTATIONS[number].inverse)
    other_way = np.bitwise_count(hashes[second, back] ^ hashes[first, 0]) <= MAX_DISTANCE
    own = first == second
    once: NDArray[np.bool_] = (first < second) | ~(other_way | own) | (own & (number > 0))
    return once


class _Table:
    """Hashes sorted by one block of their bits; `starts[block]` is where those with a block begin."""

    def __init__(self, hashes: Hashes, shift: int) -> None:
        self.shift = shift
        blocks = self.blocks(hashes)
        self.order = np.argsort(blocks, kind="stable")
        self.hashes = hashes[self.order]
        counts = np.bincount(blocks, minlength=2**_BLOCK_BITS)
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)

    def blocks(self, hashes: Hashes) -> Integers:
        return ((hashes >> np.uint64(self.shift)) & _BLOCK).astype(np.int64)


def _pairs_of(turned: Hashes, table: _Table, pool: Executor) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Queries, matches and bits between them of pairs that agree in the block of `table` and in none before it."""
    order = np.argsort(table.blocks(turned), kind="stable")
    batches = np.split(order, range(_QUERIES, len(order), _QUERIES))
    for matches in pool.map(lambda batch: list(_matches(batch, turned, table)), batches):
        yield from matches


def _matches(batch: Integers, turned: Hashes, table: _Table) -> Iterator[tuple[Integers, Integers, Integers]]:
    """Queries of a batch, what each matches, and the bits between them."""
    queries = turned[batch]
    blocks = table.blocks(queries)
    for flipped in _flips():
        probes = blocks ^ flipped
        starts = table.starts[probes]
        for asked, places in _expanded(starts, table.starts[probes + 1] - starts):
            differing = queries[asked] ^ table.hashes[places]
            near = np.flatnonzero(np.bitwise_count(differing) <= MAX_DISTANCE)
            near = near[~_found_before(differing[near], table.shift)]
            if len(near):
                distance = np.bitwise_count(differing[near]).astype(np.int64)
                yield batch[asked[near]], table.order[places[near]], distance


def _flips() -> list[int]:
    """What up to two flipped bits change in a block."""
    bits = [1 << bit for bit in range(_BLOCK_BITS)]
    return [0, *(sum(chosen) for count in range(1, _FLIPS + 1) for chosen in combinations(bits, count))]


def _expanded(starts: Integers, counts: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Each query's number beside each place of its bucket, about `_CANDIDATES` at a time."""
    asked = np.flatnonzero(counts)
    ends = np.cumsum(counts[asked], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, range(_CANDIDATES, total, _CANDIDATES))
    for part in np.split(asked, cuts):
        lengths = counts[part]
        before = np.cumsum(lengths, dtype=np.int64) - lengths
        yield np.repeat(part, lengths), np.arange(lengths.sum()) + np.repeat(starts[part] - before, lengths)


def _found_before(differing: Hashes, shift: int) -> NDArray[np.bool_]:
    """Whether the blocks before that at `shift` agree up to two bits too, so that the pair was found there."""
    before = np.zeros(len(differing), bool)
    for earlier in _SHIFTS[: _SHIFTS.index(shift)]:
        before |= np.bitwise_count((differing >> np.uint64(earlier)) & _BLOCK) <= _FLIPS
    return before
