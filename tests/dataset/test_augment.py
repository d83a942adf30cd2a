"""Augmented variants: evenly distributed over parents, all different, and reproducible from their record."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from celluscan_hf.curation.fingerprints import background_colour
from celluscan_hf.dataset.augment import RecordingTrivialAugment, variants
from celluscan_hf.dataset.plan import variants_per_parent
from celluscan_hf.errors import CelluScanError


@pytest.fixture
def parent():
    return {"image_id": "own/a.png", "variants": 40, "label": 1, "width": 48, "height": 48}


@pytest.fixture
def image(cell_image):
    return cell_image(5, size=(48, 48))


def decoded(row) -> bytes:
    import io

    return Image.open(io.BytesIO(row["image"]["bytes"])).tobytes()


def train(**counts: int) -> pa.Table:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return pa.table({"label": labels, "image_id": [f"{label}/{i}" for i, label in enumerate(labels)]})


def test_variants_are_spread_evenly_over_parents():
    counts = variants_per_parent(train(a=7, b=30), target=25, seed=1)
    assert counts[:7].sum() == 18 and set(counts[:7]) == {2, 3}
    assert counts[7:].sum() == 0


def test_which_parent_gets_one_more_depends_on_the_seed():
    assert (variants_per_parent(train(a=50), 75, seed=1) != variants_per_parent(train(a=50), 75, seed=2)).any()


def test_all_variants_differ_from_the_original_and_each_other(parent, image):
    rows = list(variants(parent, image, seed=3))
    pixels = {decoded(row) for row in rows} | {image.tobytes()}
    assert len(rows) == 40 and len(pixels) == 41


def test_one_original_can_fill_a_class(parent, image):
    rows = list(variants({**parent, "variants": 300}, image, seed=3))
    assert len({decoded(row) for row in rows}) == 300


def test_variants_are_the_same_for_the_same_seed_alone(parent, image):
    first, again, other = ([decoded(row) for row in variants(parent, image, seed)] for seed in (1, 1, 2))
    assert first == again != other


def test_a_variant_can_be_reproduced_from_its_record(parent, image):
    augment = RecordingTrivialAugment(background_colour(np.asarray(image)).tolist())
    for row in variants(parent, image, seed=3):
        record = json.loads(row["augmentation"])
        again, operations = augment.draw(image, record["seed"], depth=len(record["operations"]))
        assert operations == record["operations"]
        difference = np.abs(np.asarray(again, float) - np.frombuffer(decoded(row), np.uint8).reshape(48, 48, 3))
        assert difference.mean() < 3


def test_uncovered_corners_take_the_colour_of_the_background():
    plain = Image.new("RGB", (48, 48), (240, 220, 200))
    plain.paste((90, 40, 140), (16, 16, 32, 32))
    for row in variants({"image_id": "a", "variants": 60, "width": 48, "height": 48}, plain, seed=0):
        (operation,) = json.loads(row["augmentation"])["operations"]
        if operation["name"] in {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}:
            corner = np.frombuffer(decoded(row), np.uint8).reshape(48, 48, 3)[:4, :4].mean((0, 1))
            assert np.abs(corner - (240, 220, 200)).max() < 12


def test_an_image_too_uniform_to_vary_is_an_error():
    with pytest.raises(CelluScanError, match="too uniform to be augmented"):
        list(
            variants(
                {"image_id": "own/black.png", "variants": 100, "width": 48, "height": 48},
                Image.new("RGB", (48, 48)),
                seed=0,
            )
        )
