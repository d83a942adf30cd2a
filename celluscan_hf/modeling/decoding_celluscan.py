"""Decode untrusted image files to RGB; builds, `celluscan predict`, the pipeline and the demo page all use this module.

Conversions: CMYK and other colour spaces through Pillow to RGB; a palette to its colours; grey to three equal channels;
samples of more than 8 bits to their upper 8 (see `samples_celluscan`); a constant alpha channel is dropped; any other
is composited over white, the brightness of an empty field; EXIF orientation is applied.

This file is shipped with every hand-built checkpoint as remote code, so it stands alone: it imports nothing of this
package but the files beside it.
"""

import hashlib
import io
import sys
import warnings
import zlib
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, UnidentifiedImageError

from .errors_celluscan import BadImage
from .formats_celluscan import name_format
from .samples_celluscan import Samples
from .tiff_celluscan import Layout, is_tiff, read_layout, read_samples

MAX_PIXELS = 40_000_000  # a full field of a 40-megapixel camera
MIN_SIDE = 16  # pixels; below it a nucleus cannot be recognised
MAX_SQUARE_PIXELS = 2 * MAX_PIXELS  # of the square that an image is padded to; 16 x 2,500,000 would take terabytes
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_ORIENTATION = 0x0112
_TURNS = {  # other EXIF orientations change nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY = {"1", "L"}
_GREY_16 = {"I;16", "I;16L", "I;16B", "I;16N"}
_UNSUPPORTED = {"I": "32-bit integer", "F": "32-bit float", "LAB": "CIELAB"}  # no range is known to map to 8 bits
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH, _PNG_COLOUR = 24, 25  # offsets of the bit depth and colour type in a PNG
_GREY_ALPHA, _RGBA = 4, 6  # colour types
_FULL_DEPTH = 64  # if an upper byte is at least this, all 16 bits are in use
_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}  # byte orders of Pillow's raw modes


Uint16 = NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Decoded:
    """An RGB image from a file.

    - `coding`: how the file was coded (`jpeg-<quantisation table>`, `tiff`, …).
    - `conversions`: the conversions applied, as short codes.
    - `largest_sample`: largest sample of more than 8 bits if the file does not state its bit depth, else None.
    - `note`: a sentence on what was guessed from this file alone; empty if nothing was.
    """

    image: Image.Image
    coding: str
    conversions: tuple[str, ...]
    largest_sample: int | None = None
    note: str = ""


def decode(data: bytes, bits: int | None = None) -> Decoded:
    """Decode one image file; `bits` is the depth of samples of more than 8 bits if the file does not state it.

    Raises `BadImage` with one of the reasons `empty_file`, `git_lfs_pointer`, `html_page`, `archive`, `not_an_image`,
    `unsupported_format`, `too_many_pixels`, `too_small`, `animated`, `multi_page`, `truncated`, `undecodable`,
    `unsupported_mode`.
    """
    if not data:
        raise BadImage("empty_file")
    try:
        tiff = read_layout(data) if is_tiff(data) else None
        if tiff is not None:
            _check_size(tiff.width, tiff.height)
            if not tiff.by_pillow:
                return _to_decoded(_decode_with_tifffile(data, tiff), "tiff", tiff.orientation, bits)
        return _decode_with_pillow(data, tiff, bits)
    except BadImage:
        raise
    except Exception as error:  # decoders raise many types on damaged files; none may stop a build
        raise BadImage("truncated" if "truncated" in str(error) else "undecodable", str(error)) from error


def decode_opened(image: Image.Image) -> Decoded:
    """Decode an image that Pillow has opened. If its pixels were not loaded yet, they are decoded from its file.

    Raises `BadImage` as `decode` does.
    """
    file = getattr(image, "fp", None) if isinstance(image, ImageFile.ImageFile) and image.tile else None
    if file is not None and image.tell() == 0:
        position = file.tell()
        file.seek(0)
        data = file.read()
        file.seek(position)
        return decode(data)
    _check_size(*image.size)
    frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    if frames > 1:
        raise BadImage("multi_page" if image.format == "TIFF" else "animated", f"has {frames} pages, expected one")
    return _to_decoded(_grey_16(image) or image, _coding(image), image.getexif().get(_ORIENTATION, 1))


def decode_array(values: NDArray[Any]) -> Decoded:
    """Decode pixels in memory: uint8 or uint16 of shape (H, W) or (H, W, 1, 3 or 4)."""
    _check_size(values.shape[1], values.shape[0])
    values = values[..., None] if values.ndim == 2 else values
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[values.shape[2]]
    if values.dtype == np.uint16:
        return _to_decoded(Samples(values, mode), "")
    return _to_decoded(Image.frombytes(mode, values.shape[1::-1], values.tobytes()), "")


def largest_sample(data: bytes) -> int | None:
    """Return the largest sample of a file of more than 8 bits that does not state its depth; None for other files.

    Raises `BadImage` as `decode` does.
    """
    if is_tiff(data):
        tiff = read_layout(data)
        deep = tiff.bits > 8 and tiff.stated_bits is None
    else:
        deep = _is_png_16(data)
    return decode(data).largest_sample if deep else None


def check_shape(image: Image.Image) -> None:
    """Refuse an image so elongated that the square it is padded to would exhaust memory."""
    if max(image.size) ** 2 > MAX_SQUARE_PIXELS:
        raise BadImage("too_elongated", f"{image.width}x{image.height}, over {MAX_SQUARE_PIXELS} pixels as a square")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise BadImage("too_many_pixels", f"{width}x{height}, at most {MAX_PIXELS}")
    if min(width, height) < MIN_SIDE:
        raise BadImage("too_small", f"{width}x{height}, at least {MIN_SIDE} a side")


def _decode_with_pillow(data: bytes, tiff: Layout | None, bits: int | None) -> Decoded:
    image = _open(data)
    coding = _coding(image)
    try:
        image.load()
    except Exception as error:
        if tiff is None or not tiff.raw_ycbcr:
            raise
        detail = "uncompressed YCbCr, which this version of Pillow takes for truncated; convert to 8-bit RGB"
        raise BadImage("unsupported_mode", detail) from error
    upright = tiff is not None and tiff.orientation in _TURNS  # `load` has applied the orientation
    orientation = 1 if upright else image.getexif().get(_ORIENTATION, 1)
    if tiff is not None and tiff.mode == "P":
        image.putpalette(tiff.palette().tobytes())
    decoded = _to_decoded(_grey_16(image, tiff) or _colour_16(image, data, tiff) or image, coding, orientation, bits)
    return replace(decoded, conversions=(*decoded.conversions, "exif_rotated")) if upright else decoded


def _open(data: bytes) -> ImageFile.ImageFile:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the stricter limit
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    except UnidentifiedImageError as error:
        raise BadImage(*name_format(data)) from error
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", str(error)) from error
    _check_size(*image.size)
    if frames > 1:
        raise BadImage("animated", f"{frames} frames")
    return image


def _coding(image: Image.Image) -> str:
    name = (image.format or "").lower()
    tables = getattr(image, "quantization", None)
    if not tables:
        return name
    return f"{name}-{hashlib.sha256(repr(sorted(tables.items())).encode()).hexdigest()[:6]}"


def _decode_with_tifffile(data: bytes, tiff: Layout) -> Samples | Image.Image:
    values = read_samples(data, tiff)[..., : len(tiff.mode) if tiff.mode != "P" else 1]
    if tiff.bits > 8:
        return Samples(values, tiff.mode, tiff.stated_bits, tiff.white_is_zero)
    if tiff.bits < 8 and tiff.mode != "P":
        values = values * (255 // (2**tiff.bits - 1))
    levels = (255 - values if tiff.white_is_zero else values).astype(np.uint8)
    image = Image.frombytes(tiff.mode, (tiff.width, tiff.height), levels.tobytes())
    if tiff.mode == "P":
        image.putpalette(tiff.palette().tobytes())
    return image


def _grey_16(image: Image.Image, tiff: Layout | None = None) -> Samples | None:
    """Return the samples of a 16-bit grey image; None for other images."""
    if image.mode == "I" and image.format == "PPM":  # its header states the largest sample; Pillow scales to 16 bits
        return Samples(np.asarray(image).astype(np.uint16)[..., None], "L", stated_bits=16)
    if image.mode not in _GREY_16:
        return None
    values = np.asarray(image).astype(np.uint16)[..., None]
    if "transparency" in image.info:
        return Samples(_with_key(values, image.info["transparency"]), "LA")
    if tiff is None:
        return Samples(values, "L")
    return Samples(values, "L", tiff.stated_bits, tiff.white_is_zero)


def _colour_16(image: Image.Image, data: bytes, tiff: Layout | None) -> Samples | None:
    """Return samples of 16-bit colour, or grey with alpha, of which Pillow keeps the upper bytes; None for others."""
    png = _is_png_16(data)
    if not png and (tiff is None or tiff.bits != 16):
        return None
    if png and data[_PNG_COLOUR] == _GREY_ALPHA:
        return Samples(_grey_alpha_16(data), "LA")
    key, stated_bits = image.info.get("transparency"), None if tiff is None else tiff.stated_bits
    upper: Uint16 = np.asarray(image).astype(np.uint16)
    premultiplied = tiff is not None and tiff.mode == "RGBa"
    if key is None and not premultiplied and upper[..., : 3 if image.mode == "RGBA" else None].max() >= _FULL_DEPTH:
        return Samples(np.left_shift(upper, 8), image.mode, stated_bits)
    if tiff is not None and not tiff.by_halves:
        raise BadImage("unsupported_mode", f"{tiff.described} of few bits needs imagecodecs: pip install imagecodecs")
    values: Uint16 = np.left_shift(_bytes_16(data, lower=False), 8) | _bytes_16(data, lower=True)
    if key is not None:
        return Samples(_with_key(values, key), "RGBA")
    return Samples(values, "RGBa" if premultiplied else image.mode, stated_bits)


def _is_png_16(data: bytes) -> bool:
    return data.startswith(_PNG_MAGIC) and data[_PNG_DEPTH : _PNG_DEPTH + 1] == b"\x10"


def _bytes_16(data: bytes, lower: bool) -> Uint16:
    """Return the upper or lower bytes of 16-bit colours, (H, W, channels), not divided by alpha.

    Pillow's colours have only 8 bits; with the byte order swapped it reads the lower ones.
    """
    image = _open(data)
    image.tile = [tile._replace(args=_raw_mode(tile.args, lower)) for tile in image.tile]
    return np.asarray(image).astype(np.uint16)


def _raw_mode(arguments: Any, lower: bool) -> Any:
    """Return Pillow's decoder arguments for upper or lower bytes: a raw mode such as `RGB;16B`, or a tuple with it."""
    if isinstance(arguments, tuple):
        return (_raw_mode(arguments[0], lower), *arguments[1:])
    channels, order = arguments.split(";16")
    return f"{channels.replace('RGBa', 'RGBA')};16{_SWAPPED[order] if lower else order}"


def _grey_alpha_16(data: bytes) -> Uint16:
    """Return the samples of a 16-bit grey PNG with alpha, (H, W, 2), read as 8-bit RGBA, which has the same layout."""
    header = bytearray(data[12:29])  # IHDR with its name
    header[_PNG_DEPTH - 12], header[_PNG_COLOUR - 12] = 8, _RGBA
    image = _open(data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:])
    halves = np.asarray(image).astype(np.uint16)
    return np.left_shift(halves[..., ::2], 8) | halves[..., 1::2]


def _with_key(values: Uint16, key: int | tuple[int, ...]) -> Uint16:
    """Add an alpha channel that is 0 for pixels of the key colour."""
    alpha = np.where((values == np.array(key)).all(axis=2, keepdims=True), 0, 2**16 - 1)
    return np.concatenate([values, alpha.astype(np.uint16)], axis=2)


def _to_decoded(stored: Image.Image | Samples, coding: str, orientation: int = 1, bits: int | None = None) -> Decoded:
    """Convert what a file stores to an upright RGB image."""
    scaled = stored.scaled(bits) if isinstance(stored, Samples) else None
    image = scaled.image if scaled else cast(Image.Image, stored)
    rgb, conversions = _to_rgb(image.transpose(_TURNS[orientation]) if orientation in _TURNS else image)
    if scaled:
        conversions = (scaled.conversion, *(name for name in conversions if "alpha" in name))
    if orientation in _TURNS:
        conversions = (*conversions, "exif_rotated")
    return Decoded(rgb, coding, conversions, scaled.largest if scaled else None, scaled.note if scaled else "")


def _to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image, ()
    if mode in _UNSUPPORTED:
        raise BadImage("unsupported_mode", f"{_UNSUPPORTED[mode]}, convert to 8 bit")
    if mode in _GREY and "transparency" not in image.info:
        return image.convert("RGB"), ("grey",)
    if image.has_transparency_data:
        return _without_alpha(image)
    return image.convert("RGB"), ("palette" if mode == "P" else mode.lower(),)


def _without_alpha(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    image = image.convert("RGBA")
    alpha = image.getchannel("A")
    lowest, highest = alpha.getextrema()
    if lowest == highest:
        return image.convert("RGB"), ("constant_alpha",)
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=alpha)
    return white, ("alpha_over_white",)
