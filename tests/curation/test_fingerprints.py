"""Fingerprints of an image hold under re-encoding; those of a capture tell cameras apart."""

import io
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from celluscan_hf.curation import fingerprints
from celluscan_hf.curation.decoding import decode
from celluscan_hf.curation.scan import Chunk, load_tables, scan
from celluscan_hf.sources import Record, Source, open_source
from celluscan_hf.sources.drawing import draw_cell


def cell(seed: int) -> Image.Image:
    return draw_cell("Monocyte", np.random.default_rng(seed), 128)


def recoded(image: Image.Image, kind: str, **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return decode(buffer.getvalue()).image


def digest(image: Image.Image) -> bytes:
    return fingerprints.pixel_digest(np.asarray(image))


def bits_apart(a: Image.Image, b: Image.Image) -> int:
    return (hash_of(a) ^ hash_of(b)).bit_count()


def hash_of(image: Image.Image) -> int:
    return int(fingerprints.perceptual_hashes(image.convert("L"))[0])


def acquisitions(source: Source, prefix: str, count: int, folder: Path) -> list[str]:
    """Those of the first records whose file names start with a prefix."""
    records = [record for record in source.records() if isinstance(record, Record)]
    chosen = [record for record in records if Path(record.member).name.startswith(prefix)][:count]
    scan(Chunk(0, source, tuple(chosen), 224, folder / prefix))
    return load_tables(folder / prefix)["acquisition"].to_pylist()


def test_equal_pixels_have_equal_digests_however_they_are_coded() -> None:
    assert digest(recoded(cell(0), "PNG")) == digest(recoded(cell(0), "BMP"))


def test_one_changed_pixel_changes_the_digest() -> None:
    changed = cell(0)
    red, green, blue = changed.getpixel((5, 5))
    changed.putpixel((5, 5), (red, green, blue ^ 1))
    assert digest(changed) != digest(cell(0))


def test_the_same_bytes_in_another_shape_have_another_digest() -> None:
    pixels = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)
    assert fingerprints.pixel_digest(pixels) != fingerprints.pixel_digest(pixels.reshape(32, 16, 3))


def test_a_digest_has_sixteen_bytes_that_do_not_depend_on_the_memory_layout() -> None:
    pixels = np.asarray(cell(0))
    assert fingerprints.pixel_digest(np.asfortranarray(pixels)) == fingerprints.pixel_digest(pixels)
    assert len(digest(cell(0))) == 16


@pytest.mark.parametrize("seed", range(2))
def test_the_upright_hash_is_that_of_imagehash(seed: int) -> None:
    grey = cell(seed).convert("L")
    assert hash_of(grey) == int(str(imagehash.phash(grey.reduce(2))), 16)


@pytest.mark.parametrize("seed", range(3))
def test_a_perceptual_hash_nearly_holds_under_jpeg_and_at_half_size(seed: int) -> None:
    assert bits_apart(cell(seed), recoded(cell(seed), "JPEG", quality=60)) <= 8
    assert bits_apart(cell(seed), cell(seed).resize((64, 64), Image.Resampling.BICUBIC)) <= 8
    assert bits_apart(cell(seed), cell(seed + 1)) > 0


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_flat_image_has_a_hash(grey: int) -> None:
    assert 0 <= hash_of(Image.new("RGB", (64, 64), (grey, grey, grey))) < 2**64


def test_a_capture_names_size_class_and_coding() -> None:
    assert fingerprints.capture(360, 363, "jpeg-abc123") == "352x352/jpeg-abc123"


def test_crops_of_nearly_one_size_are_one_capture() -> None:
    assert fingerprints.capture(360, 363, "jpeg") == fingerprints.capture(362, 360, "jpeg")


@pytest.mark.parametrize(("width", "height", "coding"), [(400, 360, "jpeg"), (360, 400, "jpeg"), (360, 360, "tiff")])
def test_another_size_or_coding_is_another_capture(width: int, height: int, coding: str) -> None:
    assert fingerprints.capture(width, height, coding) != fingerprints.capture(360, 360, "jpeg")


@pytest.mark.parametrize(
    ("background", "tone"),
    [
        ((251, 225, 200), "warm"),
        ((228, 220, 228), "neutral"),
        ((255, 255, 255), "neutral"),
        ((20, 15, 10), "dark"),
        ((190, 200, 235), "cool"),
    ],
)
def test_the_tone_of_a_background(background: tuple[int, int, int], tone: str) -> None:
    assert fingerprints.tone(np.array(background, float)) == tone


def test_the_background_is_the_border_and_not_the_cell() -> None:
    pixels = np.full((64, 64, 3), (251, 225, 200), np.uint8)
    pixels[8:56, 8:56] = (90, 30, 140)
    assert fingerprints.background_colour(pixels).tolist() == [251, 225, 200]


def test_a_speck_on_the_border_does_not_change_the_background() -> None:
    pixels = np.full((64, 64, 3), (251, 225, 200), np.uint8)
    pixels[:12, :12] = (180, 60, 60)
    assert fingerprints.background_colour(pixels).tolist() == [251, 225, 200]


@pytest.mark.real_data
def test_the_immature_granulocytes_of_pbc_come_from_another_acquisition(real_data: Path, tmp_path: Path) -> None:
    source = open_source(f"pbc={real_data / 'PBC_dataset_normal_DIB'}", tmp_path, 42)
    others = [name for prefix in ("EO_", "PMY_", "MMY_") for name in acquisitions(source, prefix, 15, tmp_path)]
    ((usual, count),) = Counter(others).most_common(1)
    assert count > len(others) / 2
    assert usual not in acquisitions(source, "IG_", 30, tmp_path)
