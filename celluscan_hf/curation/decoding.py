"""The one place where an untrusted image file is opened.

What is converted, and how: CMYK and other colour spaces through Pillow to RGB; a palette to its colours; grey to three
equal channels; 16-bit grey to its upper 8 bits (Pillow itself does so for 16-bit colour); a constant alpha channel is
taken off; a real one is laid over white, the brightness of an empty field; EXIF orientation is applied.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import BadImage
from ..sources.signatures import kind_of

MAX_PIXELS = 40_000_000  # a whole field of a 40-megapixel camera
MIN_SIDE = 16  # pixels; below it no nucleus can be told from its surroundings
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM")
_ORIENTATION = 0x0112
_GREY = {"1", "L"}
_GREY_16 = {"I;16", "I;16L", "I;16B", "I;16N"}
_UNSUPPORTED = {"I", "F"}  # 32 bits per pixel: no range is known that could be mapped to 8 bits


@dataclass(frozen=True, slots=True)
class Decoded:
    """An RGB image, how its file was coded (`jpeg-<quantisation table>`, `tiff`, …), and what was converted."""

    image: Image.Image
    coding: str
    conversions: tuple[str, ...]


def decode(data: bytes) -> Decoded:
    """Decode one image file. Raises `BadImage` with one of the reasons

    `empty_file`, `git_lfs_pointer`, `html_page`, `archive`, `not_an_image`, `too_many_pixels`, `too_small`, `animated`,
    `truncated`, `undecodable`, `unsupported_mode`.
    """
    if not data:
        raise BadImage("empty_file")
    image = _open(data)
    coding = _coding(image)
    try:
        image.load()
        rotated = image.getexif().get(_ORIENTATION, 1) != 1
        upright = ImageOps.exif_transpose(image) if rotated else image
        rgb, conversions = _to_rgb(upright)
    except BadImage:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged files; none may stop a build
        raise BadImage("truncated" if "truncated" in str(error) else "undecodable", str(error)) from error
    return Decoded(rgb, coding, (*conversions, "exif_rotated") if rotated else conversions)


def crop(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The part of an image within left, top, right, bottom, in pixels. Raises `BadImage` where it reaches out of it."""
    left, top, right, bottom = box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise BadImage("box_outside_image", f"box {box} in an image of {image.width}x{image.height}")
    return image.crop(box)


def _open(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is the stricter limit
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            frames = getattr(image, "n_frames", 1) if image.format != "MPO" else 1
    except UnidentifiedImageError as error:
        raise BadImage(kind_of(data), f"starts with {data[:8].hex(' ')}") from error
    except Image.DecompressionBombError as error:
        raise BadImage("too_many_pixels", str(error)) from error
    except Exception as error:
        raise BadImage("undecodable", str(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage("too_many_pixels", f"{width}x{height}, at most {MAX_PIXELS}")
    if min(width, height) < MIN_SIDE:
        raise BadImage("too_small", f"{width}x{height}, at least {MIN_SIDE} a side")
    if frames > 1:
        raise BadImage("animated", f"{frames} frames")
    return image


def _coding(image: Image.Image) -> str:
    name = (image.format or "").lower()
    tables = getattr(image, "quantization", None)
    if not tables:
        return name
    return f"{name}-{hashlib.sha256(repr(sorted(tables.items())).encode()).hexdigest()[:6]}"


def _to_rgb(image: Image.Image) -> tuple[Image.Image, tuple[str, ...]]:
    mode = image.mode
    if mode == "RGB" and "transparency" not in image.info:
        return image, ()
    if mode in _UNSUPPORTED:
        raise BadImage("unsupported_mode", mode)
    if mode in _GREY_16:
        grey = Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
        return grey.convert("RGB"), ("16_bit_grey",)
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
