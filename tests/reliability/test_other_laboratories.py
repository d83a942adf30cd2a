"""Validation cells as another laboratory would show them, and the temperature that they give."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from celluscan_hf.evaluation.cells import load_cells_of_split
from celluscan_hf.inference.loading import load_classifier, load_reliability
from celluscan_hf.reliability.other_laboratories import as_from_elsewhere


def test_cells_look_different_and_the_same_every_time(data_set: Path) -> None:
    cells = load_cells_of_split(str(data_set), "validation").kept[:5]
    once, again = ([np.asarray(cell.read(), int) for cell in as_from_elsewhere(cells)] for _ in range(2))
    for cell, changed, same in zip(cells, once, again, strict=True):
        original = np.asarray(cell.read(), int)
        assert changed.shape == original.shape
        assert np.array_equal(changed, same)
        assert np.abs(changed - original).mean() > 5
    assert as_from_elsewhere(cells)[0].label == cells[0].label


def test_an_image_that_is_no_square_is_cropped() -> None:
    from celluscan_hf.reliability.other_laboratories import _changed

    assert _changed(lambda: Image.new("RGB", (60, 40), (200, 180, 170)), 3).size == (40, 40)


def test_a_calibration_stores_a_temperature_for_images_that_are_out_of_distribution(calibrated: Path) -> None:
    temperature = json.loads((calibrated / "reliability.json").read_text())["other_laboratory"]["temperature"]
    assert temperature >= 1
    reliability = load_reliability(load_classifier(calibrated)[0])
    assert reliability is not None
    assert reliability.other_temperature == temperature
