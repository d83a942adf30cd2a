"""The eight rotations and flips of a square image, applied to pixels or to DCT coefficients.

Names are Pillow's (`Image.Transpose`). A flip changes the sign of the odd coefficients along its axis and a transpose
swaps rows and columns, so the DCT of a rotated or flipped image follows from that of the upright one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Orientation:
    """An optional transpose along the main diagonal, followed by optional left-right and top-bottom flips."""

    name: str
    transposed: bool = False
    left_right: bool = False
    top_bottom: bool = False

    @property
    def inverse(self) -> "Orientation":
        """The orientation that undoes this one: itself, except for rotations by 90° and 270°."""
        if not self.transposed or self.left_right == self.top_bottom:
            return self
        return ROTATE_270 if self is ROTATE_90 else ROTATE_90

    def pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a rotated or flipped view of an image (height, width, channels)."""
        turned = pixels.transpose(1, 0, 2) if self.transposed else pixels
        return turned[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]

    def coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the lowest DCT-II coefficients (..., N, N) of rotated or flipped images."""
        turned = coefficients.swapaxes(-1, -2) if self.transposed else coefficients
        signs = 1 - 2 * (np.arange(turned.shape[-1]) % 2)
        if self.left_right:
            turned = turned * signs
        return turned * signs[:, None] if self.top_bottom else turned


UPRIGHT = Orientation("upright")
ROTATE_90 = Orientation("rotate_90", transposed=True, top_bottom=True)  # counter-clockwise
ROTATE_270 = Orientation("rotate_270", transposed=True, left_right=True)
ORIENTATIONS = (
    UPRIGHT,
    Orientation("flip_left_right", left_right=True),
    Orientation("flip_top_bottom", top_bottom=True),
    Orientation("rotate_180", left_right=True, top_bottom=True),
    Orientation("transpose", transposed=True),
    Orientation("transverse", transposed=True, left_right=True, top_bottom=True),
    ROTATE_90,
    ROTATE_270,
)
