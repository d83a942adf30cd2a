"""Augment batches of stored uint8 images on the model's device.

torchvision's v2 transforms draw one set of parameters per batch. Here every image has its own, from its draw number.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..errors import CelluScanError
from . import background
from .colors import blur, change_density, color_matrix, density_map
from .draws import uniform
from .geometry import affine, crop, sample
from .view import View

Chances = dict[str, torch.Tensor]
Crops = Callable[[torch.Tensor, slice], torch.Tensor]  # of the images of a batch and a part of it
# which images of a batch (B,) are changed; and their change, from them (b, 3, H, W) and their rows (b,)
Change = tuple[torch.Tensor, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]
ROTATIONS = ("none", "dihedral", "any")
_ADDED, _MIXED = 10, 3  # see `Augmentation.stain`
# Settings that are ranges of factors, and the most that is sensible.
RANGES = {
    "zoom": (0.1, 2.0),
    "stain": (0.0, 3.0),
    "white_balance": (0.3, 3.0),
    "gamma": (0.2, 5.0),
    "contrast": (0.1, 3.0),
    "saturation": (0.0, 3.0),
}
# Random numbers per image and what they decide. Append only: a new one must not change the others.
_LANES = {
    "shift": 2,
    "symmetry": 1,
    "jitter": 3,
    "background": background.DRAWS,
    "strong": 1,
    "angle": 1,
    "zoom": 1,
    "stain": 3,
    "added_stain": 3,
    "channels": 6,
    "white_balance": 3,
    "gamma": 1,
    "contrast": 1,
    "saturation": 1,
    "grayscale": 1,
    "blur": 1,
}


@dataclass(frozen=True)
class Augmentation:
    """The training transform; its parameters are drawn for each image.

    All images:
    - `rotate`: `none`; `dihedral`, one of the eight rotations and reflections of the square; or `any` angle, mirrored
      or not. Cells have no upright orientation.
    - `shift`: move the crop by up to this share of its side, on each axis.
    - `color_jitter`: scale brightness, contrast and saturation by a factor from [1 - j, 1 + j] each.
    - `background_randomization`: share of images whose background is randomized.

    A share of the images, `augmented_share`, as other microscopes, stains and cameras would show them. Each is a range
    of factors that are drawn from, where 1 changes nothing; empty: off.
    - `zoom`: side of the view as a share of the image's side, log-uniform, instead of the view's `crop_pct`.
    - `stain`: amount of each of three dyes, in optical density; a tenth of the range is added where there was none, and
      a third of it mixes the channels.
    - `white_balance`: light of each channel.
    - `gamma`: exponent, log-uniform.
    - `contrast`, `saturation`: as in torchvision.
    - `grayscale`, `blur`: share of these images that lose all colour, or detail.
    """

    rotate: str = "none"
    shift: float = 0.0
    color_jitter: float = 0.0
    background_randomization: float = 0.0
    augmented_share: float = 1.0
    zoom: Sequence[float] = ()
    stain: Sequence[float] = ()
    white_balance: Sequence[float] = ()
    gamma: Sequence[float] = ()
    contrast: Sequence[float] = ()
    saturation: Sequence[float] = ()
    grayscale: float = 0.0
    blur: float = 0.0
    seed: int = 0

    def check(self, view: View) -> None:
        """Raise a `CelluScanError` if a shifted crop would leave the stored image, or a value is out of range."""
        largest = view.margin / view.side
        if not 0 <= self.shift <= (1 if self._any_view else largest):
            raise CelluScanError(
                f"--shift {self.shift}: expected 0 to {largest:.3f}, the margin that --crop_pct {view.crop_pct} leaves "
                "around the crop, as a share of its side"
            )
        if self.rotate not in ROTATIONS:
            raise CelluScanError(f"--rotate {self.rotate}: expected one of {', '.join(ROTATIONS)}")
        if not 0 <= self.color_jitter < 1:
            raise CelluScanError(f"--color_jitter {self.color_jitter}: expected at least 0 and below 1")
        for name, (lowest, highest) in RANGES.items():
            values = getattr(self, name)
            if values and not (len(values) == 2 and lowest <= values[0] <= values[1] <= highest):
                raise CelluScanError(
                    f"--{name} {' '.join(map(str, values))}: expected two factors, from {lowest:g} to {highest:g}, the "
                    "smaller one first; 1 changes nothing"
                )

    def __call__(
        self, pixels: torch.Tensor, draws: Sequence[int], view: View, at_home: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Images (B, 3, resized, resized) uint8 with their B draw numbers -> (B, 3, side, side) float32.

        `at_home` (B,) bool: images that are never shown as from another laboratory, whatever `augmented_share` says.
        """
        numbers = uniform(torch.tensor(draws), sum(_LANES.values()), self.seed)
        on_device = _by_name(numbers.to(pixels.device, non_blocking=True))
        strong = on_device["strong"][:, 0] < self.augmented_share  # (B,)
        strong = strong if at_home is None else strong & ~at_home
        crops = self._views(on_device, strong, view) if self._any_view else self._squares(_by_name(numbers), view)
        changes = self._changes(on_device, strong)
        factors, channels = self._color_factors(on_device, strong)

        def transform(part: slice, pixel_values: torch.Tensor) -> None:
            images = crops(pixels, part).float()
            if self.background_randomization:
                chance = on_device["background"][part]
                images = background.randomize_background(images, chance, self.background_randomization)
            for rows, change in changes:
                if len(chosen := rows[part].nonzero()[:, 0]):
                    images[chosen] = change(images[chosen], chosen + (part.start or 0))
            view.normalize(images, *color_matrix(images, factors[part], channels[part]), pixel_values)

        return view.in_chunks(pixels, transform)

    @property
    def _any_view(self) -> bool:
        """Whether views are sampled between pixels, instead of cropped."""
        return self.rotate == "any" or bool(self.zoom and self.augmented_share)

    def _squares(self, chances: Chances, view: View) -> Crops:
        """Crop at whole pixels."""
        reach = int(self.shift * view.side)
        corners = (view.margin - reach + (chances["shift"] * (2 * reach + 1)).long()).tolist()
        symmetries = self._symmetries(chances).tolist()
        return lambda pixels, part: crop(pixels[part], corners[part], symmetries[part], view.side)

    def _symmetries(self, chances: Chances) -> torch.Tensor:
        return (chances["symmetry"][:, 0] * (1 if self.rotate == "none" else 8)).long()

    def _views(self, chances: Chances, strong: torch.Tensor, view: View) -> Crops:
        """Sample at any angle and scale."""
        symmetries = self._symmetries(chances)
        turns = chances["angle"][:, 0] if self.rotate == "any" else (symmetries & 3) / 4
        zoom = torch.full_like(turns, view.side / view.resized)
        if self.zoom:
            zoom = torch.where(strong, log_uniform(self.zoom, chances["zoom"][:, 0]), zoom)
        shift = self.shift * (2 * chances["shift"] - 1)
        maps = affine(2 * math.pi * turns, symmetries > 3, zoom, shift)
        return lambda pixels, part: sample(pixels[part], maps[part], view.side)

    def _changes(self, chances: Chances, strong: torch.Tensor) -> list[Change]:
        """Changes of density and sharpness, each with the images that it is for."""
        changes: list[Change] = []
        if self.stain or self.white_balance or self.gamma:
            mix, offset = density_map(*self._density_factors(chances))
            changes.append((strong, lambda images, rows: change_density(images, mix[rows], offset[rows])))
        if self.blur:
            changes.append((strong & (chances["blur"][:, 0] < self.blur), lambda images, _: blur(images)))
        return changes

    def _density_factors(self, chances: Chances) -> tuple[torch.Tensor, ...]:
        ones = torch.ones_like(chances["stain"])
        stain = linear(self.stain, chances["stain"]) if self.stain else ones
        added = linear(self.stain, chances["added_stain"]).sub(1).div(_ADDED) if self.stain else 0 * ones
        white_balance = linear(self.white_balance, chances["white_balance"]) if self.white_balance else ones
        gamma = log_uniform(self.gamma, chances["gamma"][:, 0]) if self.gamma else ones[:, 0]
        return stain, added, white_balance, gamma

    def _color_factors(self, chances: Chances, strong: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Brightness, contrast and saturation (B, 3), and the mix of channels (B, 3, 3)."""
        factors = 1 + self.color_jitter * (2 * chances["jitter"] - 1)
        for column, name in ((1, "contrast"), (2, "saturation")):
            if values := getattr(self, name):
                factors[:, column] = torch.where(strong, linear(values, chances[name][:, 0]), factors[:, column])
        factors[:, 2] *= ~(strong & (chances["grayscale"][:, 0] < self.grayscale))
        return factors, self._channels(chances, strong)

    def _channels(self, chances: Chances, strong: torch.Tensor) -> torch.Tensor:
        """Take a little of the other channels into each, so that grey stays grey."""
        channels = torch.eye(3, device=strong.device).expand(len(strong), 3, 3)
        if not self.stain:
            return channels
        others = linear(self.stain, chances["channels"]).sub(1).div(_MIXED) * strong[:, None]  # (B, 6)
        off_diagonal = torch.zeros_like(channels)
        off_diagonal[:, ~torch.eye(3, dtype=torch.bool, device=strong.device)] = others
        return channels + off_diagonal - torch.diag_embed(off_diagonal.sum(dim=2))


def linear(values: Sequence[float], chance: torch.Tensor) -> torch.Tensor:
    """Draw from a range uniformly."""
    low, high = values
    return low + (high - low) * chance


def log_uniform(values: Sequence[float], chance: torch.Tensor) -> torch.Tensor:
    """Draw from a range so that a factor and its inverse are as likely."""
    low, high = values
    return low * (high / low) ** chance


def _by_name(numbers: torch.Tensor) -> Chances:
    return dict(zip(_LANES, torch.split(numbers, list(_LANES.values()), dim=1), strict=True))
