"""Crop images at their places, and rotate, mirror and zoom them."""

from functools import lru_cache

import torch
from torch.nn import functional


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


def affine(angle: torch.Tensor, mirrored: torch.Tensor, zoom: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Build maps from places in the view to places in the image, both from -1 to 1: (B, 2, 3).

    Args:
        angle: Rotation in radians, (B,).
        mirrored: Whether the view is mirrored, (B,) bool.
        zoom: Side of the view as a share of the image's side, (B,).
        shift: Right and down, as a share of the view's side, (B, 2).
    """
    cos, sin, flip = torch.cos(angle), torch.sin(angle), 1 - 2 * mirrored.float()
    rotation = torch.stack([torch.stack([cos * flip, -sin], dim=1), torch.stack([sin * flip, cos], dim=1)], dim=1)
    return zoom[:, None, None] * torch.cat([rotation, 2 * shift[..., None]], dim=2)


def sample(pixels: torch.Tensor, maps: torch.Tensor, side: int) -> torch.Tensor:
    """Look at images (B, 3, H, W) uint8 through `affine` maps, bilinear: (B, 3, side, side) float32 in [0, 255].

    Beyond its edges an image is reflected.
    """
    grid = (maps @ _places(side, maps.device)).view(-1, 2, side, side).permute(0, 2, 3, 1)
    return functional.grid_sample(pixels.float(), grid, padding_mode="reflection", align_corners=False)


@lru_cache(maxsize=64)
def _places(side: int, device: torch.device) -> torch.Tensor:
    """Centres of the pixels of a square from -1 to 1, as rows x, y and 1: (3, side^2)."""
    steps = (2 * torch.arange(side, device=device) + 1) / side - 1
    return torch.stack([steps.repeat(side), steps.repeat_interleave(side), torch.ones(side**2, device=device)])
