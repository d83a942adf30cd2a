import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from celluscan_hf.audits import derived, leak
from celluscan_hf.augmentation.view import View
from celluscan_hf.dataset.reading import CellDataset, open_dataset
from celluscan_hf.errors import CelluScanError
from celluscan_hf.training import recipes
from tests.commands import audit as run_audit

TARGET = 40


@pytest.fixture(scope="module")
def protocols(data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CellDataset]:
    """The two datasets of the audit."""
    folder, data = tmp_path_factory.mktemp("leak"), open_dataset(data_set)
    settings = leak.LeakSettings(folder, "none", 1.0, TARGET, 1, False, 42, 1)
    return {name: leak.protocol_dataset(name, data, folder / name, settings) for name in leak.PROTOCOLS}


def test_copies_stand_on_both_sides_of_a_random_split_and_on_one_of_ours(protocols: dict[str, CellDataset]) -> None:
    assert leak.group_overlap(protocols["random"])["related_share"] > 0.5
    assert leak.group_overlap(protocols["grouped"])["related_share"] == 0


def test_held_out_cells_are_in_neither(protocols: dict[str, CellDataset], data_set: Path) -> None:
    held_out = set(open_dataset(data_set).split("originals", "test")["group_id"])
    for protocol in protocols.values():
        for split in ("train", "test"):
            assert not held_out & set(protocol.split(derived.CONFIG, split)["group_id"])


def test_classes_are_filled_up_before_the_random_split_and_only_in_train_of_ours(
    protocols: dict[str, CellDataset],
) -> None:
    both = Counter(protocols["random"].split(derived.CONFIG, "train")["label"])
    both.update(protocols["random"].split(derived.CONFIG, "test")["label"])
    assert set(both.values()) == {TARGET}
    assert set(Counter(protocols["grouped"].split(derived.CONFIG, "train")["label"]).values()) == {TARGET}
    assert not any(protocols["grouped"].split(derived.CONFIG, "test")["parent_id"])


def test_of_a_share_of_the_cells_whole_groups_of_every_class_are_used(
    protocols: dict[str, CellDataset], data_set: Path, tmp_path: Path
) -> None:
    settings = leak.LeakSettings(tmp_path, "none", 0.5, TARGET, 1, False, 42, 1)
    half = leak.protocol_dataset("random", open_dataset(data_set), tmp_path, settings)
    groups, labels = (
        [set(protocol.split(derived.CONFIG, "train")[column]) for protocol in (half, protocols["random"])]
        for column in ("group_id", "label")
    )
    assert 0.3 < len(groups[0]) / len(groups[1]) < 0.7
    assert labels[0] == labels[1]
    assert None in half.split(derived.CONFIG, "test")["parent_id"]  # else nothing could be said of its originals


def test_a_derived_dataset_is_reused_and_refused_with_other_settings(
    protocols: dict[str, CellDataset], data_set: Path
) -> None:
    folder, data = protocols["random"].folder, open_dataset(data_set)
    settings = leak.LeakSettings(folder.parent, "none", 1.0, TARGET, 1, False, 42, 1)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")}
    leak.protocol_dataset("random", data, folder, settings)
    with pytest.raises(CelluScanError, match=r"was made with other settings: .*; choose another --output"):
        leak.protocol_dataset("random", data, folder, replace(settings, target_per_class=TARGET + 1))
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*.parquet")} == before


def test_a_folder_that_no_audit_has_written_is_kept_and_refused(data_set: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    settings = leak.LeakSettings(tmp_path, "none", 1.0, TARGET, 1, False, 42, 1)
    with pytest.raises(CelluScanError, match="holds files that are not from an audit"):
        leak.protocol_dataset("random", open_dataset(data_set), tmp_path, settings)
    assert (tmp_path / "thesis.tex").read_text() == "dear"


def test_an_output_inside_the_data_set_is_refused(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_audit(["leak", "--dataset", str(data_set), "--output", str(data_set / "data")]) == 2
    assert "choose a folder outside of it" in capsys.readouterr().err


def test_as_stored_leaves_no_augmentation_on(data_set: Path, tmp_path: Path) -> None:
    given = ["--dataset", str(data_set), "--output_dir", str(tmp_path), *leak.NO_AUGMENTATION]
    (settings,) = recipes.stages("finetune", given)
    augmentation = settings.augmentation
    assert augmentation.background_randomization == 0
    view = View(32, 0.8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels = torch.randint(0, 256, (20, 3, 40, 40), dtype=torch.uint8)
    assert (augmentation(pixels, range(20), view) - view(pixels)).abs().max() < 1e-5
    assert (settings.mixup_alpha, settings.cutmix_alpha) == (0, 0)


@pytest.mark.slow
def test_the_command_trains_both_and_writes_figures_and_picture(
    data_set: Path, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", str(data_set), "--output", str(tmp_path / "out"), "--json", str(tmp_path / "leak.json")]
    options = ["--steps", "2", "--target-per-class", "18", "--num-proc", "1", "--no-online-augmentation"]
    assert run_audit(["leak", *given, "--recipe", tiny, *options]) == 0
    assert "| random |" in capsys.readouterr().out
    written = json.loads((tmp_path / "leak.json").read_text())
    settings = {"recipe": tiny, "steps": 2, "share": 1.0, "target_per_class": 18, "no_online_augmentation": True}
    assert written["settings"] == settings
    assert written["data"]["fingerprint"] == open_dataset(data_set).fingerprint
    for metrics in written["metrics"].values():
        gap = metrics["own_originals"]["accuracy"] - metrics["held_out"]["accuracy"]
        assert metrics["optimism"]["accuracy"] == pytest.approx(gap, abs=1e-4)
        assert metrics["held_out"]["n"] == 56
        assert metrics["training_seconds"] > 0
    for name in leak.PROTOCOLS:  # whatever a recipe does
        settings = json.loads((tmp_path / "out" / name / "run" / "settings.json").read_text())["settings"]
        assert settings["background_randomization"] == 0
    assert (tmp_path / "leak.png").read_bytes().startswith(b"\x89PNG")
