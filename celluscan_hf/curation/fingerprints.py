"""Fingerprints of an image (perceptual hash, pixel digest) and of its acquisition (size, coding, background tone)."""

import numpy as np
import xxhash
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from .orientation import ORIENTATIONS

_SIZE_STEP = 32  # pixels; crops from one camera differ by a few
_MIN_HASHED = 64  # shorter side in pixels after the averaging that precedes the hash
_DCT, _FREQUENCIES = 32, 8  # side of the transformed image, and of the block of coefficients that is kept
_BORDER = 4  # width in pixels of the border that counts as background
_STEP = 4  # every fourth pixel of the border is enough for a median
_TINT = 24  # grey levels; a larger difference between red and blue is a tint
_DARK = 150  # grey levels; a background below it is dark: black corners, fluorescence


def perceptual_hashes(image: Image.Image) -> NDArray[np.uint64]:
    """Compute the 64-bit DCT hashes (pHash, Zauner 2010) of a grey image in all `ORIENTATIONS`, (8,), upright first.

    All follow from one transform. The upright hash equals that of the library imagehash, except that a large image is
    averaged first, which makes the resizing much faster.
    """
    return hashes_of(low_frequencies(image))


def low_frequencies(image: Image.Image) -> NDArray[np.float64]:
    """Compute the lowest DCT-II coefficients of a grey image, (8, 8)."""
    factor = min(image.size) // _MIN_HASHED
    small = (image.reduce(factor) if factor > 1 else image).resize((_DCT, _DCT), Image.Resampling.LANCZOS)
    lowest: NDArray[np.float64] = dctn(np.asarray(small, np.float64))[:_FREQUENCIES, :_FREQUENCIES]
    return lowest


def hashes_of(lowest: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Compute hashes in all `ORIENTATIONS`, (..., 8), from the lowest coefficients of upright images, (..., 8, 8)."""
    coefficients = np.stack([orientation.coefficients(lowest) for orientation in ORIENTATIONS], axis=-3)
    bits = coefficients > np.median(coefficients, axis=(-2, -1), keepdims=True)
    return np.packbits(bits.reshape(*bits.shape[:-2], -1), axis=-1).view(">u8")[..., 0].astype(np.uint64)


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """Return 16 bytes that are equal if and only if all pixels are equal, however the files are coded."""
    digest = xxhash.xxh3_128(str(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.digest()


def capture(width: int, height: int, coding: str) -> str:
    """Return the size class in pixels and the coding (format, quantization table) of a decoded image, before cropping.

    Followed by the tone of the background, this is the fingerprint of an acquisition.
    """
    return f"{width // _SIZE_STEP * _SIZE_STEP}x{height // _SIZE_STEP * _SIZE_STEP}/{coding}"


def background_colour(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the median RGB of the border of an image (height, width, 3): (3,) in [0, 255]."""
    bands = (
        pixels[:_BORDER, ::_STEP],
        pixels[-_BORDER:, ::_STEP],
        pixels[::_STEP, :_BORDER],
        pixels[::_STEP, -_BORDER:],
    )
    border = np.concatenate([band.reshape(-1, 3) for band in bands])
    median: NDArray[np.float64] = np.sort(border, axis=0)[len(border) // 2].astype(np.float64)
    return median


def tone(background: NDArray[np.float64]) -> str:
    """Return `dark`, `neutral`, `warm` (more red than blue) or `cool` (more blue than red)."""
    red, _, blue = background
    if background.mean() < _DARK:
        return "dark"
    if abs(red - blue) < _TINT:
        return "neutral"
    return "warm" if red > blue else "cool"
