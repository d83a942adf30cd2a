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

SAMPLERS = ("natural", "balanced")


class Draw(NamedTuple):
    """One use of an image: its row, and the number of this use in the whole run."""

    row: int
    number: int


class CellSampler(Sampler[Draw]):
    """Sample the draws of one epoch: as many as there are rows, rounded down to full batches.

    `natural` draws every row at most once; the rows left over differ between epochs. `balanced` draws every class
    equally often, and the rows of a class as equally as possible: small classes are repeated, large ones subsampled
    anew every epoch.

    Args:
        labels: The class of each row.
        kind: One of `SAMPLERS`.
        seed: Random seed; each epoch (`set_epoch`) has its own order.
        batch: Images per batch, over all processes.

    Raises:
        CelluScanError: There are fewer rows than images in a batch.
    """

    def __init__(self, labels: Sequence[int], kind: str, seed: int, batch: int) -> None:
        if len(labels) < batch:
            raise CelluScanError(
                f"the train split has {len(labels)} rows, fewer than one batch over all processes ({batch}): lower "
                "--per_device_train_batch_size"
            )
        self.labels = np.asarray(labels)
        self.kind = kind
        self.seed = seed
        self.batch = batch
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.labels) // self.batch * self.batch

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng((self.seed, self.epoch))
        rows = np.arange(len(self.labels)) if self.kind == "natural" else self._balanced(rng)
        first = self.epoch * len(self)
        for position, row in enumerate(rng.permutation(rows)[: len(self)]):
            yield Draw(int(row), first + position)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self.epoch = epoch

    def _balanced(self, rng: np.random.Generator) -> NDArray[np.int64]:
        classes = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        share, rest = divmod(len(self.labels), len(classes))
        larger = set(rng.permutation(len(classes))[:rest].tolist())
        drawn = [_cycle(rows, share + (index in larger), rng) for index, rows in enumerate(classes)]
        return np.concatenate(drawn)


def _cycle(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sample `count` of `rows`, so that their frequencies differ by at most one."""
    repeated = np.repeat(rows, count // len(rows))
    return np.concatenate([repeated, rng.permutation(rows)[: count % len(rows)]])
