"""Every pair of near hashes is found, in every orientation, once."""

import numpy as np
import pytest
from numpy.typing import NDArray

from celluscan_hf.curation import hash_search
from celluscan_hf.curation.hash_search import MAX_DISTANCE, pairs_within
from celluscan_hf.curation.orientation import ORIENTATIONS, UPRIGHT

Pairs = dict[tuple[str, int, int], int]


def flipped(value: int, bits: list[int]) -> int:
    return value ^ sum(1 << int(bit) for bit in bits)


def clustered_hashes(seed: int, count: int) -> NDArray[np.uint64]:
    """Distinct rows of eight hashes, each from 0 to 6 bits away from one of a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.integers(0, 2**64, count // 20, np.uint64, endpoint=False).tolist()
    chosen = rng.choice(np.array(centres, object), (count, 8)).ravel()
    values = [flipped(centre, rng.choice(64, rng.integers(0, 7), replace=False)) for centre in chosen]
    return np.unique(np.array(values, np.uint64).reshape(count, 8), axis=0)


def upright(*values: int) -> NDArray[np.uint64]:
    """Rows whose other orientations are far from all."""
    others = np.random.default_rng(0).integers(0, 2**64, (len(values), 7), np.uint64)
    return np.concatenate([np.array(values, np.uint64)[:, None], others], axis=1)


def found_pairs(hashes: NDArray[np.uint64]) -> Pairs:
    pairs: Pairs = {}
    for block in pairs_within(hashes):
        for first, second, distance in zip(block.first, block.second, block.distance, strict=True):
            key = (block.orientation.name, int(first), int(second))
            assert key not in pairs, "a pair was given twice"
            pairs[key] = int(distance)
    return pairs


def all_pairs(hashes: NDArray[np.uint64]) -> Pairs:
    """Compare every hash with every other; a pair near in both directions is named from its lower row."""
    directed: Pairs = {}
    for number, orientation in enumerate(ORIENTATIONS):
        distances = np.bitwise_count(hashes[:, None, number] ^ hashes[None, :, 0])
        for first, second in zip(*np.nonzero(distances <= MAX_DISTANCE), strict=True):
            if first != second or orientation is not UPRIGHT:
                directed[orientation.name, int(first), int(second)] = int(distances[first, second])
    inverse = {orientation.name: orientation.inverse.name for orientation in ORIENTATIONS}
    return {
        (name, first, second): distance
        for (name, first, second), distance in directed.items()
        if first <= second or (inverse[name], second, first) not in directed
    }


def test_all_pairs_are_found_in_every_orientation() -> None:
    hashes = clustered_hashes(0, 1_200)
    expected = all_pairs(hashes)
    assert min(sum(name == orientation.name for name, *_ in expected) for orientation in ORIENTATIONS) > 100
    assert found_pairs(hashes) == expected


def test_all_pairs_are_found_where_arrays_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = clustered_hashes(2, 200)
    monkeypatch.setattr(hash_search, "_QUERIES", 77)
    monkeypatch.setattr(hash_search, "_CANDIDATES", 5)
    expected = all_pairs(hashes)
    assert len(expected) > 200
    assert found_pairs(hashes) == expected


def test_many_hashes_in_one_block_are_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = upright(*(number << 42 for number in range(200)))  # the two lower blocks are equal
    monkeypatch.setattr(hash_search, "_CANDIDATES", 100)
    assert found_pairs(hashes) == all_pairs(hashes)


def test_eight_bits_are_near_wherever_they_lie_and_nine_are_not() -> None:
    cases = [range(8), range(56, 64), [0, 1, 2, 21, 22, 42, 43, 63], [0, 63, 20, 21, 41, 42, 62, 10]]
    centres = np.random.default_rng(1).integers(0, 2**64, len(cases), np.uint64).tolist()
    values, expected = [], {}
    for centre, bits in zip(centres, map(list, cases), strict=True):
        ninth = next(bit for bit in range(64) if bit not in bits)
        expected["upright", len(values), len(values) + 1] = 8
        expected["upright", len(values) + 1, len(values) + 2] = 1
        values += [centre, flipped(centre, bits), flipped(centre, [*bits, ninth])]
    assert found_pairs(upright(*values)) == expected


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_hashes_have_no_pairs(count: int) -> None:
    assert found_pairs(upright(*range(count))) == {}


def test_progress_counts_every_hash_once() -> None:
    advances: list[int] = []
    list(pairs_within(clustered_hashes(1, 100), advances.append))
    assert sum(advances) == 100
