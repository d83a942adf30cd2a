"""Every pair of near hashes is found, in every orientation, once."""

import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from numpy.typing import NDArray

from celluscan_hf.curation import hash_search
from celluscan_hf.curation.hash_masks import covering_masks
from celluscan_hf.curation.hash_search import MAX_DISTANCE, Runner, SearchTask, pairs_within
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


def found_pairs(hashes: NDArray[np.uint64], folder: Path, run: Runner = map) -> Pairs:
    pairs: Pairs = {}
    for block in pairs_within(hashes, folder, run):
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


def backwards(function: Callable[[SearchTask], int], tasks: Iterable[SearchTask]) -> Iterator[int]:
    """Run tasks as another process would, the last one first."""
    for task in reversed(list(tasks)):
        yield function(pickle.loads(pickle.dumps(task)))


def test_all_pairs_are_found_in_every_orientation(tmp_path: Path) -> None:
    hashes = clustered_hashes(0, 1_200)
    expected = all_pairs(hashes)
    assert min(sum(name == orientation.name for name, *_ in expected) for orientation in ORIENTATIONS) > 100
    assert found_pairs(hashes, tmp_path) == expected


def test_all_pairs_are_found_where_arrays_are_cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = clustered_hashes(2, 200)
    for name, size in {"_CHUNK": 300, "_CANDIDATES": 50, "_MASKS": 3}.items():
        monkeypatch.setattr(hash_search, name, size)
    expected = all_pairs(hashes)
    assert len(expected) > 200
    assert found_pairs(hashes, tmp_path) == expected


@pytest.mark.parametrize(("sorted_at_a_time", "per_task"), [(2**27, 10**5), (240, 2**29), (100, 20_000)])
def test_pairs_and_their_order_do_not_depend_on_the_partitions_or_who_ends_first(
    sorted_at_a_time: int, per_task: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hashes = clustered_hashes(3, 60)
    whole = list(found_pairs(hashes, tmp_path / "whole").items())
    monkeypatch.setattr(hash_search, "SORTED_KEYS", sorted_at_a_time)
    monkeypatch.setattr(hash_search, "_TASK_KEYS", per_task)
    assert len(hash_search.search_tasks(hashes, tmp_path)) > 1
    assert len(whole) > 50
    assert list(found_pairs(hashes, tmp_path, backwards).items()) == whole


def test_an_interrupted_search_goes_on_with_the_tasks_that_are_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hashes = clustered_hashes(4, 100)
    monkeypatch.setattr(hash_search, "_TASK_KEYS", 10**5)
    tasks = hash_search.search_tasks(hashes, tmp_path)

    def killed(function: Callable[[SearchTask], int], pending: Iterable[SearchTask]) -> Iterator[int]:
        yield from map(function, list(pending)[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        found_pairs(hashes, tmp_path, killed)
    run: list[SearchTask] = []

    def recorded(function: Callable[[SearchTask], int], pending: Iterable[SearchTask]) -> Iterator[int]:
        return map(function, (run.append(task) or task for task in pending))

    assert found_pairs(hashes, tmp_path, recorded) == all_pairs(hashes)
    assert run == tasks[2:] != []


def test_a_task_that_is_killed_while_it_writes_is_run_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = clustered_hashes(5, 40)

    def killed(file: IO[bytes], pairs: NDArray[np.void]) -> None:
        file.write(b"\x93NUMPY")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "save", killed)
        found_pairs(hashes, tmp_path)
    assert found_pairs(hashes, tmp_path) == all_pairs(hashes)


def test_pairs_of_other_hashes_in_the_folder_are_not_taken(tmp_path: Path) -> None:
    assert len(found_pairs(upright(5, 4), tmp_path)) == 1
    assert found_pairs(upright(5, 2**60 - 1), tmp_path) == {}


def test_many_hashes_that_agree_under_a_mask_are_all_compared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = upright(*(number << 42 for number in range(200)))
    monkeypatch.setattr(hash_search, "_CANDIDATES", 100)
    monkeypatch.setattr(hash_search, "_CHUNK", 50)
    assert found_pairs(hashes, tmp_path) == all_pairs(hashes)


def test_a_part_with_more_than_its_share_of_keys_is_searched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hashes = np.full((64, 8), 2**40, np.uint64)
    hashes[:, 7] += np.arange(64, dtype=np.uint64)
    monkeypatch.setattr(hash_search, "SORTED_KEYS", 100)
    assert found_pairs(hashes, tmp_path) == all_pairs(hashes)


def test_equal_keys_are_in_one_part_though_an_edge_lies_between_their_positions() -> None:
    hashes = np.full((8, 2), 2**40 + 12_345, np.uint64)
    mask = covering_masks()[0]
    key = int(hash_search.SortedKeys(hashes, 0, 1).under(mask)[0]) >> 4 << 4  # without the position, of 4 bits
    sizes = [len(hash_search.SortedKeys(hashes, part, 2**61).under(mask)) for part in (key // 8, key // 8 + 1)]
    assert sizes == [16, 0]


def test_eight_bits_are_near_wherever_they_lie_and_nine_are_not(tmp_path: Path) -> None:
    cases = [range(8), range(56, 64), [0, 1, 2, 21, 22, 42, 43, 63], [0, 63, 20, 21, 41, 42, 62, 10]]
    centres = np.random.default_rng(1).integers(0, 2**64, len(cases), np.uint64).tolist()
    values, expected = [], {}
    for centre, bits in zip(centres, map(list, cases), strict=True):
        ninth = next(bit for bit in range(64) if bit not in bits)
        expected["upright", len(values), len(values) + 1] = 8
        expected["upright", len(values) + 1, len(values) + 2] = 1
        values += [centre, flipped(centre, bits), flipped(centre, [*bits, ninth])]
    assert found_pairs(upright(*values), tmp_path) == expected


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_hashes_have_no_pairs(count: int, tmp_path: Path) -> None:
    assert found_pairs(upright(*range(count)), tmp_path) == {}


def test_progress_counts_every_hash_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hash_search, "_TASK_KEYS", 10**5)
    advances: list[int] = []
    list(pairs_within(clustered_hashes(1, 100), tmp_path, progress=advances.append))
    assert len(advances) > 2
    assert sum(advances) == 100
