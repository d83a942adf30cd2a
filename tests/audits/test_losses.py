import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from celluscan_hf import taxonomy
from celluscan_hf.audits import derived, losses
from celluscan_hf.dataset.reading import open_dataset
from celluscan_hf.evaluation.predictions import FACTS, Predictions
from tests.commands import audit as run_audit


def test_coarse_labels_are_parents_of_some_groups_of_train_and_of_no_other_split(
    data_set: Path, tmp_path: Path
) -> None:
    data = open_dataset(data_set)
    coarse = losses.coarse_dataset(data, losses.LossesSettings(tmp_path, "none", 1, 1, 0.5, 42))
    changed = 0
    for split in ("train", "validation", "test"):
        before = {row["image_id"]: row["label"] for row in data.split("originals", split).remove_columns("image")}
        for row in coarse.split(derived.CONFIG, split).remove_columns("image"):
            was, is_now = before.pop(row["image_id"]), row["label"]
            if was != is_now:
                assert split == "train"
                assert taxonomy.NAMES[is_now] == taxonomy.CLASSES[was].parent
                changed += 1
        assert not before
    with_parent = sum(taxonomy.CLASSES[label].parent is not None for label in data.split("originals", "train")["label"])
    assert 0.25 * with_parent < changed < 0.75 * with_parent


def test_among_the_finest_classes_a_parent_is_neither_asked_nor_told() -> None:
    neu, bne, sne, ly = (taxonomy.lookup(code).name for code in ("NEU", "BNE", "SNE", "LY"))
    shares = np.zeros((3, 14), np.float32)
    for row, probabilities in enumerate(({neu: 0.6, bne: 0.3, sne: 0.1}, {neu: 0.9, ly: 0.1}, {ly: 1.0})):
        for name, share in probabilities.items():
            shares[row, taxonomy.LABEL2ID[name]] = share
    labels = np.array([taxonomy.LABEL2ID[name] for name in (bne, neu, ly)])
    result = losses.among_finest(Predictions({name: ["a", "b", "c"] for name in FACTS}, labels, shares))
    assert result.image_ids == ["a", "c"]
    assert [taxonomy.NAMES[label] for label in result.predicted] == [bne, ly]
    assert result.probabilities.sum(axis=1) == pytest.approx([1, 1], abs=1e-6)


def test_the_gain_is_the_mean_difference_of_equal_seeds(predicted: Callable[..., Predictions]) -> None:
    def run(right: int) -> Predictions:
        outcomes = [("MY", "MY", 0.9)] * right + [("MY", "PMY", 0.9)] * (10 - right)
        return predicted([*outcomes, ("PMY", "PMY", 0.9)])

    runs, flat = [run(9), run(10)], [run(5), run(9)]
    adjacent = losses._over_seeds(runs, flat)["adjacent"]
    assert adjacent["values"] == pytest.approx([1 / 11, 0], abs=1e-4)
    assert adjacent["gain"] == pytest.approx(np.mean([1 / 11 - 5 / 11, 0 - 1 / 11]), abs=1e-4)
    gain = losses._over_seeds(runs, flat)["macro_f1"]
    assert gain["gain_ci95"][0] <= gain["gain"] <= gain["gain_ci95"][1]


@pytest.mark.slow
def test_the_command_trains_each_loss_and_compares_it_with_the_flat_one(
    data_set: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", str(data_set), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "losses.json")]
    coarse = ["--coarse-labels", "0.5"]
    assert run_audit(["losses", *given, "--recipe", tiny, "--steps", "2", "--seeds", "1", *coarse]) == 0
    assert "| hierarchical |" in capsys.readouterr().out
    written = json.loads((tmp_path / "losses.json").read_text())
    assert written["settings"] == {"recipe": tiny, "steps": 2, "seeds": 1, "coarse_labels": 0.5}
    assert set(written["metrics"]) == {"flat", "hierarchical", "maturation"}
    for result in written["metrics"].values():
        assert set(result) == {*losses.METRICS, "training_seconds"}
        assert len(result["training_seconds"]) == 1
        assert len(result["macro_f1"]["values"]) == 1
        low, high = result["macro_f1"]["gain_ci95"]
        assert low <= result["macro_f1"]["gain"] <= high
        gain = result["distant"]["mean"] - written["metrics"]["flat"]["distant"]["mean"]
        assert result["distant"]["gain"] == pytest.approx(gain, abs=2e-4)
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("option", "value"), [("--coarse-labels", "1.5"), ("--seeds", "0"), ("--steps", "-1")])
def test_a_setting_out_of_range_is_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_audit(["losses", "--dataset", "none", "--output", str(tmp_path), option, value])
    assert stopped.value.code == 2
    assert "expected" in capsys.readouterr().err


def test_a_renamed_option_is_refused_with_its_new_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_audit(["losses", "--dataset", "none", "--output", str(tmp_path), "--coarse", "0.5"]) == 2
    assert "--coarse was renamed to --coarse-labels" in capsys.readouterr().err
