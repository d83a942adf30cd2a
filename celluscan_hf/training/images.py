"""Rows of a split -> images as tensors, decoded and resized in the workers of a DataLoader, or once and kept."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from datasets import Dataset
from PIL import Image
from torchvision.transforms.v2 import functional
from tqdm.auto import tqdm

from ..dataset.settings import cores
from ..errors import CelluScanError
from .sampling import Draw

Batch = dict[str, Any]
_CHUNK = 512  # images between two steps of the progress bar


class CellImages(torch.utils.data.Dataset[Any]):
    """The images of a split, each decoded to (3, side, side) uint8.

    Items come as whole batches: `pixels` (B, 3, side, side) uint8 in [0, 255] and `labels` (B,). Asked for a `Draw`
    instead of a row, the batch also has `draws`, a list of the B numbers of the showings.

    Args:
        rows: A split of `CellDataset`, images not decoded.
        side: What images are resized to, in pixels; as the image processor does it, bilinear with antialiasing.
        keep: Decode all images now and keep them, 3 side^2 bytes each; the DataLoader then needs no workers.
        progress: Show a bar while doing so.

    Raises:
        CelluScanError: An image cannot be decoded.
    """

    def __init__(self, rows: Dataset, side: int, keep: bool = False, progress: bool = False) -> None:
        self.rows = rows
        self.side = side
        self.labels = torch.tensor(rows["label"][:], dtype=torch.int64)
        self.kept = self._decode_all(progress) if keep else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Draw) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int | Draw]) -> Batch:
        """One batch; what DataLoader calls."""
        rows = [index.row if isinstance(index, Draw) else index for index in indices]
        batch: Batch = {"pixels": self._pixels(rows), "labels": self.labels[rows]}
        if isinstance(indices[0], Draw):
            batch["draws"] = [index.number for index in indices if isinstance(index, Draw)]
        return batch

    def _pixels(self, rows: list[int]) -> torch.Tensor:
        if self.kept is not None:
            return self.kept[rows]
        stored = self.rows[rows]
        return torch.stack([self._decode(*pair) for pair in zip(stored["image"], stored["image_id"], strict=True)])

    def _decode(self, image: dict[str, Any], image_id: str) -> torch.Tensor:
        return decode(image["bytes"], image_id, self.side)

    def _decode_all(self, progress: bool) -> torch.Tensor:
        kept = torch.empty((len(self), 3, self.side, self.side), dtype=torch.uint8)
        bar = tqdm(total=len(self), desc="decoding", unit="image", disable=not progress)
        with bar, ThreadPoolExecutor(cores()) as threads:
            for start in range(0, len(self), _CHUNK):
                stored = self.rows[start : start + _CHUNK]
                decoded = threads.map(self._decode, stored["image"], stored["image_id"])
                for position, pixels in enumerate(decoded, start):
                    kept[position] = pixels
                bar.update(len(stored["image_id"]))
        return kept


def decode(data: bytes, image_id: str, side: int) -> torch.Tensor:
    """A stored square image -> (3, side, side) uint8, resized as the image processor does it.

    Raises:
        CelluScanError: The bytes are no image or the image is not square; the message names `image_id`.
    """
    try:
        with Image.open(io.BytesIO(data)) as stored:
            image = stored.convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise CelluScanError(
            f"image {image_id} cannot be decoded ({error}): the data set is damaged; build it again with "
            "scripts/build_dataset.py"
        ) from error
    if image.width != image.height:
        raise CelluScanError(f"image {image_id} is {image.width} x {image.height} pixels; expected a square")
    pixels: torch.Tensor = functional.pil_to_tensor(image)
    if image.width == side:
        return pixels
    return functional.resize(pixels, [side, side], functional.InterpolationMode.BILINEAR, antialias=True)


def as_batch(batch: Batch) -> Batch:
    """The collate function: `CellImages` already gives whole batches."""
    return batch
