"""The evaluation transform, on batches of stored uint8 images: what the image processor does to one image."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch

from ..dataset.augment import one_thread
from ..errors import CelluScanError
from .colors import constant

Color = tuple[float, float, float]
_CPU_CHUNK = 8  # images processed at once on the CPU: 8 x 224 px are 5 MB of float32, which fit in the cache


@dataclass(frozen=True)
class View:
    """The evaluation transform: resize to `resized` pixels, crop the central `side` pixels, normalize.

    - `side`: side of the model's input, in pixels.
    - `crop_pct`: cropped share of the stored image's side, as in timm.
    - `mean`, `std`: per channel, for values in [0, 1], as in the image processor.
    """

    side: int
    crop_pct: float
    mean: Color
    std: Color

    def __post_init__(self) -> None:
        if not 0 < self.crop_pct <= 1:
            raise CelluScanError(
                f"--crop_pct {self.crop_pct}: expected above 0 and at most 1 (the share of the side that is kept)"
            )

    @property
    def resized(self) -> int:
        """Side of the resized image before cropping, in pixels."""
        return round(self.side / self.crop_pct)

    @property
    def margin(self) -> int:
        """Pixels above and to the left of the central crop."""
        return (self.resized - self.side) // 2

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, resized, resized) uint8 -> (B, 3, side, side) float32, equal to the image processor's output."""
        center = slice(self.margin, self.margin + self.side)
        mix, offset = torch.eye(3, device=pixels.device), torch.zeros(3, device=pixels.device)

        def transform(part: slice, pixel_values: torch.Tensor) -> None:
            self.normalize(pixels[part, :, center, center].float(), mix, offset, pixel_values)

        return self.in_chunks(pixels, transform)

    def in_chunks(self, pixels: torch.Tensor, transform: Callable[[slice, torch.Tensor], None]) -> torch.Tensor:
        """Let `transform` fill slices of the `pixel_values` of a batch: (B, 3, side, side) float32.

        On the CPU a few images are processed at a time, so that they stay in the cache of a core from one operation to
        the next, on as many threads as torch has.
        """
        pixel_values = pixels.new_empty((len(pixels), 3, self.side, self.side), dtype=torch.float32)
        chunk = _CPU_CHUNK if pixels.device.type == "cpu" else len(pixels)
        parts = [slice(start, start + chunk) for start in range(0, len(pixels), chunk)]
        if len(parts) == 1:
            transform(parts[0], pixel_values)
            return pixel_values
        threads = min(torch.get_num_threads(), len(parts))
        with one_thread():
            if threads < 2:
                for part in parts:
                    transform(part, pixel_values[part])
            else:
                with ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) as pool:
                    list(pool.map(lambda part: transform(part, pixel_values[part]), parts))
        return pixel_values

    def normalize(self, pixels: torch.Tensor, mix: torch.Tensor, offset: torch.Tensor, out: torch.Tensor) -> None:
        """Apply `mix` (B, 3, 3) and `offset` (B, 3) to colours in [0, 1], then mean and std, in one product.

        `pixels` (B, 3, H, W) are float32 in [0, 255]; the result goes into `out`.
        """
        mean, std = constant((self.mean, self.std), pixels.device)
        mix = (mix / (255 * std[:, None])).expand(len(pixels), 3, 3)
        offset = ((offset - mean) / std).expand(len(pixels), 3)
        torch.baddbmm(offset[..., None], mix, pixels.flatten(2), out=out.view(len(pixels), 3, -1))
