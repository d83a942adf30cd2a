"""Padding to a square and resizing, the same for every image of the project.

Padding has the mean colour of the train originals, so that it is about zero after normalization. That colour is known
only after all images have been scanned. So each image is decoded and resized once with black padding, and the colour is
added afterwards, weighted by the share of padding in each pixel. Since bilinear resizing is linear, the result is that
of padding first, up to rounding by one grey level.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
_FULL = 0.999  # coverage of a pixel; rounding keeps some from reaching 1


def square(image: Image.Image, size: int) -> Pixels:
    """Pad an RGB image with zeros to a square, content centred, and resize it: (size, size, 3)."""
    side = max(image.size)
    if image.width != image.height:
        padded = Image.new("RGB", (side, side))
        padded.paste(image, _offset(image.width, image.height))
        image = padded
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@lru_cache(maxsize=64)
def content_box(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the pixels without padding in the square of an image `width` x `height`."""
    inside = coverage(width, height, size) > _FULL
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if len(rows) == 0:  # the image is too thin to fill a pixel
        return size // 2, size // 2, size // 2 + 1, size // 2 + 1
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def pad(pixels: Pixels, width: int, height: int, colour: tuple[int, int, int]) -> Pixels:
    """Colour the zero padding of `square`'s result (size, size, 3) in place; `colour` is 0–255 per channel."""
    size = len(pixels)
    left, top, right, bottom = content_box(width, height, size)
    padding = 1.0 - coverage(width, height, size)[..., None]
    for band in (np.s_[:top], np.s_[bottom:], np.s_[:, :left], np.s_[:, right:]):  # one axis is padded, so no overlap
        filled = pixels[band] + padding[band] * np.asarray(colour, np.float32)
        pixels[band] = (filled + 0.5).clip(0, 255)
    return pixels


@lru_cache(maxsize=64)
def coverage(width: int, height: int, size: int) -> NDArray[np.float32]:
    """Return the share of each pixel of the square that the image covers, (size, size) in [0, 1]."""
    x, y = _offset(width, height)
    columns = _covered(width, x, max(width, height), size)
    rows = _covered(height, y, max(width, height), size)
    return rows[:, None] * columns


def _covered(length: int, start: int, side: int, size: int) -> NDArray[np.float32]:
    line = np.zeros((1, side), np.float32)
    line[0, start : start + length] = 1.0
    resized = Image.fromarray(line).resize((size, 1), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32).reshape(size)


def _offset(width: int, height: int) -> tuple[int, int]:
    side = max(width, height)
    return (side - width) // 2, (side - height) // 2
