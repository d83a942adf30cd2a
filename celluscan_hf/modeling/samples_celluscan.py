"""Scale samples of more than 8 bits to 8 bits.

Cameras with 10, 12 or 14 bits write 16-bit files whose upper bits are empty. So samples are scaled by their bit depth:
the one the file states, else that of the source, else the smallest of `DEPTHS` that holds the file's largest sample.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

DEPTHS = (8, 10, 12, 14, 16)  # bits per sample of common cameras
_WITH_ALPHA = {"LA", "RGBA", "RGBa"}
_KINDS = {"L": "grey", "LA": "grey", "CMYK": "cmyk"}  # else rgb
Samples16 = NDArray[np.uint16]


def depth_of(largest: int) -> int:
    """Return the smallest of `DEPTHS` that holds the largest sample."""
    return next(bits for bits in DEPTHS if largest < 2**bits)


@dataclass(frozen=True, slots=True)
class Scaled:
    """An 8-bit image made of deeper samples.

    - `conversion`: its depth and kind, as `12_bit_grey`.
    - `largest`: the largest sample if the file does not state its depth, else None.
    - `note`: a sentence if the depth was guessed from this file alone, else empty.
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
    - `stated_bits`: bits per sample that the file states, or None. A depth too small for the samples is ignored.
    - `white_is_zero`: whether 0 is white.
    """

    values: Samples16
    mode: str
    stated_bits: int | None = None
    white_is_zero: bool = False

    def scaled(self, bits: int | None = None) -> Scaled:
        """Convert to 8 bits; `bits` is the bit depth if the file states none."""
        colours = self.values[..., :-1] if self.mode in _WITH_ALPHA else self.values
        largest = int((self.values if self.mode == "RGBa" else colours).max(initial=0))
        stated = self.stated_bits if self.stated_bits and largest < 2**self.stated_bits else None
        depth = stated or max(bits or 0, depth_of(largest))
        if self.mode == "RGBa":
            colours = _divided(colours, self.values[..., -1:], depth)
        parts = [_to_8_bit(2**depth - 1 - colours if self.white_is_zero else colours, depth)]
        if self.mode in _WITH_ALPHA:
            alpha = self.values[..., -1:]
            parts.append(_to_8_bit(alpha, max(depth, depth_of(int(alpha.max(initial=0))))))
        levels = np.concatenate(parts, axis=2)
        guessed = stated is None and bits is None and depth < DEPTHS[-1]
        return Scaled(
            _as_image(levels, self.mode.upper()),
            f"{depth}_bit_{_KINDS.get(self.mode, 'rgb')}",
            largest if stated is None else None,
            f"taken for {depth}-bit samples, since the largest in this file is {largest}" if guessed else "",
        )


def _divided(colours: Samples16, alpha: Samples16, depth: int) -> Samples16:
    """Undo premultiplication by alpha."""
    straight = colours.astype(np.uint32) * (2**depth - 1) // np.maximum(alpha, 1)
    return np.minimum(straight, 2**depth - 1).astype(np.uint16)


def _to_8_bit(values: Samples16, depth: int) -> NDArray[np.uint8]:
    """Return the upper 8 of `depth` bits."""
    return (values >> (depth - 8)).astype(np.uint8)


def _as_image(levels: NDArray[np.uint8], mode: str) -> Image.Image:
    """Convert (H, W, channels) levels to a Pillow image."""
    height, width, _ = levels.shape
    return Image.frombytes(mode, (width, height), levels.tobytes())
