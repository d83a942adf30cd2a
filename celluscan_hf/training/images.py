"""Decode and resize the images of a split, in DataLoader workers or once into memory."""

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
_CHUNK = 512  # images per update of the progress bar


class CellImages(torch.utils.data.Dataset[Any]):
    """The images of a split, each decoded to (3, side, side) uint8.

    `__getitems__` returns a collated batch: `pixels` (B, 3, side, side) uint8 in [0, 255] and `labels` (B,). If it is
    indexed by `Draw`s instead of rows, the batch also has `draws`, their B numbers.

    Args:
        rows: A split of `CellDataset`, with images not decoded.
        side: Side of the resized images in pixels; bilinear with antialiasing, as in the image processor.
        cache: Decode all images now and keep them in memory, 3 side^2 bytes each; no DataLoader workers are needed.
        progress: Show a progress bar while decoding into memory.

    Raises:
        CelluScanError: An image cannot be decoded.
    """

    def __init__(self, rows: Dataset, side: int, cache: bool = False, progress: bool = False) -> None:
        self.rows = rows
        self.side = side
        self.labels = torch.tensor(rows["label"][:], dtype=torch.int64)
        self.sources: list[str] = rows["source"][:]
        self.cached = self._decode_all(progress) if cache else None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | Draw) -> Batch:
        return {name: values[0] for name, values in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int | Draw]) -> Batch:
        """Return one batch; called by DataLoader."""
        rows = [index.row if isinstance(index, Draw) else index for index in indices]
        batch: Batch = {"pixels": self._pixels(rows), "labels": self.labels[rows]}
        if isinstance(indices[0], Draw):
            batch["draws"] = [index.number for index in indices if isinstance(index, Draw)]
        return batch

    def _pixels(self, rows: list[int]) -> torch.Tensor:
        if self.cached is not None:
            return self.cached[rows]
        stored = self.rows[rows]
        return torch.stack([self._decode(*pair) for pair in zip(stored["image"], stored["image_id"], strict=True)])

    def _decode(self, image: dict[str, Any], image_id: str) -> torch.Tensor:
        return decode(image["bytes"], image_id, self.side)

    def _decode_all(self, progress: bool) -> torch.Tensor:
        cached = torch.empty((len(self), 3, self.side, self.side), dtype=torch.uint8)
        disable = None if progress else True  # None: no bar outside a terminal
        bar = tqdm(total=len(self), desc="decoding", unit="image", disable=disable)
        with bar, ThreadPoolExecutor(cores()) as threads:
            for start in range(0, len(self), _CHUNK):
                stored = self.rows[start : start + _CHUNK]
                decoded = threads.map(self._decode, stored["image"], stored["image_id"])
                for position, pixels in enumerate(decoded, start):
                    cached[position] = pixels
                bar.update(len(stored["image_id"]))
        return cached


def decode(data: bytes, image_id: str, side: int) -> torch.Tensor:
    """Decode and resize a stored square image to (3, side, side) uint8, like the image processor.

    Raises:
        CelluScanError: The bytes are not an image, or it is not square; the message names `image_id`.
    """
    try:
        with Image.open(io.BytesIO(data)) as stored:
            image = stored.convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise CelluScanError(
            f"image {image_id} cannot be decoded ({error}): the dataset is damaged; build it again with "
            "`celluscan build`"
        ) from error
    if image.width != image.height:
        raise CelluScanError(f"image {image_id} is {image.width} x {image.height} pixels; expected a square")
    pixels: torch.Tensor = functional.pil_to_tensor(image)
    if image.width == side:
        return pixels
    return functional.resize(pixels, [side, side], functional.InterpolationMode.BILINEAR, antialias=True)


def as_batch(batch: Batch) -> Batch:
    """Collate function: return the batch unchanged, since `CellImages` collates."""
    return batch
