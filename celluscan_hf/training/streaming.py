"""Stream images from parquet files with bounded memory, for splits too large to index."""

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

WINDOW = 4096  # rows that are shuffled together; bounds memory


class StreamedCells(IterableDataset[Batch]):
    """Iterate over the collated batches of one process; each row is in one batch of one process per epoch.

    Seed and epoch decide the order of row groups, and rows are shuffled within a window of them. Every process and
    worker goes through the same order and decodes only the images of its own batches. Rows that do not fill a batch of
    every process are left out; they differ between epochs.

    Args:
        files: Parquet files of a split.
        side: Side of the resized images, in pixels.
        seed: Random seed of the order.
        batch: Images per batch.
        rank: Number of this process, from 0.
        processes: Number of processes.

    Raises:
        CelluScanError: There are fewer rows than one batch of every process has.
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
                f"the train split has {len(self.labels)} rows, fewer than one batch over all processes "
                f"({batch * processes}): lower --per_device_train_batch_size"
            )

    def __len__(self) -> int:
        return len(self.labels) // (self.batch * self.processes)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, from 0."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for number, rows in enumerate(self._batches()):
            step, process = divmod(number, self.processes)
            if step == len(self):
                return
            if process == self.rank and step % workers == index:
                first = (self.epoch * len(self) * self.processes + number) * self.batch
                yield self._decode(rows, first)

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        waiting: list[dict[str, Any]] = []
        for window in _windows(self._tables(rng.permutation(len(self.groups)))):
            waiting += [window[position] for position in rng.permutation(len(window))]
            full = len(waiting) // self.batch * self.batch
            for start in range(0, full, self.batch):
                yield waiting[start : start + self.batch]
            waiting = waiting[full:]

    def _tables(self, order: Iterable[int]) -> Iterator[list[dict[str, Any]]]:
        for position in order:
            file, group = self.groups[position]
            try:
                rows = pq.ParquetFile(file).read_row_group(group, columns=["image", "label", "image_id"])
            except (OSError, pa.ArrowInvalid) as error:
                raise CelluScanError(
                    f"{file} is damaged ({error}); build the dataset again with `celluscan build`"
                ) from error
            yield rows.to_pylist()

    def _decode(self, rows: list[dict[str, Any]], first: int) -> Batch:
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
