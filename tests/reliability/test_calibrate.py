"""A folder is calibrated for every reader, once is enough, and no test cell is looked at."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from celluscan_hf import taxonomy
from celluscan_hf.errors import CelluScanError
from celluscan_hf.reliability import calibrate as module
from celluscan_hf.reliability.calibrate import calibrate
from celluscan_hf.reliability.head import fold
from celluscan_hf.reliability.temperature import Adjustment

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def native(tmp_path: Path, calibrated: Path) -> Path:
    """A plain ViT whose classes stand in another order than the taxonomy's."""
    torch.manual_seed(0)
    labels = dict(enumerate(reversed(taxonomy.NAMES)))
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = ViTConfig(
        **sizes, image_size=32, patch_size=8, id2label=labels, label2id={name: i for i, name in labels.items()}
    )
    folder = tmp_path / "native"
    ViTForImageClassification(config).save_pretrained(folder)
    AutoImageProcessor.from_pretrained(calibrated).save_pretrained(folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        output: torch.Tensor = model(torch.randn(3, 3, 32, 32)).logits
    return output


def test_a_head_takes_temperature_and_bias_and_no_other_tensor_changes(
    native: Path, calibrated: Path, tmp_path: Path
) -> None:
    for folder in (native, shutil.copytree(calibrated, tmp_path / "ours")):
        before, tensors = logits(folder), load_file(folder / "model.safetensors")
        bias = np.linspace(-1, 1, 14)
        fold(folder, Adjustment(2.0, bias))
        torch.testing.assert_close(logits(folder), before / 2 + torch.from_numpy(bias).float(), **CLOSE)
        after = load_file(folder / "model.safetensors")
        assert {name for name in tensors if not tensors[name].equal(after[name])} == {
            name for name in tensors if name.startswith("classifier.")
        }
        with safe_open(folder / "model.safetensors", "pt") as opened:
            assert opened.metadata()["format"] == "pt"


def test_a_head_is_written_whole_or_not_at_all(
    calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run")
    before = (folder / "model.safetensors").read_bytes()

    def killed(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("celluscan_hf.reliability.head.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        fold(folder, Adjustment(2.0, np.zeros(14)))
    assert (folder / "model.safetensors").read_bytes() == before


def test_a_calibrated_folder_says_what_was_done_and_the_second_time_changes_nothing(
    calibrated: Path, data_set: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run")
    first, before = json.loads((folder / "reliability.json").read_text()), logits(folder)
    assert first["validation"]["n"] == 28
    assert first["confidence_threshold"]["right"] == 0.95
    assert "confidence threshold" in module.summary(first)
    assert first["validation"]["after"]["nll"] < first["validation"]["before"]["nll"]
    assert first["temperature"] != pytest.approx(1, abs=0.05)
    assert "evaluations made before are out of date" in module.summary(first)
    weights = (folder / "model.safetensors").read_bytes()
    second = calibrate(folder, str(data_set))
    assert second["temperature"] == 1
    assert (folder / "model.safetensors").read_bytes() == weights
    assert "weights unchanged" in module.summary(second)
    assert second["total_temperature"] == pytest.approx(first["total_temperature"], rel=1e-3)
    assert second["ood_threshold"] == pytest.approx(first["ood_threshold"], rel=1e-3)
    assert logits(folder).equal(before)
    kept = load_file(folder / "reliability.safetensors")
    assert len(kept["scores"]) == len(kept["labels"]) == 28
    assert not [file for file in folder.rglob("*") if file.suffix in {".bin", ".pt", ".pkl"} or "partial" in file.name]


def test_the_temperature_of_files_of_another_version_is_kept(calibrated: Path, data_set: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run")
    first = json.loads((folder / "reliability.json").read_text())
    (folder / "reliability.json").write_text(json.dumps(first | {"version": 1}))
    assert calibrate(folder, str(data_set))["total_temperature"] == pytest.approx(first["total_temperature"], rel=1e-3)


def test_the_temperature_starts_anew_with_new_weights(calibrated: Path, data_set: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run")
    fold(folder, Adjustment(0.25, np.zeros(14)))
    output = calibrate(folder, str(data_set))
    assert output["temperature"] == output["total_temperature"] == pytest.approx(4, rel=1e-2)


def test_labels_follow_the_order_of_the_model(native: Path, data_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits_read = []
    original: Callable[..., Any] = module.load_cells_of_split
    monkeypatch.setattr(
        module, "load_cells_of_split", lambda name, split: splits_read.append(split) or original(name, split)
    )
    output = calibrate(native, str(data_set))
    assert [cell["name"] for cell in output["classes"]] == list(reversed(taxonomy.NAMES))
    labels = load_file(native / "reliability.safetensors")["labels"]
    assert labels.tolist() == [13 - cell.label for cell in original(str(data_set), "validation").kept]
    assert sorted(splits_read) == ["train", "validation"]


def test_what_cannot_be_calibrated_is_refused(tmp_path: Path, native: Path, data_set: Path) -> None:
    with pytest.raises(CelluScanError, match="is not a directory: download the model first"):
        calibrate(tmp_path / "gone", str(data_set))
    model = AutoModelForImageClassification.from_pretrained(native)
    model.config.id2label = {number: f"LABEL_{number}" for number in range(14)}
    model.save_pretrained(native)
    with pytest.raises(CelluScanError, match="expected a model with the 14 classes"):
        calibrate(native, str(data_set))
