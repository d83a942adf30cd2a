"""Which image is shown when: the order of every epoch, decided by the seed alone.

A draw is a row of the split and a number that no other draw of the run has. Order and augmentation depend on nothing
else, so a run gives the same batches on one process or on many, with any number of workers, unbroken or resumed.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ..errors import CelluScanError

SAMPLERS = ("natural", "balanced")


class Draw(NamedTuple):
    """One showing of one image: its row, and the number of this showing in the whole run."""

    row: int
    number: int


class CellSampler(Sampler[Draw]):
    """Draws of one epoch: as many as there are rows, less the rest that does not fill a batch.

    `natural` shows every row once, but for that rest, which is another one every epoch. `balanced` shows every class
    equally often, and the rows of a class as equally as that allows: small classes are repeated, of large ones each
    epoch shows another part.

    Args:
        labels: The class of each row.
        kind: One of `SAMPLERS`.
        seed: Of the order; `set_epoch` gives each epoch its own.
        batch: Images of one batch over all processes.

    Raises:
        CelluScanError: There are fewer rows than one batch takes.
    """

    def __init__(self, labels: Sequence[int], kind: str, seed: int, batch: int) -> None:
        if len(labels) < batch:
            raise CelluScanError(
                f"the train split has {len(labels)} rows, one batch over all processes takes {batch}: lower "
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
        """The epoch, from 0, whose draws come next."""
        self.epoch = epoch

    def _balanced(self, rng: np.random.Generator) -> NDArray[np.int64]:
        classes = [np.flatnonzero(self.labels == label) for label in np.unique(self.labels)]
        share, rest = divmod(len(self.labels), len(classes))
        larger = set(rng.permutation(len(classes))[:rest].tolist())
        drawn = [_cycle(rows, share + (index in larger), rng) for index, rows in enumerate(classes)]
        return np.concatenate(drawn)


def _cycle(rows: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """`count` of `rows`, each as often as any other or once more."""
    whole = np.repeat(rows, count // len(rows))
    return np.concatenate([whole, rng.permutation(rows)[: count % len(rows)]])
