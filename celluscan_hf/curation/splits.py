"""Stratified splits by group: cells that belong together (one smear, copies, near duplicates) stay in one split.

Groups are assigned greedily, largest first, each to the part where it most reduces the squared distance to the target
counts per class and source. Groups of equal size are ordered by a seeded hash of their names, so the result does not
depend on the order of files.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import taxonomy
from ..errors import CelluScanError

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

    names: Sequence[str]
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
    parts = np.zeros(len(groups.names), np.int64)
    order = _order(groups, seed)
    counts = _Counts(groups, shares, eligible[groups.members])
    for group in order[eligible[order]]:
        parts[group] = counts.best_part(group)
        counts.add(group, parts[group])
    _fill_empty_parts(groups, parts, len(shares), eligible, order)
    return parts


def seeded_order(names: Sequence[str], seed: int) -> Integers:
    """Shuffle by a hash of the seed and each name alone: positions of `names`, (N,)."""
    keys = (int.from_bytes(hashlib.sha256(f"{seed}|{name}".encode()).digest()[:8], "big") for name in names)
    return np.argsort(np.fromiter(keys, np.uint64, len(names)), kind="stable")


def _order(groups: Groups, seed: int) -> Integers:
    """Order groups by size, largest first, equal sizes in seeded order."""
    sizes = np.bincount(groups.members, minlength=len(groups.names))
    shuffled = seeded_order(groups.names, seed)
    return shuffled[np.argsort(-sizes[shuffled], kind="stable")]


class _Counts:
    """Rows of each stratum and class that each part still lacks."""

    def __init__(self, groups: Groups, shares: Sequence[float], counted: NDArray[np.bool_]) -> None:
        cells = groups.strata.max(initial=-1) + 1
        # classes are counted as well as strata, so that many small sources do not all round the same way
        self.columns = np.stack([groups.strata, cells + groups.labels], axis=1)
        totals = np.bincount(self.columns[counted].ravel(), minlength=int(self.columns.max(initial=0)) + 1)
        # a compromise: equal weights ignore small strata, inverse totals let them outweigh their class
        self.weight = 1.0 / np.sqrt(np.maximum(totals, 1))
        self.missing = np.outer(np.asarray(shares), totals)  # (parts, columns): target minus assigned
        by_group = np.argsort(groups.members, kind="stable")
        self.rows = by_group
        self.starts = np.searchsorted(groups.members[by_group], np.arange(len(groups.names) + 1))

    def _group_counts(self, group: int) -> tuple[Integers, Integers]:
        rows = self.rows[self.starts[group] : self.starts[group + 1]]
        if len(rows) == 1:
            return self.columns[rows[0]], np.ones(2, np.int64)
        return np.unique(self.columns[rows], return_counts=True)

    def best_part(self, group: int) -> int:
        columns, counts = self._group_counts(group)
        change = counts * (counts - 2 * self.missing[:, columns]) * self.weight[columns]
        return int(change.sum(axis=1).argmin())

    def add(self, group: int, part: int) -> None:
        columns, counts = self._group_counts(group)
        self.missing[part, columns] -= counts


def _fill_empty_parts(
    groups: Groups, parts: Integers, n_parts: int, eligible: NDArray[np.bool_], order: Integers
) -> None:
    """Move single groups, smallest first, until every class with `MIN_GROUPS` groups is in every part."""
    pairs = np.unique(np.stack([groups.labels, groups.members], axis=1)[eligible[groups.members]], axis=0)
    holders = {int(label): pairs[pairs[:, 0] == label, 1] for label in np.unique(pairs[:, 0])}
    rank = np.argsort(order)
    required = {label: held for label, held in holders.items() if len(held) >= MIN_GROUPS}
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
