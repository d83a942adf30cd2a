import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import CLIPImageProcessor

from celluscan_hf.audits.model_shortcuts import (
    IMAGES,
    acquisition_probe_accuracy,
    cover,
    randomize_background,
    view_share,
)
from celluscan_hf.audits.shortcut_plots import RANDOMIZED
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.exporting import export_native
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor
from celluscan_hf.sources.drawing import draw_cell
from tests.commands import audit as run_audit


def test_a_covered_image_keeps_its_border_and_loses_its_middle() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    covered = np.asarray(cover(Image.fromarray(noise), (200, 190, 180)))
    assert (covered[50, 24:76] == (200, 190, 180)).all()
    assert (covered[:10] == noise[:10]).all()
    assert (covered[:, :10] == noise[:, :10]).all()


def test_a_randomized_background_keeps_the_cell_and_follows_from_seed_and_number() -> None:
    cell = draw_cell("Basophil", np.random.default_rng(0), 96)
    painted = np.asarray(randomize_background(cell, 3, 42), int)
    assert np.array_equal(painted, np.asarray(randomize_background(cell, 3, 42), int))
    assert np.abs(painted - np.asarray(randomize_background(cell, 4, 42), int)).mean() > 3
    assert np.abs(painted - np.asarray(cell, int))[44:52, 44:52].max() < 4


def origins(mix: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Of two classes 60 cells each, of two acquisitions in shares that are the reverse of each other; 60 of a third."""
    grey = [number < share for share in mix for number in range(60)]
    return {
        "label": np.array([0] * 60 + [1] * 60 + [2] * 60, object),
        "source": np.array(["one"] * 180, object),
        "acquisition": np.array([*("grey" if is_grey else "warm" for is_grey in grey), *["warm"] * 60], object),
    }


def test_an_acquisition_is_told_from_features_that_keep_it_and_asked_only_of_classes_of_both() -> None:
    rows, chance = origins((30, 30)), np.random.default_rng(0)
    seeing = chance.normal(size=(180, 4)) + np.where(rows["acquisition"] == "warm", 4, 0)[:, None]
    result = acquisition_probe_accuracy(seeing, rows, seeing, rows, 42)["acquisition"]
    assert result["n"] == {"grey": 60, "warm": 60}
    assert len(result["classes"]) == 2
    assert result["balanced_accuracy"] > 0.95
    assert "source" not in acquisition_probe_accuracy(seeing, rows, seeing, rows, 42)


def test_features_that_tell_the_class_alone_tell_no_acquisition() -> None:
    rows = origins((54, 6))  # nine of ten of one class are grey, one of ten of the other
    features = np.eye(3)[rows["label"].astype(int)]
    assert acquisition_probe_accuracy(features, rows, features, rows, 42)["acquisition"]["balanced_accuracy"] == 0.5


def test_a_rare_acquisition_is_told_as_well_as_a_frequent_one() -> None:
    rows = origins((6, 6))
    features = np.random.default_rng(0).normal(size=(180, 1)) + np.where(rows["acquisition"] == "warm", 2, 0)[:, None]
    result = acquisition_probe_accuracy(features, rows, features, rows, 42)["acquisition"]
    assert min(result["recall"].values()) > 0.7


def test_the_view_of_other_stock_processors_is_known() -> None:
    assert view_share(CLIPImageProcessor(size={"shortest_edge": 256}, crop_size=224)) == 0.875
    assert view_share(CLIPImageProcessor(do_center_crop=False)) == 1


@pytest.mark.slow
def test_the_command_tells_of_data_and_model(
    data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    config = CelluScanConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    processor = build_image_processor(32, (0.87, 0.75, 0.72), (0.16, 0.19, 0.08), resized=64)
    export_native(CelluScanForImageClassification(config).eval(), tmp_path / "model", processor)
    given = ["--dataset", str(data_set), "--model", str(tmp_path / "model"), "--output", str(tmp_path / "out")]
    assert run_audit(["shortcut", *given, "--num-proc", "1"]) == 0
    assert "outer ring of pixels" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "out" / "shortcut.json").read_text())["metrics"]
    assert set(metrics["background_accuracy"]) == {"ring", "background", "size", "coding", "source", "all"}
    for name in RANDOMIZED:
        assert set(metrics[name]) == {"ring", "background"}
    (result,) = metrics["models"].values()
    assert set(result["acquisition_probe_accuracy"]) == {"acquisition"}  # of one source, drawn on several backgrounds
    for kind in IMAGES:
        assert result[kind]["chance"] == pytest.approx(1 / 14, abs=1e-4)
        assert 0 <= result[kind]["macro_f1"] < 0.3  # a model that has learned nothing
    assert result["view"] == 0.5
    assert set(result["border"]) == {"as_is", "randomized"}
    assert (tmp_path / "out" / "shortcut.png").is_file()


def test_a_data_set_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_audit(["shortcut", "--dataset", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1
