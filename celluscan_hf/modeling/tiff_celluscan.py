"""Read the layout of a TIFF file from its tags, and the pixels of layouts that Pillow misreads or does not support.

Pillow takes the first byte of planar 16-bit samples for the full sample, inverts 16-bit grey in which 0 is white, and
does not support big-endian BigTIFF. Those are read by tifffile; the rest is refused with its name. TIFF 6.0:
https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

import io
import logging
import re
import struct
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors_celluscan import BadImage

try:
    import tifffile
except ImportError:  # remote code without the package: most TIFFs do not need it
    tifffile = None  # type: ignore[assignment]

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # damaged tags are reported by our own errors
Tags = dict[int, tuple[int, ...] | bytes]
_MAGIC = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_DESCRIPTION, _ORIENTATION, _SAMPLES, _MAX_SAMPLE, _PLANAR = 270, 274, 277, 281, 284
_COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _INK_SET, _EXTRA, _FORMAT = 320, 322, 323, 332, 338, 339
_S_MAX_SAMPLE, _DEPTH, _MICRO_MANAGER = 341, 32997, 51123
_READ = {
    _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER, _DESCRIPTION, _ORIENTATION, _SAMPLES, _MAX_SAMPLE,
    _PLANAR, _COLOUR_MAP, _TILE_WIDTH, _TILE_HEIGHT, _INK_SET, _EXTRA, _FORMAT, _S_MAX_SAMPLE, _DEPTH, _MICRO_MANAGER,
}  # fmt: skip
_INTEGERS = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # tag types; others are read as bytes
_BYTES = {1: 1, 2: 1, 6: 1, 7: 1, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 17: 8}
_MOST_PAGES, _MOST_SAMPLES = 10_000, 8
_BEYOND = (struct.error, OverflowError)  # raised by an offset behind the end of the file
_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3}  # by photometric interpretation, without alpha
_WHITE_IS_ZERO, _PALETTE, _SEPARATED, _YCBCR = 0, 3, 5, 6
_COLOURS = {4: "a transparency mask", 8: "CIELAB", 9: "ICCLAB", 10: "ITULAB", 32803: "a camera's raw mosaic",
            32844: "LogL", 32845: "LogLuv", 34892: "a camera's raw values"}  # fmt: skip
_NUMBERS = {2: "signed integer", 3: "float", 5: "complex integer", 6: "complex float"}
_COMPRESSIONS = {2: "CCITT", 3: "CCITT", 4: "CCITT", 5: "LZW", 6: "JPEG", 7: "JPEG", 34712: "JPEG 2000",
                 33003: "JPEG 2000", 33005: "JPEG 2000", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard",
                 50001: "WebP"}  # fmt: skip
_RAW, _DEFLATED = 1, {8, 32946}  # what tifffile reads without imagecodecs
_NAMES = {"L": "grey", "LA": "grey with alpha", "P": "palette", "RGBa": "RGBA"}  # names of modes in messages
_ALPHA = {1: "a", 2: "A", 999: "A"}  # kinds of extra samples; 999 is what Corel writes
_STATED_DEPTHS = (rb'SignificantBits="(\d+)"', rb'"BitDepth":\s*"?(\d+)')  # in OME-XML and Micro-Manager metadata
_IMAGEJ_PAGES = rb"^ImageJ=.*?^images=(\d+)"


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of the pixels, read from the tags.

    - `mode`: Pillow's mode of an image with these channels; P with a palette, YCbCr.
    - `bits`: bits per stored sample; `stated_bits`: bits in use if a tag states fewer, or None.
    - `channels`: number of stored channels, also those that `mode` leaves out.
    - `by_pillow`: whether Pillow decodes it correctly; `by_halves`: whether it can also give the lower bytes.
    """

    width: int
    height: int
    mode: str
    bits: int
    stated_bits: int | None
    channels: int
    planar: bool
    white_is_zero: bool
    compression: int
    orientation: int
    colour_map: tuple[int, ...]
    by_pillow: bool
    by_halves: bool

    @property
    def raw_ycbcr(self) -> bool:
        return self.mode == "YCbCr" and self.compression == _RAW

    @property
    def described(self) -> str:
        """A description for messages."""
        name = _COMPRESSIONS.get(self.compression, "")
        order = "planar " if self.planar else ""
        colours = _NAMES.get(self.mode, self.mode)
        return f"{f'{name}-compressed ' if name else ''}{order}{self.bits}-bit {colours} TIFF"

    def palette(self) -> NDArray[np.uint8]:
        """Return the palette, (colours, 3). Some writers leave the upper byte of its 16-bit levels empty."""
        levels = np.array(self.colour_map, np.uint16).reshape(3, -1).T
        return (levels if levels.max(initial=0) < 256 else levels >> 8).astype(np.uint8)


def is_tiff(data: bytes) -> bool:
    return data[:4] in _MAGIC


def read_layout(data: bytes) -> Layout:
    """Read the layout of a one-page TIFF. Raises `BadImage` if it is damaged, has more pages or is not supported."""
    try:
        tags, pages = _read_tags(data)
    except _BEYOND as error:
        raise BadImage("truncated", "its table of tags is truncated") from error
    described = tags.get(_DESCRIPTION, b"")
    stack = re.search(_IMAGEJ_PAGES, described, re.DOTALL | re.MULTILINE) if isinstance(described, bytes) else None
    pages = max(pages, int(stack[1][:9]) if stack else 1)
    if pages > 1:
        raise BadImage("multi_page", f"has {pages} pages, expected one; save the page of the cell as a file of its own")
    return _layout(tags, *_MAGIC[data[:4]])


def _read_tags(data: bytes) -> tuple[Tags, int]:
    """Read the tags of the first page, those in `_READ`, and count the pages."""
    order, big = _MAGIC[data[:4]]
    (offset,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
    pages: set[int] = set()  # offsets
    tags: Tags = {}
    while offset and offset not in pages and len(pages) < _MOST_PAGES:
        pages.add(offset)
        try:
            page_tags, offset = _read_page(data, offset, order, big, wanted=_READ if len(pages) == 1 else set())
        except _BEYOND:
            if len(pages) == 1:
                raise
            break  # the offset of the next page points behind the end
        tags = tags or page_tags
    return tags, len(pages)


def _read_page(data: bytes, offset: int, order: str, big: bool, wanted: set[int]) -> tuple[Tags, int]:
    """Read the wanted tags of a page, and the offset of the next page."""
    head, entry = (order + "Q", order + "HHQ8s") if big else (order + "H", order + "HHI4s")
    (count,) = struct.unpack_from(head, data, offset)
    offset += struct.calcsize(head)
    tags: Tags = {}
    for start in range(offset, offset + count * struct.calcsize(entry), struct.calcsize(entry)) if wanted else ():
        tag, kind, length, inline = struct.unpack_from(entry, data, start)
        if tag in wanted:
            if tag in tags:
                raise BadImage("undecodable", f"its tag {tag} occurs twice")
            tags[tag] = _value(data, kind, length, inline, order)
    (next_page,) = struct.unpack_from(entry[0] + ("Q" if big else "I"), data, offset + count * struct.calcsize(entry))
    return tags, next_page


def _value(data: bytes, kind: int, length: int, inline: bytes, order: str) -> tuple[int, ...] | bytes:
    size = length * (struct.calcsize(_INTEGERS[kind]) if kind in _INTEGERS else _BYTES.get(kind, 1))
    if size > len(inline):
        (start,) = struct.unpack(order + ("Q" if len(inline) == 8 else "I"), inline)
        content = data[start : start + size]
    else:
        content = inline[:size]
    if len(content) < size:
        raise BadImage("truncated", "a tag points behind the end of the file, which is truncated")
    return struct.unpack(f"{order}{length}{_INTEGERS[kind]}", content) if kind in _INTEGERS else content


def _layout(tags: Tags, order: str, big: bool) -> Layout:
    width, height = _one(tags, _WIDTH), _one(tags, _HEIGHT)
    samples = _one(tags, _SAMPLES, 1)
    photometric = _one(tags, _PHOTOMETRIC)
    bits = _bits(tags, samples)
    _refuse_unusual(tags, photometric, bits, width * height)
    mode = _mode(tags, photometric, samples)
    planar = samples > 1 and _one(tags, _PLANAR, 1) == 2
    white_is_zero = photometric == _WHITE_IS_ZERO
    compression = _one(tags, _COMPRESSION, 1)
    colour_map = tags.get(_COLOUR_MAP, ())
    upper_bytes = planar and bits == 16 and mode in {"RGB", "RGBA", "CMYK"} and not _tifffile_can(compression, bits)
    packed = bits > 8 and bits != 16 and (bits, mode, order, compression) != (12, "L", "<", _RAW)
    unknown = packed or (big and order == ">") or (bits > 8 and (mode == "LA" or (white_is_zero and order == ">")))
    misread = planar and (bits > 8 or compression == _RAW) and not upper_bytes
    return Layout(
        width, height, mode, bits, _stated_depth(tags, bits), samples, planar, white_is_zero, compression,
        _one(tags, _ORIENTATION, 1), colour_map if isinstance(colour_map, tuple) else (),
        not (unknown or misread), not planar,
    )  # fmt: skip


def _refuse_unusual(tags: Tags, photometric: int, bits: int, pixels: int) -> None:
    """Raise `BadImage` for anything but one page in grey levels, colours, a palette or CMYK."""
    if photometric not in _CHANNELS:
        colours = _COLOURS.get(photometric, f"of kind {photometric}")
        raise BadImage("unsupported_mode", f"its colours are {colours}, convert to 8-bit RGB")
    if _one(tags, _DEPTH, 1) > 1:
        raise BadImage("multi_page", f"has {_one(tags, _DEPTH)} planes of a volume, expected one")
    if photometric == _SEPARATED and _one(tags, _INK_SET, 1) != 1:
        raise BadImage("unsupported_mode", "its inks are not CMYK, convert to 8-bit RGB")
    if photometric == _PALETTE and (bits > 8 or len(tags.get(_COLOUR_MAP, ())) != 3 * 2**bits):
        raise BadImage("undecodable", f"its palette does not fit {bits}-bit samples")
    if bits > 1 and _one(tags, _FILL_ORDER, 1) != 1:
        raise BadImage("unsupported_mode", "its bits are stored in reverse order (FillOrder 2), convert to 8-bit RGB")
    if max(_one(tags, _TILE_WIDTH, 0), 16) * max(_one(tags, _TILE_HEIGHT, 0), 16) > 4 * max(pixels, 2**20):
        raise BadImage("undecodable", "its tiles are far larger than the image")


def _tifffile_can(compression: int, bits: int) -> bool:
    return (compression in {_RAW, *_DEFLATED} and bits in (1, 8, 16)) or find_spec("imagecodecs") is not None


def _one(tags: Tags, tag: int, default: int | None = None) -> int:
    value = tags.get(tag)
    if not value and default is not None:
        return default
    if not value or isinstance(value, bytes):
        raise BadImage("undecodable", f"its tag {tag} is missing or not a number")
    return value[0]


def _several(tags: Tags, tag: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return tuple(value) or default


def _bits(tags: Tags, samples: int) -> int:
    """Return the bits per sample. Raises `BadImage` if they differ or are not unsigned integers of up to 16 bits."""
    if not 0 < samples <= _MOST_SAMPLES:
        raise BadImage("unsupported_mode", f"{samples} channels, convert to 8-bit RGB")
    bits, kinds = (set(_several(tags, tag, (1,))[:samples]) for tag in (_BITS, _FORMAT))
    if len(bits) > 1 or len(kinds) > 1:
        raise BadImage("unsupported_mode", f"its samples differ ({sorted(bits)} bits), convert to 8-bit RGB")
    (number,), (kind,) = bits, kinds
    if kind in _NUMBERS or number > 16:
        raise BadImage("unsupported_mode", f"{number}-bit {_NUMBERS.get(kind, 'integer')}, convert to 8 bit")
    if number not in (1, 2, 4) and number < 8:
        raise BadImage("unsupported_mode", f"{number}-bit samples, convert to 8 bit")
    return number


def _mode(tags: Tags, photometric: int, samples: int) -> str:
    """Return Pillow's mode. Raises `BadImage` for channels that do not form an image."""
    mode = {2: "RGB", _PALETTE: "P", _SEPARATED: "CMYK", _YCBCR: "YCbCr"}.get(photometric, "L")
    further = samples - _CHANNELS[photometric]
    extra = _several(tags, _EXTRA, (2,) if mode == "RGB" else (0,))[:further]
    if further == 0 or (further > 0 and mode in {"RGB", "CMYK"} and extra[0] == 0):
        return mode
    if further < 0 or further > 3 or (mode, extra[0]) not in {("RGB", 1), ("RGB", 2), ("RGB", 999), ("L", 2)}:
        raise BadImage("unsupported_mode", f"{samples} channels for {_NAMES.get(mode, mode)}, convert to 8-bit RGB")
    return mode + _ALPHA[extra[0]]


def _stated_depth(tags: Tags, bits: int) -> int | None:
    """Return the bit depth that a tag states. A maximum other than 2^n - 1 or 2^n is that of this image only."""
    for tag in (_MAX_SAMPLE, _S_MAX_SAMPLE):
        value = _several(tags, tag, (0,))
        largest = max(value) if not isinstance(tags.get(tag), bytes) else 0
        depth = (largest | 1).bit_length() - (largest & (largest - 1) == 0)
        if 8 <= depth < min(bits, 16) and largest in (2**depth - 1, 2**depth):
            return depth
    for tag in (_DESCRIPTION, _MICRO_MANAGER):
        text = tags.get(tag)
        for match in (re.search(pattern, text) for pattern in _STATED_DEPTHS) if isinstance(text, bytes) else ():
            if match and 8 <= int(match[1][:9]) <= 16:
                return int(match[1])
    return bits if 8 < bits < 16 else None


def read_samples(data: bytes, layout: Layout) -> NDArray[np.uint16]:
    """Read the samples of a layout that Pillow does not support, (H, W, channels), with tifffile. Raises `BadImage`."""
    missing = (
        "tifffile" if tifffile is None else "" if _tifffile_can(layout.compression, layout.bits) else "imagecodecs"
    )
    if missing:
        raise BadImage("unsupported_mode", f"{layout.described} needs {missing}: pip install {missing}")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        _check_segments(data, page, layout)
        values = np.asarray(page.asarray(maxworkers=1))
    if layout.planar:
        values = np.moveaxis(values, 0, 2)
    return values.reshape(layout.height, layout.width, layout.channels).astype(np.uint16)


def _check_segments(data: bytes, page: Any, layout: Layout) -> None:
    """Refuse strips or tiles that are truncated or too long; tifffile itself would pad them."""
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, layout.height)
    row_bits = (
        (page.tilewidth if page.is_tiled else layout.width) * layout.bits * (1 if layout.planar else layout.channels)
    )
    most = rows * -(-row_bits // 8)
    total = 0
    if len(page.dataoffsets) != len(page.databytecounts):
        raise BadImage("undecodable", "its tables of strips or tiles differ in length")
    for start, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if start + count > len(data):
            raise BadImage("truncated", "a strip or tile is truncated")
        if layout.compression in _DEFLATED:
            count = len(zlib.decompressobj().decompress(data[start : start + count], most + 1))
            if count > most:
                raise BadImage("undecodable", "a strip or tile holds more than its pixels")
        total += min(count, most)
    if layout.compression in {_RAW, *_DEFLATED}:
        row_bits = layout.width * layout.bits * layout.channels
        if total < layout.height * (row_bits // 8):
            raise BadImage("truncated", "its strips or tiles are truncated: they hold too few pixels")
