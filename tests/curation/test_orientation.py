"""Turning an image and turning its hash are one thing."""

import numpy as np
import pytest
from PIL import Image

from celluscan_hf.curation.fingerprints import perceptual_hashes
from celluscan_hf.curation.orientation import ORIENTATIONS, Orientation

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
each_orientation = pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda orientation: orientation.name)


@each_orientation
def test_pixels_are_turned_as_pillow_names_it(orientation: Orientation) -> None:
    image = Image.fromarray(PIXELS)
    turned = image if orientation.name == "upright" else image.transpose(Image.Transpose[orientation.name.upper()])
    np.testing.assert_array_equal(orientation.pixels(PIXELS.astype(np.float32)), np.asarray(turned))


@each_orientation
def test_the_hash_of_a_turned_image_follows_from_its_own(orientation: Orientation) -> None:
    grey = Image.fromarray(PIXELS).convert("L")
    turned = Image.fromarray(orientation.pixels(np.asarray(grey, np.float32)[..., None])[..., 0].astype(np.uint8))
    assert perceptual_hashes(grey)[ORIENTATIONS.index(orientation)] == perceptual_hashes(turned)[0]


@each_orientation
def test_the_inverse_undoes_an_orientation(orientation: Orientation) -> None:
    pixels = PIXELS.astype(np.float32)
    np.testing.assert_array_equal(orientation.inverse.pixels(orientation.pixels(pixels)), pixels)


def test_the_eight_orientations_differ() -> None:
    assert len({orientation.pixels(PIXELS.astype(np.float32)).tobytes() for orientation in ORIENTATIONS}) == 8
