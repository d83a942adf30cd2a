"""What identifies an image (perceptual hash, pixel digest) and what identifies the camera that took it."""

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from .orientation import ORIENTATIONS

_SIZE_STEP = 32  # pixels; crops of one camera differ by a few
_HASHED = 64  # pixels a side that are left for the hash to be computed from
_DCT, _FREQUENCIES = 32, 8  # pixels a side that are transformed, and coefficients a side that are kept
_RING = 4  # pixels of the border that are taken for background
_STEP = 4  # every fourth along the border is enough for a median
_TINT = 24  # grey levels between the channels from which a background counts as tinted
_DARK = 150  # grey levels below which a background counts as dark: black corners, fluorescence


def perceptual_hashes(image: Image.Image) -> NDArray[np.uint64]:
    """The 64-bit DCT hashes (pHash, Zauner 2010) of a grey image in all `ORIENTATIONS`, (8,); the first is upright.

    All follow from one transform. The first is that of the library imagehash for an image whose larger copies were
    averaged first, which makes the library's wide filter fast.
    """
    factor = min(image.size) // _HASHED
    small = (image.reduce(factor) if factor > 1 else image).resize((_DCT, _DCT), Image.Resampling.LANCZOS)
    lowest = dctn(np.asarray(small, np.float64))[:_FREQUENCIES, :_FREQUENCIES]
    turned = np.stack([orientation.coefficients(lowest) for orientation in ORIENTATIONS])
    bits = turned > np.median(turned, axis=(1, 2), keepdims=True)
    return np.packbits(bits.reshape(len(turned), -1), axis=1).view(">u8").ravel().astype(np.uint64)


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """16 bytes that are equal for images equal pixel for pixel, however their files are coded."""
    digest = xxhash.xxh3_128(str(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.digest()


def capture(width: int, height: int, coding: str) -> str:
    """Size class and coding of a whole opened image (pixels; format and quantisation table).

    With the tone of the background behind it, it is the fingerprint of an acquisition.
    """
    return f"{width // _SIZE_STEP * _SIZE_STEP}x{height // _SIZE_STEP * _SIZE_STEP}/{coding}"


def background_colour(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The median RGB of the outermost pixels of an image (height, width, 3): (3,) in [0, 255]."""
    bands = (pixels[:_RING, ::_STEP], pixels[-_RING:, ::_STEP], pixels[::_STEP, :_RING], pixels[::_STEP, -_RING:])
    ring = np.concatenate([band.reshape(-1, 3) for band in bands])
    median: NDArray[np.float64] = np.sort(ring, axis=0)[len(ring) // 2].astype(np.float64)
    return median


def tone(background: NDArray[np.float64]) -> str:
    """`dark`, `neutral`, `warm` (red over blue) or `cool` (blue over red)."""
    red, _, blue = background
    if background.mean() < _DARK:
        return "dark"
    if abs(red - blue) < _TINT:
        return "neutral"
    return "warm" if red > blue else "cool"
