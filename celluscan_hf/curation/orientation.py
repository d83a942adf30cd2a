"""The eight symmetries of the square, on pixels and on DCT coefficients.

Names are Pillow's (`Image.Transpose`). A mirror changes the sign of the coefficients of odd frequency along its axis,
a transposition swaps rows and columns: the transform of a turned image follows from that of the upright one.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Orientation:
    """A transposition along the main diagonal (or none), then mirrors: left to right, top to bottom (or neither)."""

    name: str
    transposed: bool = False
    left_right: bool = False
    top_bottom: bool = False

    @property
    def inverse(self) -> "Orientation":
        """The orientation that undoes this one: itself, but for the two quarter turns."""
        if not self.transposed or self.left_right == self.top_bottom:
            return self
        return ROTATE_270 if self is ROTATE_90 else ROTATE_90

    def pixels(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """The turned view of an image (height, width, channels)."""
        turned = pixels.transpose(1, 0, 2) if self.transposed else pixels
        return turned[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]

    def coefficients(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """The lowest DCT-II coefficients (N, N) of the turned image."""
        turned = coefficients.T if self.transposed else coefficients
        signs = 1 - 2 * (np.arange(len(turned)) % 2)
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
