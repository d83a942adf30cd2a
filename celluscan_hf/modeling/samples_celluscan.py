"""Samples of more than 8 bits, and how they become 8.

Cameras of 10, 12 or 14 bits write 16-bit files whose upper bits are empty. So samples are scaled by their depth: that
which the file names, else that of the source, else the smallest of `DEPTHS` that holds the largest sample of the file.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEPTHS = (8, 10, 12, 14, 16)  # bits of a sample, of the cameras there are
_WITH_ALPHA = {"LA", "RGBA", "RGBa"}
_KINDS = {"L": "grey", "LA": "grey", "CMYK": "cmyk"}  # else rgb
Samples16 = NDArray[np.uint16]


def depth_of(largest: int) -> int:
    """The smallest of `DEPTHS` that holds a sample."""
    return next(bits for bits in DEPTHS if largest < 2**bits)


@dataclass(frozen=True, slots=True)
class Scaled:
    """An 8-bit image made of deeper samples.

    - `conversion`: its depth and kind, as `12_bit_grey`.
    - `largest`: the largest sample, where the file does not name the depth; else None.
    - `note`: in words, where the depth is a guess from this file alone; else empty.
    """

    image: Image.Image
    conversion: str
    largest: int | None
    note: str


@dataclass(frozen=True, slots=True)
class Samples:
    """Unscaled samples.

    - `values`: (H, W, channels) of uint16.
    - `mode`: Pillow's mode of an 8-bit image with these channels: L, LA, RGB, RGBA, RGBa or CMYK.
    - `named`: the bits of a sample that the file names, or None. A depth that does not hold the samples is ignored.
    - `white_is_zero`: whether grey levels count from white.
    """

    values: Samples16
    mode: str
    named: int | None = None
    white_is_zero: bool = False

    def scaled(self, bits: int | None = None) -> Scaled:
        """The image in 8 bits; `bits` is the depth of a sample where the file names none."""
        colours = self.values[..., :-1] if self.mode in _WITH_ALPHA else self.values
        largest = int((self.values if self.mode == "RGBa" else colours).max(initial=0))
        named = self.named if self.named and largest < 2**self.named else None
        depth = named or max(bits or 0, depth_of(largest))
        if self.mode == "RGBa":
            colours = _divided(colours, self.values[..., -1:], depth)
        parts = [_to_8_bit(2**depth - 1 - colours if self.white_is_zero else colours, depth)]
        if self.mode in _WITH_ALPHA:
            alpha = self.values[..., -1:]
            parts.append(_to_8_bit(alpha, max(depth, depth_of(int(alpha.max(initial=0))))))
        levels = np.concatenate(parts, axis=2)
        guessed = named is None and bits is None and depth < DEPTHS[-1]
        return Scaled(
            _as_image(levels, self.mode.upper()),
            f"{depth}_bit_{_KINDS.get(self.mode, 'rgb')}",
            largest if named is None else None,
            f"taken for {depth}-bit samples, since the largest of this file is {largest}" if guessed else "",
        )


def _divided(colours: Samples16, alpha: Samples16, depth: int) -> Samples16:
    """Colours that were multiplied by alpha, as they were before."""
    straight = colours.astype(np.uint32) * (2**depth - 1) // np.maximum(alpha, 1)
    return np.minimum(straight, 2**depth - 1).astype(np.uint16)


def _to_8_bit(values: Samples16, depth: int) -> NDArray[np.uint8]:
    """The upper 8 of `depth` bits."""
    return (values >> (depth - 8)).astype(np.uint8)


def _as_image(levels: NDArray[np.uint8], mode: str) -> Image.Image:
    """Pillow's image of (H, W, channels) grey levels."""
    height, width, _ = levels.shape
    return Image.frombytes(mode, (width, height), levels.tobytes())
