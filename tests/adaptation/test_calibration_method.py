"""`--method calibration` fits a model to other cells in a folder of its own; the first stays byte for byte."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from celluscan_hf.adaptation.adapt import adapt
from celluscan_hf.adaptation.settings import AdaptationSettings
from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.modeling.reliability_celluscan import head_of
from celluscan_hf.taxonomy import NAMES


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, write_image: Callable[..., Path]) -> str:
    """16 cells of two classes, as the source they are."""
    folder = tmp_path_factory.mktemp("cells")
    for seed in range(16):
        write_image(folder / ("Basophil", "Lymphocyte")[seed % 2] / f"{seed}.png", seed)
    return f"imagefolder={folder}"


def settings(model: Path, cells: str, output: Path) -> AdaptationSettings:
    return AdaptationSettings(model=model, output=output, sources=(cells,), method="calibration")


def test_a_new_folder_fits_and_the_old_one_stays(
    calibrated: Path, cells: str, tmp_path: Path, cell_image: Callable[..., Image.Image]
) -> None:
    before = {file.name: file.read_bytes() for file in calibrated.iterdir()}
    record = adapt(settings(calibrated, cells, tmp_path / "fitted"))
    assert {file.name: file.read_bytes() for file in calibrated.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["fitted"]
    assert record["method"] == "calibration"
    assert record["before"]["n"] == record["expected"]["n"] == 16
    assert record["expected"]["nll"] < record["before"]["nll"]
    old, new = (
        head_of(load_classifier(folder)[0]).requires_grad_(False) for folder in (calibrated, tmp_path / "fitted")
    )
    temperature = float(old.weight.norm() / new.weight.norm())
    np.testing.assert_allclose(new.weight, old.weight / temperature, rtol=1e-4)
    bias = new.bias - old.bias / temperature
    assert {NAMES[row] for row in bias.argsort()[-2:].tolist()} == {"Basophil", "Lymphocyte"}
    answer = pipeline("wbc-classification", model=str(tmp_path / "fitted"), device="cpu")(cell_image(40))
    assert answer["top"][0]["label"] in answer["set"]


def test_an_existing_output_is_refused(calibrated: Path, cells: str, tmp_path: Path) -> None:
    with pytest.raises(CelluScanError, match="already exists"):
        adapt(settings(calibrated, cells, tmp_path))
    assert list(tmp_path.iterdir()) == []
