import re
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from celluscan_hf.dataset.reading import CellDataset
from celluscan_hf.errors import CelluScanError
from celluscan_hf.training import streaming
from celluscan_hf.training.images import Batch
from celluscan_hf.training.streaming import StreamedCells


@pytest.fixture
def files(cells: CellDataset) -> list[Path]:
    return cells.files("default", "train")


def batches(files: list[Path], batch: int, processes: int, workers: int, epoch: int = 0) -> list[list[Batch]]:
    by_rank = []
    for rank in range(processes):
        images = StreamedCells(files, 48, 0, batch, rank, processes)
        images.set_epoch(epoch)
        by_rank.append(list(DataLoader(images, batch_size=None, num_workers=workers)))
    return by_rank


@pytest.mark.parametrize("workers", [0, 2])
def test_every_row_is_seen_once_by_one_process(
    files: list[Path], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "WINDOW", 60)
    by_rank = batches(files, batch=28, processes=2, workers=workers)  # 392 = 7 x 2 x 28
    assert [len(of_rank) for of_rank in by_rank] == [7, 7]
    every = StreamedCells(files, 48, 0, 392, 0, 1)
    expected = Counter(image.numpy().tobytes() for image in next(iter(every))["pixels"])
    assert len(expected) == 392
    assert (
        Counter(image.numpy().tobytes() for of_rank in by_rank for batch in of_rank for image in batch["pixels"])
        == expected
    )
    assert sorted(number for of_rank in by_rank for batch in of_rank for number in batch["draws"]) == list(range(392))


def test_the_global_batches_do_not_depend_on_the_number_of_processes(files: list[Path]) -> None:
    (single,), (first, second) = batches(files, 28, 1, 0), batches(files, 14, 2, 0)
    for global_batch, *halves in zip(single, first, second, strict=True):
        for name in ("pixels", "labels"):
            assert torch.equal(global_batch[name], torch.cat([half[name] for half in halves]))
        assert global_batch["draws"] == [number for half in halves for number in half["draws"]]


def test_epochs_differ_and_come_back(files: list[Path]) -> None:
    first, again, second = (batches(files, 28, 1, 0, epoch)[0][0] for epoch in (0, 0, 1))
    assert torch.equal(first["pixels"], again["pixels"])
    assert not torch.equal(first["pixels"], second["pixels"])
    assert second["draws"][0] == 392


def test_row_groups_and_the_rows_of_a_window_are_shuffled(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "WINDOW", 1)  # a row group each
    images = StreamedCells(files, 48, 0, 1, 0, 1)
    stored = [
        pq.ParquetFile(file).read_row_group(group, columns=["image_id"])["image_id"].to_pylist()
        for file, group in images.groups
    ]
    first = set()
    for epoch in range(8):
        images.set_epoch(epoch)
        ids = [row["image_id"] for rows in images._batches() for row in rows]
        (begun,) = [number for number, group in enumerate(stored) if ids[0] in group]
        first.add(begun)
        assert ids[: len(stored[begun])] != stored[begun]
        assert set(ids[: len(stored[begun])]) == set(stored[begun])
    assert len(first) > 1


def test_fewer_rows_than_a_batch_of_every_process_are_refused(files: list[Path]) -> None:
    with pytest.raises(CelluScanError, match=r"392 rows, fewer than one batch over all processes \(400\)"):
        StreamedCells(files, 48, 0, batch=200, rank=0, processes=2)


def test_a_damaged_file_is_named(files: list[Path], tmp_path: Path) -> None:
    copies = [Path(shutil.copy(file, tmp_path / file.name)) for file in files]
    cells = StreamedCells(copies, 48, 0, batch=28, rank=0, processes=1)
    content = bytearray(copies[0].read_bytes())
    content[1000:20000] = bytes(19000)
    copies[0].write_bytes(content)
    with pytest.raises(CelluScanError, match=rf"{re.escape(str(copies[0]))} is damaged .*build the dataset again"):
        list(cells)
