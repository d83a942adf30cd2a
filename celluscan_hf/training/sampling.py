"""The order of images in every epoch, decided by the seed alone.

A draw is a row of the split and a number that is unique in the run. Order and augmentation depend on nothing else, so
a run has the same batches with any number of processes and workers, and after a resume.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ..errors import CelluScanError

SAMPLERS = ("natural", "balanced", "balanced_sources", "sqrt")


class Draw(NamedTuple):
    """One use of an image: its row, and the number of this use in the whole run."""

    row: int
    number: int


class CellSampler(Sampler[Draw]):
    """Sample the draws of one epoch: as many as there are rows, rounded down to full batches.

    `natural` draws every row at most once; the rows left over differ between epochs. The others draw strata more evenly
    than they come, and the rows of each as equally as possible: small strata are repeated, large ones subsampled anew
    every epoch.

    - `balanced`: every class equally often.
    - `balanced_sources`: the same, and within a class every source equally often.
    - `sqrt`: every class of every source in proportion to the square root of its rows.

    Args:
        labels: The class of each row.
        kind: One of `SAMPLERS`.
        seed: Random seed; each epoch (`set_epoch`) has its own order.
        batch: Images per batch, over all processes.
        sources: The source of each row; by default all have the same.

    Raises:
        CelluScanError: There are fewer rows than images in a batch.
    """

    def __init__(
        self, labels: Sequence[int], kind: str, seed: int, batch: int, sources: Sequence[str] | None = None
    ) -> None:
        if len(labels) < batch:
            raise CelluScanError(
                f"the train split has {len(labels)} rows, fewer than one batch over all processes ({batch}): lower "
                "--per_device_train_batch_size"
            )
        self.size = len(labels)
        self.strata = [] if kind == "natural" else _strata(kind, np.asarray(labels), sources)
        self.seed = seed
        self.batch = batch
        self.epoch = 0

    def __len__(self) -> int:
        return self.size // self.batch * self.batch

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng((self.seed, self.epoch))
        rows = self._by_strata(rng) if self.strata else np.arange(self.size)
        first = self.epoch * len(self)
        for position, row in enumerate(rng.permutation(rows)[: len(self)]):
            yield Draw(int(row), first + position)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self.epoch = epoch

    def _by_strata(self, rng: np.random.Generator) -> NDArray[np.int64]:
        bounds = np.cumsum([weight for _, weight in self.strata]) * self.size
        bounds[-1] = self.size  # exactly
        counts = np.diff(np.floor(bounds + rng.random()), prepend=0).astype(int)  # each rounded up or down by chance
        drawn = [_cycle(rows, count, rng) for (rows, _), count in zip(self.strata, counts, strict=True)]
        return np.concatenate(drawn)


def _strata(
    kind: str, labels: NDArray[np.int64], sources: Sequence[str] | None
) -> list[tuple[NDArray[np.int64], float]]:
    """Rows of each stratum, and its share of the draws; shares sum to one."""
    names = np.zeros(len(labels)) if sources is None or kind == "balanced" else np.asarray(sources)
    strata = [
        [np.flatnonzero((labels == label) & (names == name)) for name in np.unique(names[labels == label])]
        for label in np.unique(labels)
    ]
    if kind == "sqrt":
        weights = [[len(rows) ** 0.5 for rows in of_class] for of_class in strata]
    else:
        weights = [[1 / len(of_class)] * len(of_class) for of_class in strata]
    total = sum(map(sum, weights))
    return [
        (rows, share / total)
        for of_class, shares in zip(strata, weights, strict=True)
        for rows, share in zip(of_class, shares, strict=True)
    ]


def _cycle(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample `count` of `rows`, so that their frequencies differ by at most one."""
    repeated = np.repeat(rows, count // len(rows))
    return np.concatenate([repeated, rng.permutation(rows)[: count % len(rows)]])
