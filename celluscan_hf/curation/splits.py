"""Stratified splits by group: cells that belong together (one smear, copies, near duplicates) stay in one split.

Groups are assigned greedily, largest first, each to the part where it most reduces the squared distance to the target
counts per class and source. Groups of equal size are ordered by a seeded hash of their names, so the result does not
depend on the order of files.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from .. import taxonomy
from ..errors import CelluScanError
from .facts import BATCH, Texts, batches

SPLITS = ("train", "validation", "test")
SPLIT_SHARES = (0.7, 0.1, 0.2)
TIERS = ("tier05", "tier20", "tier100")
TIER_SHARES = (0.05, 0.15, 0.80)  # cumulative: 5, 20 and 100 % of train
MIN_GROUPS = 10  # a class with at least as many groups is in every part

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Rows and their groups.

    `names` (G,) are those of the groups. `members` (N,) is the group of each row, `labels` (N,) its class and `strata`
    (N,) its class and source, as numbers from 0.
    """

    names: Texts
    members: Integers
    labels: Integers
    strata: Integers


def assign_groups(
    groups: Groups, shares: Sequence[float], seed: int, eligible: NDArray[np.bool_] | None = None
) -> Integers:
    """Assign each group to a part, an index into `shares`, (G,). Groups not `eligible` get part 0 and are not counted.

    Every class with at least `MIN_GROUPS` eligible groups is in every part.
    """
    eligible = np.ones(len(groups.names), bool) if eligible is None else eligible
    order = _order(groups, seed)
    parts = _assign_greedily(groups, shares, eligible, order[eligible[order]])
    _fill_empty_parts(groups, parts, len(shares), eligible, order)
    return parts


def seeded_order(names: Texts, seed: int) -> Integers:
    """Shuffle by a hash of the seed and each name alone: positions of `names`, (N,)."""
    keys = np.empty(len(names), np.uint64)
    start = 0
    for batch in batches(names):
        digests = b"".join([hashlib.sha256(f"{seed}|{name}".encode()).digest()[:8] for name in batch])
        keys[start : start + len(batch)] = np.frombuffer(digests, ">u8")
        start += len(batch)
    return np.argsort(keys, kind="stable")


def _order(groups: Groups, seed: int) -> Integers:
    """Order groups by size, largest first, equal sizes in seeded order."""
    sizes = np.bincount(groups.members, minlength=len(groups.names))
    shuffled = seeded_order(groups.names, seed)
    return shuffled[np.argsort(-sizes[shuffled], kind="stable")]


def _assign_greedily(groups: Groups, shares: Sequence[float], eligible: NDArray[np.bool_], order: Integers) -> Integers:
    """Assign the groups of `order`, one after the other, to the part where each reduces the distance most, (G,)."""
    cells = groups.strata.max(initial=-1) + 1
    # classes are counted as well as strata, so that many small sources do not all round the same way
    columns = np.stack([groups.strata, cells + groups.labels], axis=1).astype(np.int32)
    totals = np.bincount(columns[eligible[groups.members]].ravel(), minlength=int(columns.max(initial=0)) + 1)
    # a compromise: equal weights ignore small strata, inverse totals let them outweigh their class
    weight = (1.0 / np.sqrt(np.maximum(totals, 1))).tolist()
    missing = np.outer(np.asarray(shares), totals).tolist()  # (parts, columns): target minus assigned
    parts = np.zeros(len(groups.names), np.int64)
    start = 0
    for batch in _group_counts(groups, columns, order):
        chosen = _best_parts(*batch, missing, weight)
        parts[order[start : start + len(chosen)]] = chosen
        start += len(chosen)
    return parts


def _best_parts(
    ends: list[int], columns: list[int], counts: list[int], missing: list[list[float]], weight: list[float]
) -> list[int]:
    """Return the part of each group and subtract its rows from `missing`. Plain numbers: arrays of two are slower."""
    chosen, start = [], 0
    for end in ends:
        best, lowest = 0, inf
        for part, lacking in enumerate(missing):
            change = 0.0
            for entry in range(start, end):
                column, count = columns[entry], counts[entry]
                change += count * (count - 2 * lacking[column]) * weight[column]
            if change < lowest:
                best, lowest = part, change
        for entry in range(start, end):
            missing[best][columns[entry]] -= counts[entry]
        chosen.append(best)
        start = end
    return chosen


def _group_counts(
    groups: Groups, columns: NDArray[np.int32], order: Integers
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yield, for some groups of `order` at a time, the columns that each has rows in and how many.

    The entries of a group end at its place in the first list.
    """
    rows = np.argsort(groups.members, kind="stable").astype(np.int32)
    starts = np.searchsorted(groups.members, np.arange(len(groups.names) + 1), sorter=rows)
    width = int(columns.max(initial=0)) + 1
    sizes = np.diff(starts)[order]
    cuts = np.unique(np.searchsorted(np.cumsum(sizes), np.arange(BATCH, sizes.sum() + 1, BATCH)))
    for batch in np.split(np.arange(len(order)), cuts):
        lengths = sizes[batch]
        before = np.cumsum(lengths) - lengths
        members = rows[np.arange(lengths.sum()) + np.repeat(starts[order[batch]] - before, lengths)]
        places = np.repeat(np.arange(len(batch)), lengths)
        keys, counts = np.unique((places[:, None] * width + columns[members]).ravel(), return_counts=True)
        ends = np.searchsorted(keys, np.arange(1, len(batch) + 1) * width)
        yield ends.tolist(), (keys % width).tolist(), counts.tolist()


def _fill_empty_parts(
    groups: Groups, parts: Integers, n_parts: int, eligible: NDArray[np.bool_], order: Integers
) -> None:
    """Move single groups, smallest first, until every class with `MIN_GROUPS` groups is in every part."""
    counted = eligible[groups.members]
    held_by = ((label, counted & (groups.labels == label)) for label in np.unique(groups.labels).tolist())
    holders = {label: np.unique(groups.members[rows]) for label, rows in held_by}
    required = {label: held for label, held in holders.items() if len(held) >= MIN_GROUPS}
    rank = np.argsort(order)
    for label, held in sorted(required.items(), key=lambda item: (len(item[1]), item[0])):
        for part in range(n_parts):
            if part not in parts[held]:
                _move_one(parts, part, held[np.argsort(-rank[held])], required, label)


def _move_one(parts: Integers, part: int, candidates: Integers, required: dict[int, Integers], label: int) -> None:
    """Move to `part` the first candidate whose removal takes no class from its present part."""
    for group in candidates:
        others = [held for held in required.values() if group in held]
        if all(np.sum(parts[held] == parts[group]) > 1 for held in others):
            parts[group] = part
            return
    raise CelluScanError(
        f"{taxonomy.NAMES[label]} cannot be in every split: its groups hold the last cells of other classes; "
        "use smaller groups"
    )
