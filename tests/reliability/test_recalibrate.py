"""A calibrated model is fitted to other cells in a folder of its own; the first stays byte for byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.loading import load_classifier, load_reliability
from celluscan_hf.reliability.calibrate import ModelOutputs
from celluscan_hf.reliability.examine import detection_rates, outputs_of, recalibration_gain
from celluscan_hf.reliability.recalibrate import recalibrate
from celluscan_hf.taxonomy import NAMES


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, write_image: Callable[..., Path]) -> str:
    """16 cells of two classes, as the source they are."""
    folder = tmp_path_factory.mktemp("cells")
    for seed in range(16):
        write_image(folder / ("Basophil", "Lymphocyte")[seed % 2] / f"{seed}.png", seed)
    return f"imagefolder={folder}"


def test_a_new_folder_fits_and_the_old_one_stays(
    calibrated: Path, cells: str, tmp_path: Path, cell_image: Callable[..., Image.Image]
) -> None:
    before = {file.name: file.read_bytes() for file in calibrated.iterdir()}
    result = recalibrate(calibrated, [cells], tmp_path / "fitted")
    assert {file.name: file.read_bytes() for file in calibrated.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["fitted"]
    assert result["cells"]["n"] == 16
    assert result["cells"]["after"]["nll"] < result["cells"]["before"]["nll"]
    assert {NAMES[row] for row in np.argsort(result["cells"]["bias"])[-2:]} == {"Basophil", "Lymphocyte"}
    old, new = (load_reliability(load_classifier(folder)[0]) for folder in (calibrated, tmp_path / "fitted"))
    assert old and new
    assert all(len(b.centres) == len(a.centres) + 1 for a, b in zip(old.scorers, new.scorers, strict=True))
    fitted_cells = outputs_of(
        [Image.open(file).copy for file in Path(cells.partition("=")[2]).rglob("*.png")],
        *load_classifier(tmp_path / "fitted"),
    )
    assert all(new.ood_score(entry.features[None]) <= new.ood_threshold * (1 + 1e-4) for entry in fitted_cells)
    answer = pipeline("wbc-classification", model=str(tmp_path / "fitted"), device="cpu")(cell_image(40))
    assert set(answer["set"]) >= {answer["top"][0]["label"]}


def test_what_cannot_be_fitted_is_refused(
    calibrated: Path, cells: str, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    with pytest.raises(CelluScanError, match="already exists"):
        recalibrate(calibrated, [cells], tmp_path)
    write_image(tmp_path / "few" / "Basophil" / "a.png", 1)
    with pytest.raises(CelluScanError, match="1 usable cells: expected at least 8"):
        recalibrate(calibrated, [f"imagefolder={tmp_path / 'few'}"], tmp_path / "fitted")
    assert not (tmp_path / "fitted").exists()


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
