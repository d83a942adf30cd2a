import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from celluscan_hf.dataset.reading import CellDataset
from celluscan_hf.errors import CelluScanError
from celluscan_hf.training.images import CellImages, as_batch, decode
from celluscan_hf.training.sampling import CellSampler


@pytest.fixture
def rows(cells: CellDataset) -> datasets.Dataset:
    return cells.split("default", "train")


def test_a_batch_holds_pixels_and_labels_of_its_rows(rows: datasets.Dataset) -> None:
    images = CellImages(rows, side=40)
    batch = images.__getitems__([5, 0])
    assert batch["pixels"].shape == (2, 3, 40, 40)
    assert batch["pixels"].dtype == torch.uint8
    assert batch["labels"].tolist() == [rows[5]["label"], rows[0]["label"]]
    with Image.open(io.BytesIO(rows[5]["image"]["bytes"])) as stored:
        expected = np.asarray(stored.resize((40, 40), Image.Resampling.BILINEAR))
    assert np.abs(batch["pixels"][0].permute(1, 2, 0).numpy() - expected.astype(int)).max() <= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_cached_images_and_workers_give_the_same_batches(rows: datasets.Dataset, workers: int) -> None:
    sampler = CellSampler(rows["label"][:], "natural", seed=0, batch=50)
    plain = CellImages(rows, side=48, cache=workers == 0)
    batches = list(DataLoader(plain, 50, sampler=sampler, num_workers=workers, collate_fn=as_batch))
    expected = CellImages(rows, side=48)
    draws = list(sampler)
    assert len(batches) == len(rows) // 50
    for position, batch in enumerate(batches):
        wanted = expected.__getitems__(draws[50 * position : 50 * position + 50])
        assert all(torch.equal(batch[name], wanted[name]) for name in ("pixels", "labels"))
        assert batch["draws"] == wanted["draws"]


def test_a_corrupt_image_is_named_with_what_to_do(rows: datasets.Dataset) -> None:
    stored = rows[3]["image"]["bytes"]
    with pytest.raises(CelluScanError, match=r"image pbc/x\.jpg cannot be decoded .*build it again"):
        decode(stored[: len(stored) // 2], "pbc/x.jpg", 48)
    with pytest.raises(CelluScanError, match=r"pbc/x\.jpg"):
        decode(b"", "pbc/x.jpg", 48)


def test_an_image_that_is_not_square_is_named() -> None:
    file = io.BytesIO()
    Image.new("RGB", (48, 40)).save(file, "JPEG")
    with pytest.raises(CelluScanError, match=r"own/a\.jpg is 48 x 40 pixels; expected a square"):
        decode(file.getvalue(), "own/a.jpg", 48)
