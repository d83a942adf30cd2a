"""Splits by group: every class in every part, shares that are kept, and nothing that depends on order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from celluscan_hf.curation import splits
from celluscan_hf.curation.splits import SPLIT_SHARES, SPLITS, TIER_SHARES, Groups, assign_groups, seeded_order

CLASSES = 14


def groups_of(rows: list[list[tuple[int, int]]]) -> Groups:
    """Groups from the (class, source) of each row of each group."""
    members = np.repeat(np.arange(len(rows)), [len(group) for group in rows])
    flat = np.array([row for group in rows for row in group], np.int64).reshape(-1, 2)
    names = [f"group-{number:04d}" for number in range(len(rows))]
    return Groups(names, members, flat[:, 0], flat[:, 0] + CLASSES * flat[:, 1])


def single_rows(counts: dict[int, int]) -> Groups:
    return groups_of([[(label, 0)] for label, count in counts.items() for _ in range(count)])


def permuted(groups: Groups, seed: int) -> Groups:
    rng = np.random.default_rng(seed)
    new_of_old = rng.permutation(len(groups.names))
    rows = rng.permutation(len(groups.members))
    names = [groups.names[old] for old in np.argsort(new_of_old)]
    return Groups(names, new_of_old[groups.members][rows], groups.labels[rows], groups.strata[rows])


def by_name(groups: Groups, parts: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(groups.names, parts.tolist(), strict=True))


def absent(
    groups: Groups, parts: NDArray[np.int64], eligible: NDArray[np.bool_], n_parts: int
) -> list[tuple[int, int]]:
    """Each (class, part) without an eligible group, of the classes that have enough of them."""
    missing = []
    for label in np.unique(groups.labels).tolist():
        held = np.unique(groups.members[groups.labels == label])
        held = held[eligible[held]]
        if len(held) >= splits.MIN_GROUPS:
            missing += [(label, part) for part in range(n_parts) if part not in parts[held]]
    return missing


ROW = st.tuples(st.integers(0, 3), st.integers(0, 2))
ANY_GROUPS = st.lists(st.lists(ROW, min_size=1, max_size=8), min_size=1, max_size=60)
ONE_CLASS_GROUPS = st.lists(
    st.builds(lambda row, count: [row] * count, ROW, st.sampled_from([1, 1, 2, 5, 40])), min_size=10, max_size=60
)
LARGE_GROUPS = st.lists(
    st.lists(st.tuples(st.integers(0, 13), st.integers(0, 4)), min_size=10, max_size=80), min_size=1, max_size=12
)
SINGLE_ROWS = st.lists(ROW.map(lambda row: [row]), min_size=10, max_size=80)


@settings(max_examples=120, deadline=None)
@given(
    rows=st.one_of(ANY_GROUPS, ONE_CLASS_GROUPS, SINGLE_ROWS),
    seed=st.integers(0, 9),
    shares=st.sampled_from([SPLIT_SHARES, TIER_SHARES]),
)
def test_every_class_of_enough_groups_is_in_every_part(
    rows: list[list[tuple[int, int]]], seed: int, shares: tuple[float, ...]
) -> None:
    groups = groups_of(rows)
    parts = assign_groups(groups, shares, seed)
    assert parts.shape == (len(rows),) and set(parts.tolist()) <= {0, 1, 2}
    assert absent(groups, parts, np.ones(len(rows), bool), len(shares)) == []


@settings(max_examples=60, deadline=None)
@given(rows=st.one_of(ANY_GROUPS, ONE_CLASS_GROUPS), eligible_share=st.floats(0, 1), seed=st.integers(0, 9))
def test_eligible_groups_fill_every_part_and_others_get_the_first(
    rows: list[list[tuple[int, int]]], eligible_share: float, seed: int
) -> None:
    groups = groups_of(rows)
    eligible = np.random.default_rng(seed).random(len(rows)) < eligible_share
    parts = assign_groups(groups, SPLIT_SHARES, 42, eligible)
    assert absent(groups, parts, eligible, 3) == []
    assert not parts[~eligible].any()


def assigned_one_by_one(groups: Groups, shares: tuple[float, ...], seed: int) -> NDArray[np.int64]:
    """The rule itself, without moves: group by group, with arrays of all counts."""
    cells = groups.strata.max(initial=-1) + 1
    columns = np.stack([groups.strata, cells + groups.labels], axis=1)
    totals = np.bincount(columns.ravel(), minlength=int(columns.max(initial=0)) + 1)
    weight, missing = 1.0 / np.sqrt(np.maximum(totals, 1)), np.outer(shares, totals)
    order = seeded_order(groups.names, seed)
    sizes = np.bincount(groups.members, minlength=len(groups.names))
    parts = np.zeros(len(groups.names), np.int64)
    for group in order[np.argsort(-sizes[order], kind="stable")]:
        own, counts = np.unique(columns[groups.members == group], return_counts=True)
        change = counts * (counts - 2 * missing[:, own]) * weight[own]
        parts[group] = change.sum(axis=1).argmin()
        missing[parts[group], own] -= counts
    return parts


@settings(max_examples=150, deadline=None)
@given(
    rows=st.one_of(ANY_GROUPS, ONE_CLASS_GROUPS, SINGLE_ROWS, LARGE_GROUPS),
    seed=st.integers(0, 99),
    shares=st.sampled_from([SPLIT_SHARES, TIER_SHARES]),
    batch=st.sampled_from([3, 50, 65_536]),
)
def test_each_group_goes_where_it_most_reduces_the_distance(
    rows: list[list[tuple[int, int]]], seed: int, shares: tuple[float, ...], batch: int
) -> None:
    groups = groups_of(rows)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(splits, "BATCH", batch)
        patched.setattr(splits, "MIN_GROUPS", 1_000)  # moves nothing
        assert np.array_equal(assign_groups(groups, shares, seed), assigned_one_by_one(groups, shares, seed))


def test_groups_that_are_not_eligible_count_nowhere() -> None:
    few, more = [[(label, 0)] for label in (0, 1) for _ in range(40)], [[(0, 0)]] * 50
    eligible = np.arange(130) < 80
    with_more = assign_groups(groups_of(few + more), SPLIT_SHARES, 42, eligible)
    assert np.array_equal(with_more[:80], assign_groups(groups_of(few), SPLIT_SHARES, 42))


def test_a_class_of_the_least_number_of_groups_is_in_every_part() -> None:
    groups = single_rows({0: splits.MIN_GROUPS, 1: 500})
    assert set(assign_groups(groups, SPLIT_SHARES, 42)[: splits.MIN_GROUPS].tolist()) == {0, 1, 2}


def test_a_class_in_one_large_and_nine_small_groups_is_in_every_part() -> None:
    groups = groups_of([[(0, 0)] * 1_000] + [[(0, 0)]] * 9)
    assert set(assign_groups(groups, SPLIT_SHARES, 42).tolist()) == {0, 1, 2}


def test_a_class_of_one_group_is_trained_on() -> None:
    assert assign_groups(single_rows({0: 200, 5: 1}), SPLIT_SHARES, 42)[-1] == SPLITS.index("train")


@pytest.mark.parametrize("shares", [SPLIT_SHARES, TIER_SHARES])
@pytest.mark.parametrize("counts", [{0: 1_000, 1: 300, 2: 97}, {0: 20, 3: 2_000}])
def test_the_shares_of_every_class_are_kept(counts: dict[int, int], shares: tuple[float, ...]) -> None:
    groups = single_rows(counts)
    parts = assign_groups(groups, shares, 42)
    for label, count in counts.items():
        dealt = np.bincount(parts[groups.labels == label], minlength=3)
        assert np.abs(dealt - np.array(shares) * count).max() <= 1.5


@pytest.mark.parametrize(("sources", "rows"), [(11, 3), (60, 3)])
def test_the_shares_of_a_class_are_kept_over_small_sources(sources: int, rows: int) -> None:
    groups = groups_of([[(0, source)] for source in range(sources) for _ in range(rows)])
    dealt = np.bincount(assign_groups(groups, SPLIT_SHARES, 42), minlength=3)
    assert np.abs(dealt - np.array(SPLIT_SHARES) * sources * rows).max() <= 2 + 0.02 * sources * rows


def test_the_shares_are_kept_over_groups_of_many_rows() -> None:
    rng = np.random.default_rng(0)
    groups = groups_of([[(int(rng.integers(3)), 0)] * int(rng.integers(1, 20)) for _ in range(300)])
    rows = np.bincount(assign_groups(groups, SPLIT_SHARES, 42)[groups.members], minlength=3)
    assert np.abs(rows / rows.sum() - SPLIT_SHARES).max() < 0.01


def test_the_largest_groups_are_assigned_first() -> None:
    groups = groups_of([[(0, 0)] * 10, [(0, 0)] * 20, [(0, 0)] * 70])
    assert [SPLITS[part] for part in assign_groups(groups, SPLIT_SHARES, 42)] == ["validation", "test", "train"]


def test_filling_a_part_takes_no_class_from_another() -> None:
    parts = np.array([0, 0, 0, 1])
    holders = {0: np.array([0, 1, 2]), 1: np.array([0, 3])}  # group 0 is the only one of class 1 in part 0
    splits._move_one(parts, 2, np.array([0, 1, 2]), holders, label=0)
    assert parts.tolist() == [0, 2, 0, 1]


def test_every_class_keeps_its_shares_in_groups_of_several_classes() -> None:
    rng = np.random.default_rng(0)
    groups = groups_of([[(0, 0)] * int(rng.integers(20, 40)) + [(1, 0)] * int(rng.integers(0, 3)) for _ in range(200)])
    parts = assign_groups(groups, SPLIT_SHARES, 42)[groups.members]
    for label in (0, 1):
        rows = np.bincount(parts[groups.labels == label], minlength=3)
        assert np.abs(rows / rows.sum() - SPLIT_SHARES).max() < 0.012


@settings(max_examples=40, deadline=None)
@given(rows=st.one_of(ANY_GROUPS, ONE_CLASS_GROUPS, SINGLE_ROWS), seed=st.integers(0, 99))
def test_the_order_of_rows_and_groups_does_not_matter(rows: list[list[tuple[int, int]]], seed: int) -> None:
    groups = groups_of(rows)
    other = permuted(groups, seed)
    assert by_name(other, assign_groups(other, SPLIT_SHARES, 42)) == by_name(
        groups, assign_groups(groups, SPLIT_SHARES, 42)
    )


def test_the_seed_alone_decides_between_equal_groups() -> None:
    groups = single_rows({0: 100, 1: 60})
    assert np.array_equal(assign_groups(groups, SPLIT_SHARES, 7), assign_groups(groups, SPLIT_SHARES, 7))
    assert not np.array_equal(assign_groups(groups, SPLIT_SHARES, 7), assign_groups(groups, SPLIT_SHARES, 8))


def test_no_groups_are_assigned_to_no_part() -> None:
    assert assign_groups(groups_of([]), SPLIT_SHARES, 42).tolist() == []


@pytest.mark.parametrize("seed", [1, 2])
def test_names_keep_their_seeded_order_whatever_else_is_there(seed: int) -> None:
    names = [f"cell {number}" for number in range(50)] + ["", "Ä"]
    order = [names[position] for position in seeded_order(names, seed)]
    assert sorted(order) == sorted(names)
    fewer = names[::-3]
    assert [fewer[position] for position in seeded_order(fewer, seed)] == [name for name in order if name in fewer]
    assert order != [names[position] for position in seeded_order(names, seed + 1)]
