"""Images straight from their parquet files, in order and within bounded memory, for sets that should not be indexed."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import IterableDataset, get_worker_info

from ..errors import CelluScanError
from .images import Batch, decode

WINDOW = 4096  # rows that are shuffled together, a stored image each


class StreamedCells(IterableDataset[Batch]):
    """Whole batches of one process, every row of the files in one batch of one process per epoch.

    Row groups come in an order that seed and epoch decide, and rows are shuffled within a window of them. Every process
    and worker goes through the same order and decodes the images of its own batches alone. The rest that does not fill
    a batch of every process is left out; it is another one every epoch.

    Args:
        files: Parquet files of a split.
        side: What images are resized to, in pixels.
        seed: Of the order.
        batch: Images per batch.
        rank, processes: Which of how many processes this is.

    Raises:
        CelluScanError: There are fewer rows than one batch of every process takes.
    """

    def __init__(self, files: Sequence[Path], side: int, seed: int, batch: int, rank: int, processes: int) -> None:
        self.side = side
        self.seed = seed
        self.batch = batch
        self.rank = rank
        self.processes = processes
        self.epoch = 0
        self.groups = [(file, group) for file in files for group in range(pq.ParquetFile(file).num_row_groups)]
        self.labels = torch.cat(
            [torch.tensor(pq.read_table(file, columns=["label"])["label"].to_numpy()) for file in files]
        )
        if len(self) == 0:
            raise CelluScanError(
                f"the train split has {len(self.labels)} rows, one batch over all processes takes {batch * processes}: "
                "lower --per_device_train_batch_size"
            )

    def __len__(self) -> int:
        return len(self.labels) // (self.batch * self.processes)

    def set_epoch(self, epoch: int) -> None:
        """The epoch, from 0, whose batches come next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for number, rows in enumerate(self._batches()):
            turn, process = divmod(number, self.processes)
            if turn == len(self):
                return
            if process == self.rank and turn % workers == index:
                first = (self.epoch * len(self) * self.processes + number) * self.batch
                yield self._decoded(rows, first)

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        waiting: list[dict[str, Any]] = []
        for window in _windows(self._tables(rng.permutation(len(self.groups)))):
            waiting += [window[position] for position in rng.permutation(len(window))]
            whole = len(waiting) // self.batch * self.batch
            for start in range(0, whole, self.batch):
                yield waiting[start : start + self.batch]
            waiting = waiting[whole:]

    def _tables(self, order: Iterable[int]) -> Iterator[list[dict[str, Any]]]:
        for position in order:
            file, group = self.groups[position]
            try:
                rows = pq.ParquetFile(file).read_row_group(group, columns=["image", "label", "image_id"])
            except (OSError, pa.ArrowInvalid) as error:
                raise CelluScanError(
                    f"{file} is damaged ({error}); build the data set again with scripts/build_dataset.py"
                ) from error
            yield rows.to_pylist()

    def _decoded(self, rows: list[dict[str, Any]], first: int) -> Batch:
        return {
            "pixels": torch.stack([decode(row["image"]["bytes"], row["image_id"], self.side) for row in rows]),
            "labels": torch.tensor([row["label"] for row in rows]),
            "draws": list(range(first, first + len(rows))),
        }


def _windows(tables: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    window: list[dict[str, Any]] = []
    for table in tables:
        window += table
        if len(window) >= WINDOW:
            yield window
            window = []
    if window:
        yield window
