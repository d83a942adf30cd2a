"""Change the stain, the light and the camera of images.

Stain absorbs light: in optical density, the negative logarithm of the transmitted share, the dyes add up. There,
another amount of a dye, another lamp and another gamma are one linear map; contrast, saturation and a camera's mix of
channels are another one, of the colours themselves.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
# Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok and Johnston 2001), rows of length 1.
# Wright-Giemsa has other dyes; the first two directions still part its blue from its red.
_STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
_LOG_WHITE = math.log(256)


def density_map(
    stain: torch.Tensor, added: torch.Tensor, white_balance: torch.Tensor, gamma: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine changes of stain, light and gamma in a linear map of optical densities: mix (B, 3, 3), offset (B, 3).

    Args:
        stain: Factors on the three dyes' concentrations, (B, 3).
        added: Concentrations to add, (B, 3).
        white_balance: Factors on the light of each channel, (B, 3).
        gamma: Exponent of the colours, (B,).
    """
    stains = constant(_STAINS, stain.device)
    mix = (torch.linalg.inv(stains) @ (stain[..., None] * stains)).mT  # to concentrations, changed, and back
    return gamma[:, None, None] * mix, gamma[:, None] * (added @ stains) - white_balance.log()


def change_density(pixels: torch.Tensor, mix: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Apply a map of `density_map` to images (B, 3, H, W) float32 in [0, 255]; results are clipped to that range."""
    offset = _LOG_WHITE * (1 - mix.sum(dim=2)) - offset  # as logarithms of colours from 1 to 256, not of shares
    logarithms = (pixels + 1).log_().flatten(2)  # faster than log1p, and as exact in this range
    return torch.baddbmm(offset[..., None], mix, logarithms).exp_().sub_(1).clamp_(0, 255).view(pixels.shape)


def color_matrix(
    pixels: torch.Tensor, factors: torch.Tensor, channels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Combine a mix of channels (B, 3, 3), then brightness, contrast and saturation (B, 3), in a linear map of colours.

    Returns a mix (B, 3, 3) and an offset (B, 3).

    `pixels` (B, 3, H, W) are float32 in [0, 255]; the map is of colours in [0, 1]. As in torchvision, contrast scales
    around the mean grey of the image and saturation around the grey of the pixel. Values are not clamped, since they
    are normalized next.
    """
    brightness, contrast, saturation = factors.unbind(1)
    luminance = constant(_LUMINANCE, pixels.device)
    mean = channels @ pixels.flatten(2).mean(2)[..., None] / 255  # (B, 3, 1)
    grey = mean[..., 0] @ luminance  # (B,), the same before and after saturation
    own = torch.eye(3, device=pixels.device) * saturation[:, None, None]
    mix = (brightness * contrast)[:, None, None] * (own + (1 - saturation)[:, None, None] * luminance)
    return mix @ channels, (brightness * (1 - contrast) * grey)[:, None].expand(-1, 3)


def blur(pixels: torch.Tensor) -> torch.Tensor:
    """Blur images (B, 3, H, W) float32 by a binomial kernel of 3 x 3 pixels."""
    pixels = functional.pad(pixels, (1, 1, 1, 1), mode="replicate")
    for axis in (2, 2, 3, 3):  # means of neighbours, twice along each axis
        count = pixels.shape[axis] - 1
        pixels = torch.lerp(pixels.narrow(axis, 0, count), pixels.narrow(axis, 1, count), 0.5)
    return pixels


@lru_cache(maxsize=64)
def constant(values: tuple[Any, ...], device: torch.device) -> torch.Tensor:
    """Copy values to the device once: a copy from pageable memory waits for all work queued there."""
    return torch.tensor(values, device=device)
