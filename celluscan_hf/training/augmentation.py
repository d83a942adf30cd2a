"""Crop, augment and normalize batches of stored uint8 images on the model's device.

torchvision's v2 transforms draw one set of parameters per batch. Here every image has its own, computed from its draw
number by a counter-based generator (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405). The generator has no
state, so nothing has to be saved or synchronized between processes, workers and devices.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ..dataset.augment import one_thread
from ..errors import CelluScanError
from . import background

Colour = tuple[float, float, float]
_CPU_CHUNK = 8  # images processed at once on the CPU: 8 x 224 px are 5 MB of float32, which fit in the cache
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
# SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2714064.2660195), its constants as signed 64-bit integers
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))


@dataclass(frozen=True)
class View:
    """The evaluation transform: resize to `resized` pixels, crop the central `side` pixels, normalize.

    - `side`: side of the model's input, in pixels.
    - `crop_pct`: cropped share of the stored image's side, as in timm.
    - `mean`, `std`: per channel, for values in [0, 1], as in the image processor.
    """

    side: int
    crop_pct: float
    mean: Colour
    std: Colour

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
        images = len(pixels)
        return self.transform(pixels, [[self.margin] * 2] * images, [0] * images, torch.ones(images, 3))

    def transform(
        self,
        pixels: torch.Tensor,
        corners: list[list[int]],
        symmetries: list[int],
        factors: torch.Tensor,
        randomize: Callable[[torch.Tensor, slice], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Crop each image at its corner and flip it (`crop`), then change its colours (`color_matrix`) and normalize.

        `randomize(crops, part)`, if given, changes the crops in between; `part` is their slice of the batch. On the CPU
        a few images are processed at a time, so that they stay in its cache from one operation to the next.
        """
        factors = factors.to(pixels.device, non_blocking=True)
        pixel_values = pixels.new_empty((len(pixels), 3, self.side, self.side), dtype=torch.float32)
        chunk = _CPU_CHUNK if pixels.device.type == "cpu" else len(pixels)
        with one_thread():
            for start in range(0, len(pixels), chunk):
                part = slice(start, start + chunk)
                crops = crop(pixels[part], corners[part], symmetries[part], self.side)
                crops = randomize(crops, part) if randomize else crops
                pixel_values[part] = self.normalize(crops, *color_matrix(crops, factors[part]))
        return pixel_values

    def normalize(self, pixels: torch.Tensor, mix: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """Apply `mix` (B, 3, 3) and `offset` (B, 3) to colours in [0, 1], then mean and std, in one product.

        (B, 3, H, W), uint8 or float32 in [0, 255] -> float32.
        """
        mean, std = _constant((self.mean, self.std), pixels.device)
        mix = mix / (255 * std[:, None])
        offset = ((offset - mean) / std).expand(len(pixels), 3)
        return torch.baddbmm(offset[..., None], mix, pixels.flatten(2).float()).view(pixels.shape)


@dataclass(frozen=True)
class Augmentation:
    """The training transform; its parameters are drawn for each image.

    - `dihedral`: apply one of the eight rotations and reflections of the square; cells have no upright orientation.
    - `shift`: move the crop by up to this share of its side, on each axis.
    - `color_jitter`: scale brightness, contrast and saturation by a factor from [1 - j, 1 + j] each.
    - `background_randomization`: share of images whose background is randomized.
    """

    dihedral: bool
    shift: float
    color_jitter: float
    background_randomization: float
    seed: int

    def check(self, view: View) -> None:
        """Raise a `CelluScanError` if a shifted crop would leave the stored image, or a value is out of range."""
        largest = view.margin / view.side
        if not 0 <= self.shift <= largest:
            raise CelluScanError(
                f"--shift {self.shift}: expected 0 to {largest:.3f}, the margin that --crop_pct {view.crop_pct} leaves "
                "around the crop, as a share of its side"
            )
        if not 0 <= self.color_jitter < 1:
            raise CelluScanError(f"--color_jitter {self.color_jitter}: expected at least 0 and below 1")

    def __call__(self, pixels: torch.Tensor, draws: Sequence[int], view: View) -> torch.Tensor:
        """Images (B, 3, resized, resized) uint8 with their B draw numbers -> (B, 3, side, side) float32."""
        chance = uniform(torch.tensor(draws), 6 + background.DRAWS, self.seed)
        reach = int(self.shift * view.side)
        corners = view.margin - reach + (chance[:, :2] * (2 * reach + 1)).long()
        symmetries = (chance[:, 2] * (8 if self.dihedral else 1)).long()
        factors = 1 + self.color_jitter * (2 * chance[:, 3:6] - 1)
        randomize = self._randomize(chance[:, 6:].to(pixels.device)) if self.background_randomization else None
        return view.transform(pixels, corners.tolist(), symmetries.tolist(), factors, randomize)

    def _randomize(self, chance: torch.Tensor) -> Callable[[torch.Tensor, slice], torch.Tensor]:
        return lambda crops, part: background.randomize_background(crops, chance[part], self.background_randomization)


@lru_cache(maxsize=64)
def _constant(values: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    """Copy values to the device once: a copy from pageable memory waits for all work queued there."""
    return torch.tensor(values, device=device)


def uniform(draws: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Compute `count` numbers in [0, 1) from each draw number (B,) int64 and the seed: (B, count)."""
    lane = torch.arange(count, device=draws.device)
    key = torch.full_like(draws, seed) * _STEP  # int64 wraps around
    state = splitmix64(splitmix64(draws + key)[:, None] + lane * _STEP)
    return (state & (2**24 - 1)).float() / 2**24  # float32 holds 24 bits


def splitmix64(state: torch.Tensor) -> torch.Tensor:
    """Apply the output function of SplitMix64 to int64, whose products wrap around like those of unsigned integers."""
    for shift, factor in _MIX:
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * factor  # a logical shift
    return state


def crop(pixels: torch.Tensor, corners: list[list[int]], symmetries: list[int], side: int) -> torch.Tensor:
    """Crop each image (B, 3, H, W) at its corner (top, left) and rotate or flip the crop: (B, 3, side, side).

    A symmetry of the square is a number from 0 to 7: bit 2 swaps the axes, then bit 0 flips columns and bit 1 rows.
    """
    squares = []
    for image, (top, left), symmetry in zip(pixels, corners, symmetries, strict=True):
        square = image[:, top : top + side, left : left + side]
        square = square.transpose(1, 2) if symmetry & 4 else square
        flipped = [axis for axis, bit in ((2, 1), (1, 2)) if symmetry & bit]
        squares.append(square.flip(flipped) if flipped else square)
    return torch.stack(squares)


def color_matrix(pixels: torch.Tensor, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine brightness, contrast and saturation (B, 3) in a linear map of colours: mix (B, 3, 3), offset (B, 3).

    Colours are in [0, 1]. As in torchvision, contrast scales around the mean grey of the image and saturation around
    the grey of the pixel. Values are not clamped, since they are normalized next.
    """
    brightness, contrast, saturation = factors.unbind(1)
    luminance = _constant(_LUMINANCE, pixels.device)
    grey = pixels.flatten(2).float().mean(2) @ luminance / 255  # (B,), the same before and after saturation
    own = torch.eye(3, device=pixels.device) * saturation[:, None, None]
    mix = (brightness * contrast)[:, None, None] * (own + (1 - saturation)[:, None, None] * luminance)
    return mix, (brightness * (1 - contrast) * grey)[:, None].expand(-1, 3)
