"""Several looks at one image, mirrored and cropped, whose mean answers better than one.

This file is shipped with every checkpoint as remote code, so it stands alone: it imports nothing of this package.
"""

from collections.abc import Sequence

import torch
from torch import nn


def symmetries(images: torch.Tensor, views: int) -> torch.Tensor:
    """The first `views` of the eight symmetries of a square: (B, C, H, W) -> (views * B, C, H, W).

    Raises a `ValueError` for images that are not square, if the transposed ones are among the views.
    """
    if views > 4 and images.shape[2] != images.shape[3]:
        raise ValueError(f"views={views} needs square images, got {images.shape[2]} x {images.shape[3]}; give 4")
    flipped = [images, images.flip(3), images.flip(2), images.flip((2, 3))]
    return torch.cat((flipped + [image.mT for image in flipped])[:views])


def looks(pictures: torch.Tensor, crops: Sequence[float], side: int) -> torch.Tensor:
    """Look around the middle of pictures of the largest crop: (B, C, H, H) -> (len(crops) * B, C, side, side)."""
    images = []
    for crop in crops:
        kept = round(crop / max(crops) * pictures.shape[2])
        start = (pictures.shape[2] - kept) // 2
        middle = pictures[:, :, start : start + kept, start : start + kept]
        size = (side, side)
        images.append(
            middle if kept == side else nn.functional.interpolate(middle, size, mode="bilinear", antialias=True)
        )
    return torch.cat(images)
