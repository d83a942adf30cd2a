"""Stored uint8 images -> what the model sees: whole batches at once, on the device of the model.

The v2 transforms of torchvision draw one set of parameters for a batch. Here every image has its own, computed from
its draw number: a counter-based generator (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405) has no state,
so nothing needs to be saved, or kept in step between processes, workers and devices.
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
_IN_CACHE = 8  # images worked on at once on the CPU: 8 x 224 px are 5 MB of float32
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
# SplitMix64 (Steele et al. 2014, https://doi.org/10.1145/2714064.2660195), its constants as signed 64-bit integers
_STEP = 0x9E3779B97F4A7C15 - 2**64
_MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64), (31, 1))


@dataclass(frozen=True)
class View:
    """What the model sees of a stored image: resized to `resized` pixels, its central `side` pixels cut out, scaled.

    - `crop_pct`: the share of the stored image's side that is seen, as timm calls it.
    - `mean`, `std`: of the channels in [0, 1], as the image processor has them.
    """

    side: int
    crop_pct: float
    mean: Colour
    std: Colour

    def __post_init__(self) -> None:
        if not 0 < self.crop_pct <= 1:
            raise CelluScanError(f"--crop_pct {self.crop_pct}: expected above 0 and at most 1, the share that is seen")

    @property
    def resized(self) -> int:
        """Side of the whole image after resizing, in pixels."""
        return round(self.side / self.crop_pct)

    @property
    def margin(self) -> int:
        """Pixels above and left of the cut-out."""
        return (self.resized - self.side) // 2

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, resized, resized) uint8 -> (B, 3, side, side) float32, as the image processor gives it."""
        images = len(pixels)
        return self.gathered(pixels, [[self.margin] * 2] * images, [0] * images, torch.ones(images, 3))

    def gathered(
        self,
        pixels: torch.Tensor,
        corners: list[list[int]],
        turns: list[int],
        factors: torch.Tensor,
        repaint: Callable[[torch.Tensor, slice], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """As above, each image cut out at its corner, turned (`cut`) and recoloured by its factors (`recolouring`).

        Between the two, `repaint` may change some cut-outs, given with their place in the batch. On the CPU a few
        images at a time, which stay in its cache from one step to the next.
        """
        factors = factors.to(pixels.device, non_blocking=True)
        scaled = pixels.new_empty((len(pixels), 3, self.side, self.side), dtype=torch.float32)
        at_once = _IN_CACHE if pixels.device.type == "cpu" else len(pixels)
        with one_thread():
            for start in range(0, len(pixels), at_once):
                part = slice(start, start + at_once)
                seen = cut(pixels[part], corners[part], turns[part], self.side)
                seen = repaint(seen, part) if repaint else seen
                scaled[part] = self.scaled(seen, *recolouring(seen, factors[part]))
        return scaled

    def scaled(self, pixels: torch.Tensor, mix: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        """`mix` (B, 3, 3) and `offset` (B, 3) or (3,) applied to the colours in [0, 1], then mean and std: one product.

        (B, 3, H, W), uint8 or float32 in [0, 255] -> float32.
        """
        mean, std = _constant((self.mean, self.std), pixels.device)
        mix = mix / (255 * std[:, None])
        offset = ((offset - mean) / std).expand(len(pixels), 3)
        return torch.baddbmm(offset[..., None], mix, pixels.flatten(2).float()).view(pixels.shape)


@dataclass(frozen=True)
class Augmentation:
    """What is done to an image in training; all of it is drawn per image.

    - `dihedral`: one of the eight turns and mirror images of a square, since a cell has no up.
    - `shift`: the cut-out moves by up to this share of its side, on each axis.
    - `color_jitter`: brightness, contrast and saturation are scaled by a factor from [1 - j, 1 + j] each.
    - `background_randomization`: the share of images in which what lies around the cell is repainted.
    """

    dihedral: bool
    shift: float
    color_jitter: float
    background_randomization: float
    seed: int

    def check(self, view: View) -> None:
        """Raises a `CelluScanError` where a shift would leave the stored image, or a number is out of range."""
        room = view.margin / view.side
        if not 0 <= self.shift <= room:
            raise CelluScanError(
                f"--shift {self.shift}: expected 0 to {room:.3f}, what --crop_pct {view.crop_pct} leaves around the "
                "cut-out as a share of its side"
            )
        if not 0 <= self.color_jitter < 1:
            raise CelluScanError(f"--color_jitter {self.color_jitter}: expected at least 0 and below 1")

    def __call__(self, pixels: torch.Tensor, draws: Sequence[int], view: View) -> torch.Tensor:
        """Images (B, 3, resized, resized) uint8 with their B draw numbers -> (B, 3, side, side) float32."""
        chance = uniform(torch.tensor(draws), 6 + background.DRAWS, self.seed)
        reach = int(self.shift * view.side)
        corners = view.margin - reach + (chance[:, :2] * (2 * reach + 1)).long()
        turns = (chance[:, 2] * (8 if self.dihedral else 1)).long()
        factors = 1 + self.color_jitter * (2 * chance[:, 3:6] - 1)
        repaint = self._repaint(chance[:, 6:].to(pixels.device)) if self.background_randomization else None
        return view.gathered(pixels, corners.tolist(), turns.tolist(), factors, repaint)

    def _repaint(self, chance: torch.Tensor) -> Callable[[torch.Tensor, slice], torch.Tensor]:
        return lambda seen, part: background.randomize_background(seen, chance[part], self.background_randomization)


@lru_cache(maxsize=64)
def _constant(values: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    """Copied to the device once: a copy from ordinary memory would wait for all that is under way there."""
    return torch.tensor(values, device=device)


def uniform(draws: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """For each draw number (B,) int64, `count` numbers from [0, 1) that follow from it and the seed: (B, count)."""
    lane = torch.arange(count, device=draws.device)
    key = torch.full_like(draws, seed) * _STEP  # int64 wraps around
    state = mixed(mixed(draws + key)[:, None] + lane * _STEP)
    return (state & (2**24 - 1)).float() / 2**24  # float32 holds 24 bits


def mixed(state: torch.Tensor) -> torch.Tensor:
    """The output function of SplitMix64 on int64, whose products wrap around as those of unsigned integers do."""
    for shift, factor in _MIX:
        state = (state ^ ((state >> shift) & (2 ** (64 - shift) - 1))) * factor  # a logical shift
    return state


def cut(pixels: torch.Tensor, corners: list[list[int]], turns: list[int], side: int) -> torch.Tensor:
    """From each image (B, 3, H, W) the square at its corner (top, left), turned or mirrored: (B, 3, side, side).

    A turn is one of the eight symmetries of the square: bit 0 mirrors columns, bit 1 rows, bit 2 swaps the axes first.
    """
    squares = []
    for image, (top, left), turn in zip(pixels, corners, turns, strict=True):
        square = image[:, top : top + side, left : left + side]
        square = square.transpose(1, 2) if turn & 4 else square
        mirrored = [axis for axis, bit in ((2, 1), (1, 2)) if turn & bit]
        squares.append(square.flip(mirrored) if mirrored else square)
    return torch.stack(squares)


def recolouring(pixels: torch.Tensor, factors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Brightness, contrast and saturation (B, 3) as one linear map of colours in [0, 1]: mix (B, 3, 3), offset (B, 3).

    As torchvision has them: contrast goes around the mean grey of the image, saturation around the grey of the pixel.
    Values are not clamped: the model sees them scaled anyway.
    """
    brightness, contrast, saturation = factors.unbind(1)
    luminance = _constant(_LUMINANCE, pixels.device)
    grey = pixels.flatten(2).float().mean(2) @ luminance / 255  # (B,), the same before and after saturation
    own = torch.eye(3, device=pixels.device) * saturation[:, None, None]
    mix = (brightness * contrast)[:, None, None] * (own + (1 - saturation)[:, None, None] * luminance)
    return mix, (brightness * (1 - contrast) * grey)[:, None].expand(-1, 3)
