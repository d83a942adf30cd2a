"""`celluscan benchmark features`: each read-out, floors, other laboratories, features kept."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from celluscan_hf.benchmarks import features as module
from celluscan_hf.benchmarks.features import few_shot
from celluscan_hf.cli import main
from celluscan_hf.training import features


def test_starts_are_compared_on_the_test_split_and_on_other_laboratories(
    data_set: Path, calibrated: Path, tmp_path: Path, write_image: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write_image(tmp_path / "own" / "Basophil" / f"{number}.png", number)
        write_image(tmp_path / "own" / "Segmented Neutrophil" / f"{number}.png", 10 + number)
    result = tmp_path / "result.json"
    command = ["benchmark", "features", "--start", str(calibrated), "--start", "pixels", "--start", "colours"]
    command += ["--dataset", str(data_set), "--external", f"imagefolder={tmp_path / 'own'}", "--shots", "1", "50"]
    command += ["--draws", "2", "--output", str(tmp_path / "features"), "--json", str(result)]
    assert main(command) == 0
    record = json.loads(result.read_text())["metrics"]
    assert record["cells"] == {"train": 196, "validation": 28, "test": 56, "imagefolder": 8}
    assert {start: found["width"] for start, found in record["starts"].items()} == {
        str(calibrated): 32,
        "pixels": 768,
        "colours": 48,
    }
    for found in record["starts"].values():
        for name in ("test", "imagefolder"):
            assert set(found[name]) == {"probe", "knn_1", "knn_20", "few_shot"}
            assert 0 <= found[name]["probe"]["weighted_f1"] <= 1
            assert found[name]["few_shot"]["50"] is None
        assert found["imagefolder"]["few_shot"]["1"]["draws"] == 2
    monkeypatch.setattr(features, "run_model", None)  # features are kept
    assert main(command) == 0
    assert json.loads(result.read_text())["metrics"]["cells"] == record["cells"]


def test_few_shots_learn_what_can_be_learned_and_never_see_the_group_they_are_judged_on() -> None:
    labels = np.repeat([0, 1], 20)
    values = labels[:, None] + np.random.default_rng(0).normal(0, 0.05, (40, 3))
    assert few_shot(values, labels, np.arange(40), 5, 3) == {"balanced_accuracy": 1.0, "sd": 0.0, "draws": 3}
    assert few_shot(values, labels, labels, 5, 3) is None  # one group a class: nothing is left to judge


def test_children_count_as_their_parent_in_external_sources() -> None:
    band, segmented, neutrophil = 0, 13, 10
    scores = module._scores(np.array([segmented, band]), np.array([neutrophil, neutrophil]), coarse=True)
    assert scores["balanced_accuracy"] == 1
    assert module._scores(np.array([segmented]), np.array([band]), coarse=False)["balanced_accuracy"] == 0
