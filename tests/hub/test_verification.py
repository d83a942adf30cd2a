"""The verification before and after an upload stops what differs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.hub import metric_folder
from celluscan_hf.hub.model_folder import TrainedModel, Variant, assemble
from celluscan_hf.hub.verification import Place, Reference, reference, verify_dataset, verify_metric, verify_model
from tests.hub.conftest import Trained


@pytest.fixture
def folder(plain: Trained, tmp_path: Path) -> Path:
    variant = Variant("lab/vit", False, None, "lab/cells", None)
    assemble(TrainedModel(plain.run, plain.evaluation), variant, tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def expected(plain: Trained) -> Reference:
    return reference(plain.run, TrainedModel(plain.run, plain.evaluation).images[:1])


@pytest.mark.slow
def test_a_model_that_answers_otherwise_than_its_checkpoint_is_refused(folder: Path, expected: Reference) -> None:
    other = replace(expected, logits=expected.logits + 0.01)
    with pytest.raises(CelluScanError, match=r"its logits differ from those of the training checkpoint by 0\.01"):
        verify_model(Place(str(folder)), other, hand_built=False)


@pytest.mark.slow
def test_a_model_that_sees_images_otherwise_than_its_checkpoint_is_refused(folder: Path, expected: Reference) -> None:
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["image_mean"][0] += 0.01
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(CelluScanError, match="its pixel_values differ from those of the training checkpoint"):
        verify_model(Place(str(folder)), expected, hand_built=False)


def test_a_data_set_with_other_rows_than_its_card_says_is_refused(data_set: Path, tmp_path: Path) -> None:
    card = (data_set / "README.md").read_text()
    (tmp_path / "README.md").write_text(card.replace("num_examples: 28", "num_examples: 29"))
    with pytest.raises(CelluScanError, match="rows loaded, but the card says"):
        verify_dataset(Place(str(data_set)), tmp_path)


@pytest.fixture
def metric(tmp_path: Path) -> Path:
    metric_folder.assemble("lab/wbc_metrics", tmp_path / "wbc_metrics")
    return tmp_path / "wbc_metrics"


@pytest.mark.slow
def test_what_needs_our_package_is_refused(metric: Path) -> None:
    with (metric / "wbc_metrics.py").open("a") as file:
        file.write("\nimport celluscan_hf\n")
    with pytest.raises(CelluScanError, match="does not work without celluscan_hf"):
        verify_metric(Place(str(metric)))


@pytest.mark.slow
def test_a_metric_that_counts_otherwise_is_refused(metric: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celluscan_hf.hub.verification.ORIGINAL_ACCURACY", 0.9)
    with pytest.raises(CelluScanError, match=r"the metric gives 0\.889.*, expected 0\.9"):
        verify_metric(Place(str(metric)))
