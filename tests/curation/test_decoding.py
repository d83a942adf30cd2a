"""Untrusted files: every one becomes an upright RGB image or a `BadImage` with a documented reason."""

import io
import struct
import zlib
from unittest.mock import patch

import numpy as np
import PIL
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from packaging.version import Version
from PIL import Image, ImageFile

from celluscan_hf.errors import BadImage
from celluscan_hf.modeling import decoding_celluscan as decoding
from celluscan_hf.modeling.decoding_celluscan import decode, decode_opened

REASONS = {
    "empty_file", "not_an_image", "unsupported_format", "too_many_pixels", "too_small", "animated", "multi_page",
    "truncated", "undecodable", "unsupported_mode",
}  # fmt: skip
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def colours(width: int = 48, height: int = 32) -> Image.Image:
    """Four flat quarters of different colours, so that every turn and channel swap shows."""
    pixels = np.empty((height, width, 3), np.uint8)
    top, left = height // 2, width // 2
    pixels[:top, :left], pixels[:top, left:] = (200, 40, 40), (40, 200, 40)
    pixels[top:, :left], pixels[top:, left:] = (40, 40, 200), (230, 220, 120)
    return Image.fromarray(pixels)


def noise(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pages(kind: str) -> bytes:
    return encoded(colours(), kind, save_all=True, append_images=[noise(48, 32)])


def png(width: int, height: int, depth: int, colour_type: int, body: bytes, extra: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(body))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pixels_of(data: bytes) -> NDArray[np.int64]:
    image = decode(data).image
    assert image.mode == "RGB"
    return np.asarray(image, np.int64)


def differs_by(data: bytes, expected: Image.Image | NDArray[np.uint8]) -> int:
    """The largest difference in grey levels of a decoded file from the pixels expected."""
    return int(np.abs(pixels_of(data) - np.asarray(expected, np.int64)).max())


def reason_of(data: bytes) -> str:
    with pytest.raises(BadImage) as caught:
        decode(data)
    return caught.value.reason


def test_zero_bytes_are_an_empty_file() -> None:
    assert reason_of(b"") == "empty_file"


@pytest.mark.parametrize("data", [b"name,label\nBA_1.jpg,Basophil\n", b"\x00", b"%PDF-1.7\n", b"<svg></svg>"])
def test_other_files_are_not_an_image(data: bytes) -> None:
    assert reason_of(data) == "not_an_image"


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_truncated_file_is_truncated(kind: str) -> None:
    data = encoded(noise(), kind)
    assert [reason_of(data[: int(len(data) * share)]) for share in (0.5, 0.9)] == ["truncated"] * 2


@pytest.mark.parametrize("kind", ["TIFF", "BMP", "PPM"])
def test_a_truncated_uncompressed_file_is_refused(kind: str) -> None:
    data = encoded(noise(), kind)
    assert reason_of(data[: len(data) // 2]) in {"truncated", "undecodable", "not_an_image"}


def test_garbage_behind_a_valid_png_header_is_refused() -> None:
    data = encoded(noise(), "PNG")
    assert reason_of(data[:41] + bytes(range(256)) * 20) in {"truncated", "undecodable"}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_garbage_behind_a_valid_tiff_header_is_refused() -> None:
    assert reason_of(b"II*\x00\x08\x00\x00\x00" + bytes(range(256)) * 4) in {"truncated", "undecodable"}


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_more_than_one_frame_is_animated(kind: str) -> None:
    assert reason_of(pages(kind)) == "animated"


def test_of_a_jpeg_with_a_second_image_the_first_is_decoded() -> None:
    data = encoded(colours(), "MPO", save_all=True, append_images=[noise(48, 32)], quality=95)
    assert np.abs(pixels_of(data) - np.asarray(colours(), np.int64)).mean() < 5


def test_a_still_gif_is_decoded() -> None:
    assert differs_by(encoded(colours().quantize(4), "GIF"), colours()) <= 2


def test_as_many_pixels_as_the_limit_are_decoded_and_more_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_PIXELS", 48 * 32)
    assert decode(encoded(colours(), "PNG")).image.size == (48, 32)
    monkeypatch.setattr(decoding, "MAX_PIXELS", 48 * 32 - 1)
    assert reason_of(encoded(colours(), "PNG")) == "too_many_pixels"


@pytest.mark.parametrize("side", [7_000, 60_000])
def test_a_header_that_claims_too_many_pixels_is_refused_undecoded(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("pixels were decoded"))
    assert reason_of(png(side, side, 8, 2, b"\x00" * 100)) == "too_many_pixels"


@pytest.mark.parametrize("size", [(15, 40), (40, 15), (1, 1)])
def test_a_side_below_the_least_is_too_small(size: tuple[int, int]) -> None:
    assert reason_of(encoded(colours(*size), "PNG")) == "too_small"


def test_the_least_side_is_decoded() -> None:
    assert decode(encoded(colours(decoding.MIN_SIDE, 40), "PNG")).image.size == (decoding.MIN_SIDE, 40)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_rgb_comes_back_as_it_was(kind: str) -> None:
    decoded = decode(encoded(noise(), kind))
    assert decoded.image.tobytes() == noise().tobytes()
    assert decoded.conversions == ()


def test_lossless_webp_comes_back_as_it_was() -> None:
    assert differs_by(encoded(noise(), "WEBP", lossless=True), noise()) == 0


def test_cmyk_jpeg_becomes_its_colours() -> None:
    data = encoded(colours().convert("CMYK"), "JPEG", quality=100)
    assert differs_by(data, colours()) <= 6
    assert decode(data).conversions == ("cmyk",)


def test_ycbcr_tiff_becomes_its_colours() -> None:
    data = encoded(colours().convert("YCbCr"), "TIFF", compression="tiff_lzw")
    assert differs_by(data, colours()) <= 3


def test_a_raw_ycbcr_tiff_becomes_its_colours_or_is_refused() -> None:
    data = encoded(colours().convert("YCbCr"), "TIFF")
    if Version(PIL.__version__) < Version("13"):  # which takes it for a truncated one
        with pytest.raises(BadImage, match="truncated"):
            decode(data)
    else:
        assert differs_by(data, colours()) <= 3
        assert decode(data).conversions == ("ycbcr",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_upper_bits(kind: str) -> None:
    levels = np.linspace(0, 65_535, 32 * 48).astype(np.uint16).reshape(32, 48)
    data = encoded(Image.fromarray(levels), kind)
    assert np.array_equal(pixels_of(data), np.repeat(levels[..., None] >> 8, 3, axis=2))
    assert decode(data).conversions == ("16_bit_grey",)


def test_big_endian_sixteen_bit_tiff_keeps_its_upper_bits() -> None:
    levels = np.linspace(0, 65_535, 32 * 48).astype(np.uint16).reshape(32, 48)
    image = Image.frombytes("I;16B", (48, 32), levels.astype(">u2").tobytes())
    assert np.array_equal(pixels_of(encoded(image, "TIFF"))[..., 0], levels >> 8)


def test_sixteen_bit_colour_keeps_its_upper_bits() -> None:
    levels = np.random.default_rng(1).integers(0, 65_536, (32, 48, 3)).astype(np.uint16)
    body = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in levels)
    assert np.array_equal(pixels_of(png(48, 32, 16, 2, body)), levels >> 8)


def test_a_palette_becomes_its_colours() -> None:
    data = encoded(colours().quantize(4), "PNG")
    assert differs_by(data, colours()) <= 2
    assert decode(data).conversions == ("palette",)


def test_a_transparent_palette_colour_is_laid_over_white() -> None:
    paletted = colours().quantize(4)
    data = encoded(paletted, "PNG", transparency=paletted.getpixel((0, 0)))
    assert pixels_of(data)[0, 0].tolist() == [255, 255, 255]
    assert np.abs(pixels_of(data)[0, -1] - (40, 200, 40)).max() <= 2
    assert decode(data).conversions == ("alpha_over_white",)


@pytest.mark.parametrize("alpha", [255, 128])
def test_a_constant_alpha_channel_is_taken_off(alpha: int) -> None:
    image = noise()
    image.putalpha(alpha)
    decoded = decode(encoded(image, "PNG"))
    assert decoded.image.tobytes() == noise().tobytes()
    assert decoded.conversions == ("constant_alpha",)


def test_a_constant_alpha_channel_of_a_tiff_is_taken_off() -> None:
    image = noise()
    image.putalpha(255)
    assert differs_by(encoded(image, "TIFF"), noise()) == 0


def test_a_varying_alpha_channel_is_laid_over_white() -> None:
    alpha = np.full((32, 48), 255, np.uint8)
    alpha[:, :8], alpha[:, 8:16] = 0, 128
    image = colours()
    image.putalpha(Image.fromarray(alpha))
    over_white = np.rint(255 + (np.asarray(colours(), float) - 255) * (alpha[..., None] / 255))
    data = encoded(image, "PNG")
    assert differs_by(data, over_white) <= 1
    assert decode(data).conversions == ("alpha_over_white",)


def test_grey_with_varying_alpha_is_laid_over_white() -> None:
    image = Image.new("LA", (32, 32), (90, 255))
    image.putpixel((0, 0), (90, 0))
    pixels = pixels_of(encoded(image, "PNG"))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [90, 90, 90]


def test_grey_with_constant_alpha_is_grey() -> None:
    assert (pixels_of(encoded(Image.new("LA", (32, 32), (90, 128)), "PNG")) == 90).all()


@pytest.mark.parametrize(("mode", "key"), [("L", 90), ("RGB", (90, 20, 10))])
def test_a_transparent_key_colour_is_laid_over_white(mode: str, key: int | tuple[int, int, int]) -> None:
    image = Image.new(mode, (32, 32), key)
    image.paste(0, (16, 0, 32, 32))
    pixels = pixels_of(encoded(image, "PNG", transparency=key))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, -1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    data = encoded(Image.new("L", (32, 32), 90), kind)
    assert (pixels_of(data) == 90).all()
    assert decode(data).conversions[-1:] in {("grey",), ("palette",)}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM"])
def test_one_bit_becomes_black_and_white(kind: str) -> None:
    image = Image.new("1", (32, 32), 0)
    image.paste(1, (16, 0, 32, 32))
    pixels = pixels_of(encoded(image, kind))
    assert (pixels[:, :16] == 0).all()
    assert (pixels[:, 16:] == 255).all()


@pytest.mark.parametrize(
    ("orientation", "kind"), [*((orientation, "JPEG") for orientation in TURNS), (6, "TIFF"), (5, "PNG")]
)
def test_an_exif_rotated_image_stands_upright(orientation: int, kind: str) -> None:
    turn = TURNS[orientation]
    stored = colours() if turn is None else colours().transpose(turn)
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    assert differs_by(encoded(stored, kind, exif=turned(orientation), **options), colours()) <= 25


@pytest.mark.parametrize(("orientation", "kind"), [(0, "JPEG"), (9, "TIFF"), (255, "PNG")])
def test_an_orientation_that_exif_does_not_know_turns_and_notes_nothing(orientation: int, kind: str) -> None:
    decoded = decode(encoded(colours(), kind, exif=turned(orientation)))
    assert (decoded.image.size, decoded.conversions) == (colours().size, ())


def test_a_rotation_is_noted() -> None:
    for kind in ("JPEG", "TIFF"):
        assert "exif_rotated" in decode(encoded(colours(), kind, exif=turned(6))).conversions


def tiff(values: NDArray, **options: object) -> bytes:
    """Written by tifffile: a file of one page, without what it notes of its own."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **({"metadata": None} | options))
    return buffer.getvalue()


def planes(values: NDArray) -> NDArray:
    return np.moveaxis(values, 2, 0)


NOISE = np.asarray(noise())
WITH_ALPHA = np.dstack([NOISE, np.full((64, 64), 255, np.uint8)])
DEEP = NOISE.astype(np.uint16) * 257
LAYOUTS = {
    "planar 16-bit colour": (planes(DEEP), {"photometric": "rgb", "planarconfig": "separate"}, NOISE),
    "planar 8-bit colour": (planes(NOISE), {"photometric": "rgb", "planarconfig": "separate"}, NOISE),
    "planar 16-bit colour with alpha": (
        planes(WITH_ALPHA.astype(np.uint16) * 257),
        {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]},
        NOISE,
    ),
    "16-bit colour": (DEEP, {"photometric": "rgb"}, NOISE),
    "16-bit grey from black": (DEEP[..., 0], {"photometric": "minisblack"}, NOISE[..., :1]),
    "16-bit grey from white": (DEEP[..., 0], {"photometric": "miniswhite"}, 255 - NOISE[..., :1]),
    "8-bit grey from white": (NOISE[..., 0], {"photometric": "miniswhite"}, 255 - NOISE[..., :1]),
    "1-bit grey from white": (NOISE[..., 0] > 127, {"photometric": "miniswhite"}, 255 * (NOISE[..., :1] <= 127)),
    "16-bit grey with alpha": (
        np.dstack([DEEP[..., 0], np.full((64, 64), 65_535, np.uint16)]),
        {"photometric": "minisblack", "planarconfig": "contig", "extrasamples": ["unassalpha"]},
        NOISE[..., :1],
    ),
    "planar 16-bit inks": (
        planes(np.dstack([65_535 - DEEP, np.zeros((64, 64), np.uint16)])),
        {"photometric": "separated", "planarconfig": "separate"},
        NOISE,
    ),
    "palette": (
        NOISE[..., 0],
        {"photometric": "palette", "colormap": np.arange(256, dtype=np.uint16)[None].repeat(3, 0) * 257},
        NOISE[..., :1],
    ),
    "palette of 8-bit levels": (
        NOISE[..., 0],
        {"photometric": "palette", "colormap": np.arange(256, dtype=np.uint16)[None].repeat(3, 0)},
        NOISE[..., :1],
    ),
}  # fmt: skip
WAYS = {
    "": {},
    "big-endian": {"byteorder": ">"},
    "BigTIFF": {"bigtiff": True},
    "big-endian BigTIFF": {"bigtiff": True, "byteorder": ">"},
    "in tiles": {"tile": (16, 32)},
    "in strips, deflated": {"rowsperstrip": 7, "compression": "zlib"},
}


@pytest.mark.parametrize(
    ("layout", "way"),
    [
        *((layout, "") for layout in LAYOUTS),
        *((layout, way) for layout in ("planar 16-bit colour", "16-bit grey from white") for way in list(WAYS)[1:]),
        ("16-bit colour", "in tiles"),
        ("palette", "in strips, deflated"),
    ],
)
def test_every_layout_of_a_tiff_has_the_pixels_that_tifffile_reads(layout: str, way: str) -> None:
    values, options, expected = LAYOUTS[layout]
    data = tiff(values, **options, **WAYS[way])
    assert np.array_equal(tifffile.imread(io.BytesIO(data)), values)
    assert differs_by(data, np.broadcast_to(expected, (64, 64, 3))) == 0


@pytest.mark.parametrize(
    ("layout", "bits"),
    [
        *((name, 12) for name, (values, *_) in LAYOUTS.items() if values.dtype == np.uint16),
        *(("16-bit colour", bits) for bits in (10, 14)),
    ],
)
def test_samples_of_fewer_bits_in_a_16_bit_tiff_are_scaled_by_their_range(layout: str, bits: int) -> None:
    values, options, expected = LAYOUTS[layout]
    data = tiff(values >> (16 - bits), **options)
    decoded = decode(data)
    assert differs_by(data, np.broadcast_to(expected, (64, 64, 3))) == 0
    assert decoded.conversions[0].startswith(f"{bits}_bit_")
    assert f"taken for {bits}-bit samples" in decoded.note


@pytest.mark.parametrize(
    ("bits", "colour_type"), [*((12, kind) for kind in (0, 2, 4, 6)), *((bits, 2) for bits in (10, 14, 16))]
)
def test_samples_of_fewer_bits_in_a_16_bit_png_are_scaled_by_their_range(bits: int, colour_type: int) -> None:
    channels = {0: 1, 2: 3, 4: 1, 6: 3}[colour_type]
    values = DEEP[..., :channels] >> (16 - bits)
    if colour_type in (4, 6):
        values = np.dstack([values, np.full((64, 64), 65_535, np.uint16)])
    data = png(64, 64, 16, colour_type, b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values))
    assert differs_by(data, np.broadcast_to(NOISE[..., :channels], (64, 64, 3))) == 0
    assert decode(data).conversions[0] == f"{bits}_bit_{'grey' if channels == 1 else 'rgb'}"


@pytest.mark.parametrize(
    "options",
    [
        {"extratags": [(281, 3, 3, (4095,) * 3, True)]},
        {"extratags": [(341, 3, 3, (4095,) * 3, True)]},
        {"description": '<OME><Pixels SignificantBits="12"/></OME>'},
        {"description": '{"BitDepth": 12}'},
    ],
)
def test_a_depth_that_a_tiff_names_holds_also_for_a_dark_image(options: dict[str, object]) -> None:
    dark = NOISE // 8
    decoded = decode(tiff(dark.astype(np.uint16) << 4, photometric="rgb", **options))
    assert np.array_equal(np.asarray(decoded.image), dark)
    assert (decoded.conversions, decoded.largest_sample, decoded.note) == (("12_bit_rgb",), None, "")


@pytest.mark.parametrize("largest", [65_535, 3_000, 255])
def test_a_largest_sample_that_is_no_depth_or_too_small_is_not_believed(largest: int) -> None:
    data = tiff(DEEP >> 4, photometric="rgb", extratags=[(281, 3, 3, (largest,) * 3, True)])
    assert differs_by(data, NOISE) == 0


def test_a_pgm_names_its_largest_sample() -> None:
    levels = NOISE[..., 0].astype(int) * 4095 // 255
    assert differs_by(b"P5 64 64 4095\n" + levels.astype(">u2").tobytes(), NOISE[..., :1].repeat(3, 2)) <= 1


def test_the_depth_of_a_source_is_not_that_of_a_dark_file() -> None:
    dark = encoded(Image.fromarray((NOISE[..., 0] // 8).astype(np.uint16) << 4), "TIFF")
    assert decode(dark).conversions == ("10_bit_grey",)
    decoded = decode(dark, bits=12)
    assert (np.asarray(decoded.image)[..., 0] == NOISE[..., 0] // 8).all()
    assert (decoded.conversions, decoded.largest_sample, decoded.note) == (("12_bit_grey",), 31 << 4, "")


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("f4", "32-bit float, convert to 8 bit"),
        ("f8", "64-bit float, convert to 8 bit"),
        ("i1", "8-bit signed integer, convert to 8 bit"),
        ("i2", "16-bit signed integer, convert to 8 bit"),
        ("u4", "32-bit integer, convert to 8 bit"),
        ("c8", "64-bit complex float, convert to 8 bit"),
    ],
)
def test_samples_that_are_no_grey_levels_are_refused_by_name(kind: str, named: str) -> None:
    with pytest.raises(BadImage, match="unsupported_mode") as caught:
        decode(tiff((NOISE[..., 0] // 2).astype(kind), photometric="minisblack"))
    assert caught.value.detail == named


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (tiff(np.stack([NOISE[..., 0]] * 2), photometric="minisblack"), "multi_page (has 2 pages"),
        (tiff(np.stack([NOISE[..., 0]] * 3), imagej=True), "multi_page (has 3 pages"),
        (tiff(NOISE, photometric="minisblack", planarconfig="contig"), "unsupported_mode (3 channels for grey"),
        (encoded(colours().convert("LAB"), "TIFF"), "unsupported_mode (its colours are CIELAB"),
        (encoded(colours(), "JPEG2000"), "unsupported_format (JPEG 2000 is not read"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported_format (HEIC is not read"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "unsupported_format (AVIF is not read"),
        (encoded(colours(), "JPEG").replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"), "12-bit JPEG is not read"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git_lfs_pointer (a Git LFS pointer; run git lfs pull)"),
        (b"Pf\n64 64\n-1.0\n" + NOISE[..., 0].astype("<f4").tobytes(), "32-bit float, convert to 8 bit"),
    ],
)
def test_what_is_not_read_is_refused_by_name(data: bytes, message: str) -> None:
    with pytest.raises(BadImage) as caught:
        decode(data)
    assert message in str(caught.value)


PLANAR = tiff(planes(DEEP), photometric="rgb", planarconfig="separate", rowsperstrip=7)


@pytest.mark.parametrize("kept", [6, 60, 200, len(PLANAR) // 2, len(PLANAR) - 1])
def test_a_cut_planar_tiff_is_refused(kept: int) -> None:
    assert reason_of(PLANAR[:kept]) in {"truncated", "undecodable"}


def test_a_planar_tiff_that_claims_too_many_pixels_is_refused_undecoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "read_samples", lambda *arguments: pytest.fail("it was decoded"))
    wide = PLANAR.replace(struct.pack("<HHII", 256, 4, 1, 64), struct.pack("<HHII", 256, 4, 1, 10**6))
    assert reason_of(wide) == "too_many_pixels"


def test_a_strip_that_grows_beyond_its_pixels_is_refused() -> None:
    data = tiff(DEEP[..., 0], photometric="miniswhite", compression="zlib", byteorder=">")
    honest = zlib.compress(DEEP[..., 0].astype(">u2").tobytes() + bytes(10**6))
    place = data.index(struct.pack(">HHI", 273, 4, 1)) + 8
    lengths = data.index(struct.pack(">HHI", 279, 4, 1)) + 8
    grown = bytearray(data + honest)
    struct.pack_into(">I", grown, place, len(data))
    struct.pack_into(">I", grown, lengths, len(honest))
    assert reason_of(bytes(grown)) == "undecodable"


def test_an_image_that_pillow_has_only_opened_is_decoded_from_its_file() -> None:
    data = tiff(planes(DEEP >> 4), photometric="rgb", planarconfig="separate")
    opened = Image.open(io.BytesIO(data))
    assert np.array_equal(np.asarray(decoding.decode_opened(opened).image), NOISE)


def test_an_image_in_memory_is_converted_as_a_file_is() -> None:
    decoded = decoding.decode_opened(Image.fromarray(DEEP[..., 0] >> 4))
    assert np.array_equal(np.asarray(decoded.image), NOISE[..., :1].repeat(3, 2))
    assert decoded.conversions == ("12_bit_grey",)


def test_the_coding_tells_jpeg_qualities_apart_and_not_images() -> None:
    coding = decode(encoded(noise(), "JPEG", quality=80)).coding
    assert decode(encoded(colours(), "JPEG", quality=80)).coding == coding
    assert decode(encoded(noise(), "JPEG", quality=90)).coding != coding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "GIF", "BMP", "WEBP", "PPM"])
def test_the_coding_starts_with_the_format(kind: str) -> None:
    assert decode(encoded(colours(), kind)).coding.startswith(kind.lower())


SMALL = {
    "jpeg": encoded(noise(24, 20), "JPEG", quality=70),
    "jpeg_exif": encoded(noise(24, 20), "JPEG", quality=30, exif=turned(6)),
    "png": encoded(noise(24, 20), "PNG"),
    "png_palette": encoded(colours(24, 20).quantize(4), "PNG", transparency=0),
    "tiff": encoded(noise(24, 20), "TIFF"),
    "tiff_lzw": encoded(noise(24, 20), "TIFF", compression="tiff_lzw"),
    "tiff_planar_16": tiff(planes(DEEP[:20, :24]), photometric="rgb", planarconfig="separate", rowsperstrip=7),
    "tiff_tiles": tiff(DEEP[:20, :24], photometric="rgb", tile=(16, 16), compression="zlib", byteorder=">"),
    "tiff_big": tiff(NOISE[:20, :24, 0], photometric="miniswhite", bigtiff=True, byteorder=">"),
    "tiff_palette": tiff(
        NOISE[:20, :24, 0], photometric="palette", colormap=np.arange(768, dtype=np.uint16).reshape(3, 256)
    ),
    "png_16": png(24, 20, 16, 2, b"".join(b"\x00" + row.astype(">u2").tobytes() for row in DEEP[:20, :24] >> 4)),
    "gif": encoded(colours(24, 20), "GIF"),
    "bmp": encoded(noise(24, 20), "BMP"),
    "ppm": encoded(noise(24, 20), "PPM"),
    "webp": encoded(noise(24, 20), "WEBP"),
}  # fmt: skip
# headers are where a changed byte does most, so half of the changes fall there
CHANGES = st.lists(
    st.tuples(st.one_of(st.integers(0, 120), st.integers(0, 3_000)), st.integers(0, 255)), min_size=0, max_size=6
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SMALL)
@settings(max_examples=60, deadline=None)
@given(changes=CHANGES, kept=st.one_of(st.none(), st.integers(0, 3_000)))
def test_a_damaged_file_is_an_rgb_image_or_a_bad_image(
    kind: str, changes: list[tuple[int, int]], kept: int | None
) -> None:
    data = bytearray(SMALL[kind][:kept])
    for position, value in changes:
        if position < len(data):
            data[position] = value
    with patch.object(decoding, "MAX_PIXELS", 1_000_000):
        try:
            decoded = decode(bytes(data))
        except BadImage as bad:
            assert bad.reason in REASONS
        else:
            assert decoded.image.mode == "RGB"
            assert len(decoded.image.tobytes()) == 3 * decoded.image.width * decoded.image.height


@pytest.mark.parametrize(("kind", "reason"), [("TIFF", "multi_page"), ("GIF", "animated")])
def test_an_opened_image_of_several_pages_is_refused_loaded_or_not(kind: str, reason: str) -> None:
    pages = [Image.new("L", (32, 32), level) for level in (10, 200)]
    buffer = io.BytesIO()
    pages[0].save(buffer, kind, save_all=True, append_images=pages[1:])
    for loaded in (False, True):
        image = Image.open(io.BytesIO(buffer.getvalue()))
        if loaded:
            image.load()
        with pytest.raises(BadImage, match=reason):
            decode_opened(image)
