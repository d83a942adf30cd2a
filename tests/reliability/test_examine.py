"""Cells of another microscope: what a calibration fitted to some of them gains, and how many are detected."""

import numpy as np
import pytest

from celluscan_hf.reliability.calibrate import ModelOutputs
from celluscan_hf.reliability.examine import detection_rates, recalibration_gain


def test_the_gain_is_judged_on_cells_of_other_groups() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (200, 14)).astype(np.float32)
    labels = (logits / 3 + rng.gumbel(size=logits.shape)).argmax(axis=1)
    result = recalibration_gain(ModelOutputs(logits, logits, labels), np.repeat(np.arange(50), 4), (16, 64, 199), 5)
    assert [entry["cells"] for entry in result] == [16, 64]
    assert all(entry["gain"]["nll"]["mean"] < 0 for entry in result)


def test_what_is_detection_rates_lies_above_a_share_of_validation() -> None:
    usual = np.arange(100.0)
    result = detection_rates(np.array([98.0, 200.0]), usual, usual)
    assert (result["0.95"], result["0.99"]) == (1, 0.5)
    assert result["auroc"] == pytest.approx(0.9925)
    assert detection_rates(usual, usual, usual)["auroc"] == pytest.approx(0.5)
