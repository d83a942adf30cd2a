"""The check for a stained single cell: any light is accepted, anything else refused with its reason."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from celluscan_hf.benchmarks import stain_sets
from celluscan_hf.benchmarks.ood_sets import noise, turn_hue
from celluscan_hf.modeling.stain_celluscan import FEATURES, KINDS, describe, probabilities, refusal
from celluscan_hf.modeling.stain_weights_celluscan import CENTRES, SCALES, WEIGHTS
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.taxonomy import NAMES

RESULTS = Path(__file__).parents[2] / "results" / "stain.json"


def synthetic(name: str = "Segmented Neutrophil", seed: int = 0, size: int = 256) -> Image.Image:
    return draw_cell(name, np.random.default_rng(seed), size)


def under(image: Image.Image, gains: tuple[float, float, float]) -> Image.Image:
    return Image.fromarray((np.asarray(image) * np.array(gains)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [96, 256, 600])
def test_synthetic_cells_are_accepted(name: str, size: int) -> None:
    assert refusal(synthetic(name, size=size)) is None


@pytest.mark.parametrize("name", ["Platelet", "Lymphocyte", "Eosinophil"])
@pytest.mark.parametrize(
    "gains", [(0.7, 0.85, 1.0), (1.0, 0.9, 0.6), (0.8, 1.0, 0.8), (1.0, 0.75, 0.9), (0.5, 0.5, 0.5)]
)
def test_the_lamp_and_the_white_balance_do_not_matter(name: str, gains: tuple[float, float, float]) -> None:
    assert refusal(under(synthetic(name), gains)) is None


def test_features_do_not_depend_on_the_white_balance() -> None:
    cell = synthetic()
    difference = np.abs(describe(under(cell, (0.8, 0.9, 0.7))) - describe(cell)) / SCALES
    assert difference[[name != "number of colours" for name in FEATURES]].max() < 0.3


@pytest.mark.parametrize("degrees", [90, 120, 180, 240])
def test_a_cell_of_turned_hue_is_refused(degrees: float) -> None:
    assert refusal(turn_hue(synthetic(), degrees))


FIELD = (250, 225, 205)
EMPTY = Image.fromarray(np.random.default_rng(0).normal(FIELD, 2, (120, 120, 3)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (99, 99), "white"), KINDS["unstained"]),
        (Image.new("RGB", (99, 99), (120, 60, 160)), KINDS["unstained"]),
        (EMPTY, KINDS["unstained"]),
        (ImageOps.invert(synthetic()), KINDS["negative"]),
        (synthetic().convert("L").convert("RGB"), KINDS["grey"]),
        *((image, KINDS["noise"]) for image in noise(4)),
    ],
)
def test_anything_but_a_stained_cell_is_refused_with_the_reason(image: Image.Image, reason: str) -> None:
    assert refusal(image) == reason


@pytest.mark.parametrize(
    "make",
    [
        lambda: stain_sets.drawings(40, 9, ("text", "lines", "pie", "bars")),
        lambda: stain_sets.noises(40, 9),
        lambda: stain_sets.uniform(40, 9),
        lambda: stain_sets.turned([synthetic(seed=seed) for seed in range(40)], 9, (90, 120, 180, 240, 270)),
    ],
    ids=["drawings", "noise", "uniform", "turned"],
)
def test_nearly_all_images_of_a_kind_are_refused(make: Callable[[], list[Image.Image]]) -> None:
    assert sum(refusal(image) is None for image in make()) <= 2


def test_photographs_are_refused() -> None:
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    corners = [image.crop((x, y, x + 200, y + 200)) for image in photographs for x in (0, 200, 400) for y in (0, 200)]
    assert all(refusal(image) for image in photographs)
    assert sum(refusal(image) is None for image in corners) <= 1


def test_any_size_and_mode_is_measured() -> None:
    for image in (Image.new("RGB", (1, 1)), Image.new("RGB", (3, 500), "red"), synthetic().convert("RGBA")):
        assert np.isfinite(describe(image)).all()


def test_the_numbers_fit_the_features() -> None:
    assert len(CENTRES) == len(SCALES) == len(FEATURES)
    assert np.shape(WEIGHTS) == (len(FEATURES) + 1, len(KINDS))
    assert probabilities(describe(synthetic())[None]).sum() == pytest.approx(1)


def test_the_numbers_are_those_that_were_measured() -> None:
    record = json.loads(RESULTS.read_text("utf-8"))["metrics"]["numbers"]
    assert (record["CENTRES"], record["SCALES"], record["WEIGHTS"]) == (CENTRES, SCALES, WEIGHTS)


@pytest.mark.slow
def test_it_takes_a_few_milliseconds() -> None:
    image, times = synthetic(size=360), []
    for _ in range(20):
        started = time.perf_counter()
        refusal(image)
        times.append(time.perf_counter() - started)
    assert min(times) < 0.003


@pytest.mark.real_data
@pytest.mark.parametrize("laboratory", ["PBC_dataset_normal_DIB", "Bone-Marrow-Cytomorphology", "BCISC"])
def test_cells_of_each_laboratory_are_accepted_in_any_light(laboratory: str, real_data: Path) -> None:
    cells = stain_sets.cells(real_data / laboratory, 60)
    for images in (cells, stain_sets.changed(cells, 9)):
        assert sum(refusal(image) is not None for image in images) <= 0.05 * len(images)


@pytest.mark.real_data
def test_red_cells_alone_are_refused(real_data: Path) -> None:
    squares = stain_sets.unstained(stain_sets.cells(real_data / "BCISC", 40), 9)
    assert len(squares) > 20
    assert sum(refusal(image) is None for image in squares) <= 0.05 * len(squares)


@pytest.mark.real_data
def test_changed_cells_are_refused(real_data: Path) -> None:
    cells = stain_sets.cells(real_data / "BCISC", 40)
    for images in (
        stain_sets.turned(cells, 9, (90, 120, 150, 180, 210)),
        stain_sets.inverted(cells),
        stain_sets.grey(cells),
    ):
        assert sum(refusal(image) is None for image in images) <= 0.05 * len(images)
