"""Quality metrics move in the right direction, and outliers are flagged within their own stratum."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from celluscan_hf.curation import quality
from celluscan_hf.curation.quality import Quality, outliers
from celluscan_hf.sources.drawing import draw_cell


def cell(seed: int) -> Image.Image:
    return draw_cell("Basophil", np.random.default_rng(seed), 96)


def measure(image: Image.Image) -> Quality:
    return quality.measure(image.convert("L"))


def spread(count: int, middle: float = 10.0) -> NDArray[np.float64]:
    return middle + np.random.default_rng(0).uniform(-1, 1, count)


@pytest.mark.parametrize("seed", range(2))
def test_a_blurred_copy_is_less_sharp(seed: int) -> None:
    assert measure(cell(seed).filter(ImageFilter.GaussianBlur(2))).sharpness < measure(cell(seed)).sharpness


@pytest.mark.parametrize("seed", range(2))
def test_a_brighter_copy_is_brighter(seed: int) -> None:
    assert measure(ImageEnhance.Brightness(cell(seed)).enhance(1.2)).brightness > measure(cell(seed)).brightness


def test_a_copy_of_less_contrast_has_less_contrast() -> None:
    assert measure(ImageEnhance.Contrast(cell(0)).enhance(0.5)).contrast < measure(cell(0)).contrast


def test_a_flat_image_has_no_contrast_and_no_sharpness() -> None:
    flat = measure(Image.new("RGB", (64, 64), (200, 180, 160)))
    assert (flat.contrast, flat.sharpness) == (0, 0)


@pytest.mark.parametrize(("grey", "brightness"), [(0, 0), (255, 1)])
def test_brightness_runs_from_0_to_1(grey: int, brightness: float) -> None:
    assert measure(Image.new("RGB", (64, 64), (grey, grey, grey))).brightness == brightness


def test_the_strongest_edges_do_not_overflow() -> None:
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    checkered = measure(Image.fromarray(np.repeat(board[..., None], 3, axis=2).astype(np.uint8)))
    assert checkered.sharpness > measure(cell(0)).sharpness


@pytest.mark.parametrize("extreme", [-50.0, 90.0])
def test_an_extreme_value_is_an_outlier(extreme: float) -> None:
    flags = outliers(np.append(spread(40), extreme), np.zeros(41, np.int64))
    assert np.flatnonzero(flags).tolist() == [40]


def test_a_small_stratum_has_no_outliers() -> None:
    assert not outliers(np.append(spread(8), 90.0), np.zeros(9, np.int64)).any()


def test_strata_are_not_compared() -> None:
    values, strata = np.r_[spread(40), spread(40, 500.0)], np.repeat([3, 7], 40)
    assert not outliers(values, strata).any()


def test_a_value_usual_elsewhere_is_an_outlier_in_its_stratum() -> None:
    values, strata = np.r_[spread(40), spread(40, 500.0)], np.repeat([3, 7], 40)
    values[5] = 500.0
    assert np.flatnonzero(outliers(values, strata)).tolist() == [5]


def test_flags_follow_their_rows_whatever_the_order() -> None:
    values, strata = np.r_[spread(40), 90.0, spread(30, 500.0)], np.r_[np.zeros(41, np.int64), np.ones(30, np.int64)]
    order = np.random.default_rng(2).permutation(71)
    assert np.array_equal(outliers(values[order], strata[order]), outliers(values, strata)[order])


def test_equal_values_are_no_outliers() -> None:
    assert not outliers(np.full(40, 3.0), np.zeros(40, np.int64)).any()


def test_one_other_value_among_equal_ones_is_an_outlier() -> None:
    values = np.full(40, 3.0)
    values[7] = 4.0
    assert np.flatnonzero(outliers(values, np.zeros(40, np.int64))).tolist() == [7]


def test_no_values_have_no_outliers() -> None:
    assert outliers(np.zeros(0), np.zeros(0, np.int64)).tolist() == []
