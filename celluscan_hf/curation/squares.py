"""Padding to a square and resizing: the one rule for every image of the project.

The padding has the mean colour of the train originals (so that it is about zero once normalised), and that colour is
known only after all images were looked at. Bilinear resizing is linear, so each image is decoded and resized once,
padded with zero; the colour is added afterwards, weighted by how much of each pixel the padding covers. The result is
what padding first would have given, but for rounding by one grey level.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
_WHOLE = 0.999  # of a pixel; rounding keeps some from reaching 1


def square(image: Image.Image, size: int) -> Pixels:
    """An RGB image padded with zero to a square, content centred, and resized: (size, size, 3)."""
    side = max(image.size)
    if image.width != image.height:
        padded = Image.new("RGB", (side, side))
        padded.paste(image, _offset(image.width, image.height))
        image = padded
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


@lru_cache(maxsize=64)
def content_box(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the pixels of a square that hold nothing but the image of `width` x `height`."""
    whole = coverage(width, height, size) > _WHOLE
    rows, columns = np.flatnonzero(whole.any(axis=1)), np.flatnonzero(whole.any(axis=0))
    if len(rows) == 0:  # an image so thin that it fills no pixel
        return size // 2, size // 2, size // 2 + 1, size // 2 + 1
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def pad(pixels: Pixels, width: int, height: int, colour: tuple[int, int, int]) -> Pixels:
    """`pixels` of `square` (size, size, 3) with its zero padding given a colour, 0–255 per channel, in place."""
    size = len(pixels)
    left, top, right, bottom = content_box(width, height, size)
    padding = 1.0 - coverage(width, height, size)[..., None]
    for band in (np.s_[:top], np.s_[bottom:], np.s_[:, :left], np.s_[:, right:]):  # one axis is padded, so no overlap
        filled = pixels[band] + padding[band] * np.asarray(colour, np.float32)
        pixels[band] = (filled + 0.5).clip(0, 255)
    return pixels


@lru_cache(maxsize=64)
def coverage(width: int, height: int, size: int) -> NDArray[np.float32]:
    """The share of each pixel of the square that the image covers, (size, size) in [0, 1]."""
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
