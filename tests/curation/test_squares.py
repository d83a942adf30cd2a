"""Padding and resizing: content centred and never squashed, the same as padding before resizing."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from celluscan_hf.curation import squares
from celluscan_hf.sources.drawing import draw_cell

CREAM = (251, 225, 200)
SIZES = [(96, 96), (360, 363), (64, 40), (17, 16), (121, 301)]
TARGETS = [64, 224]
FILTERS = {
    Image.Resampling.BILINEAR: InterpolationMode.BILINEAR,
    Image.Resampling.BICUBIC: InterpolationMode.BICUBIC,
}


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def cell(width: int, height: int) -> Image.Image:
    side = max(width, height, 64)
    drawn = draw_cell("Eosinophil", np.random.default_rng(width), side)
    left, top = (side - width) // 2, (side - height) // 2
    return drawn.crop((left, top, left + width, top + height))


def squared(image: Image.Image, size: int) -> NDArray[np.uint8]:
    return np.array(squares.square(image, size))


def prepared(image: Image.Image, size: int, colour: tuple[int, int, int] = CREAM) -> NDArray[np.int64]:
    """An image as the project makes it: squared, its padding coloured."""
    return squares.pad(squared(image, size), *image.size, colour).astype(np.int64)


def padded_first(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    side = max(image.size)
    padded = Image.new("RGB", (side, side), colour)
    padded.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return padded


def filter_in_use() -> Image.Resampling:
    image = noise(96, 96)
    resized = squared(image, 40).astype(np.int64)
    off_by = {kind: np.abs(resized - np.asarray(image.resize((40, 40), kind))).max() for kind in FILTERS}
    return min(off_by, key=off_by.__getitem__)


@pytest.mark.parametrize("given", SIZES)
def test_the_content_is_centred(given: tuple[int, int]) -> None:
    square = squared(Image.new("RGB", given, (255, 255, 255)), 120)
    assert square.shape == (120, 120, 3)
    covered = square[..., 0].astype(float)
    rows, columns = covered.sum(axis=1), covered.sum(axis=0)
    middle = np.arange(120) + 0.5
    one_pixel = 120 / max(given)
    assert abs((rows * middle).sum() / rows.sum() - 60) <= one_pixel
    assert abs((columns * middle).sum() / columns.sum() - 60) <= one_pixel


@pytest.mark.parametrize("given", [(200, 100), (100, 200), (200, 131)])
def test_a_circle_stays_a_circle(given: tuple[int, int]) -> None:
    image = Image.new("RGB", given)
    x, y = given[0] // 2, given[1] // 2
    ImageDraw.Draw(image).ellipse((x - 40, y - 40, x + 40, y + 40), fill=(255, 255, 255))
    disc = squared(image, 96)[..., 0] > 127
    assert abs(int(disc.any(axis=0).sum()) - int(disc.any(axis=1).sum())) <= 1
    assert disc.any(axis=0).sum() == pytest.approx(81 * 96 / 200, abs=1.5)


@pytest.mark.parametrize("draw", [cell, noise])
@pytest.mark.parametrize("size", TARGETS)
@pytest.mark.parametrize("given", SIZES)
def test_padding_afterwards_equals_padding_first_and_torchvision(
    given: tuple[int, int], size: int, draw: Callable[..., Image.Image]
) -> None:
    image = draw(*given)
    pixels = prepared(image, size)
    padded = padded_first(image, CREAM)
    expected = np.asarray(padded.resize((size, size), filter_in_use()), np.int64)
    assert np.abs(pixels - expected).max() <= 2
    tensor = torch.from_numpy(np.array(padded)).permute(2, 0, 1)
    resized = v2.resize(tensor, [size, size], interpolation=FILTERS[filter_in_use()], antialias=True)
    assert np.abs(pixels - resized.permute(1, 2, 0).numpy().astype(np.int64)).max() <= 2


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (20, 130, 240)])
def test_any_colour_of_padding_equals_padding_first(colour: tuple[int, int, int]) -> None:
    image = cell(70, 121)
    expected = np.asarray(padded_first(image, colour).resize((96, 96), filter_in_use()), np.int64)
    assert np.abs(prepared(image, 96, colour) - expected).max() <= 2


def test_a_square_image_has_no_padding_to_colour() -> None:
    image = noise(96, 96)
    assert np.array_equal(prepared(image, 64), squared(image, 64))


@pytest.mark.parametrize("size", TARGETS)
@pytest.mark.parametrize("given", SIZES)
def test_the_content_box_holds_no_padding_and_leaves_out_little_else(given: tuple[int, int], size: int) -> None:
    left, top, right, bottom = squares.content_box(*given, size)
    assert 0 <= left < right <= size and 0 <= top < bottom <= size
    padded = prepared(Image.new("RGB", given, (255, 255, 255)), size, (0, 0, 0))
    assert padded[top:bottom, left:right].min() >= 254
    blur = 2 * max(2, 2 * size // max(given) + 1)
    assert right - left >= given[0] * size // max(given) - blur
    assert bottom - top >= given[1] * size // max(given) - blur


def test_the_content_box_of_a_square_image_is_all_of_it() -> None:
    assert squares.content_box(363, 363, 224) == (0, 0, 224, 224)


@pytest.mark.parametrize("given", [(16, 4_000), (4_000, 16), (1, 3_000), (1, 1)])
def test_an_extremely_elongated_image_is_squared(given: tuple[int, int]) -> None:
    left, top, right, bottom = squares.content_box(*given, 64)
    assert prepared(Image.new("RGB", given, (90, 90, 90)), 64).shape == (64, 64, 3)
    assert 0 <= left < right <= 64
    assert 0 <= top < bottom <= 64
