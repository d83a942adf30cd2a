"""The built folder, as users load it."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, load_dataset
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.dataset.inspection import parquet_files

COLUMNS = [
    "image", "label", "image_id", "source", "source_label", "license", "group_id", "acquisition", "sha256", "phash",
    "width", "height", "parent_id", "augmentation",
]  # fmt: skip


@pytest.fixture(scope="module")
def configs(built: Path, tmp_path_factory: pytest.TempPathFactory):
    cache = str(tmp_path_factory.mktemp("cache"))
    names = ("default", "originals", "subset_5", "subset_20")
    return {name: load_dataset(str(built), name, cache_dir=cache) for name in names}


def ids(dataset) -> set[str]:
    return set(dataset["image_id"])


def test_folder_holds_what_the_design_names(built):
    top = {path.name for path in built.iterdir()}
    assert top == {"README.md", "assets", "curation", "data"}
    curation = {path.name for path in (built / "curation").iterdir()}
    assert curation == {
        "audit.json", "dropped.csv", "duplicates.csv", "label_conflicts.csv", "quality.csv", "sources.json",
        "statistics.json",
    }  # fmt: skip
    prefixes = {path.name.rsplit("-", 3)[0] for path in parquet_files(built)}
    assert prefixes == {"train-tier05", "train-tier20", "train-tier100", "validation", "test"}


def test_every_config_has_the_columns_and_the_class_names(configs):
    for splits in configs.values():
        assert list(splits) == ["train", "validation", "test"]
        assert splits["train"].column_names == COLUMNS
        assert splits["train"].features["label"] == ClassLabel(names=list(taxonomy.NAMES))


def test_validation_and_test_are_the_same_in_every_config(configs):
    for split in ("validation", "test"):
        assert len({frozenset(ids(splits[split])) for splits in configs.values()}) == 1


def test_subsets_are_nested_and_default_holds_all(configs):
    train = {name: ids(splits["train"]) for name, splits in configs.items()}
    assert train["subset_5"] < train["subset_20"] < train["default"]
    assert train["originals"] < train["default"]
    assert all(parent is None for parent in configs["originals"]["train"]["parent_id"])


def test_every_image_is_stored_once_under_its_own_file_name(built):
    stored = [
        row for path in parquet_files(built) for row in pq.read_table(path, columns=["image_id", "image"]).to_pylist()
    ]
    assert len({row["image_id"] for row in stored}) == len(stored)
    assert len({(row["image_id"].split("/")[1], row["image"]["path"]) for row in stored}) == len(stored)
    for row in stored:
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (48, 48))


def test_train_classes_reach_the_target(configs):
    labels = configs["default"]["train"]["label"]
    assert np.bincount(labels, minlength=14).min() >= 28


def test_augmented_rows_name_parent_and_transform(configs):
    rows = [row for row in configs["default"]["train"].remove_columns("image") if row["parent_id"]]
    assert rows
    for row in rows:
        assert row["image_id"].startswith(row["parent_id"] + "~")
        record = json.loads(row["augmentation"])
        assert record["operations"] and record["seed"] >= 0


def test_the_hub_name_loads_the_local_folder(built, monkeypatch, tmp_path):
    monkeypatch.chdir(built.parents[1])
    assert load_dataset("celluscan/wbc", split="test", cache_dir=str(tmp_path)).num_rows > 0


def test_card_declares_sizes_that_hold(built, configs):
    header = yaml.safe_load((built / "README.md").read_text("utf-8").split("---")[1])
    for info in header["dataset_info"]:
        sizes = {split["name"]: split["num_examples"] for split in info["splits"]}
        assert sizes == {name: data.num_rows for name, data in configs[info["config_name"]].items()}
    assert [config["config_name"] for config in header["configs"]] == list(configs)
    assert header["configs"][0]["default"] is True


def test_statistics_of_channels_are_those_of_the_stored_train_originals(built, configs):
    pixels = np.stack([np.asarray(image) for image in configs["originals"]["train"]["image"]]) / 255
    statistics = json.loads((built / "curation" / "statistics.json").read_text("utf-8"))
    assert np.allclose(pixels.mean((0, 1, 2)), statistics["channel_mean"], atol=1e-5)
    assert np.allclose(pixels.std((0, 1, 2)), statistics["channel_std"], atol=1e-5)


def test_quality_has_a_line_for_every_original(built, configs):
    with open(built / "curation" / "quality.csv", encoding="utf-8", newline="") as file:
        listed = {row["image_id"] for row in csv.DictReader(file)}
    assert listed == set.union(*(ids(split) for split in configs["originals"].values()))


def test_audit_records_that_all_checks_hold(built):
    audit = json.loads((built / "curation" / "audit.json").read_text("utf-8"))
    assert len(audit["invariants"]) == 9
    assert set(audit["invariants"].values()) == {"holds"}
    assert set(audit["confounding"]) == {"source", "acquisition"}
    assert set(audit["shortcuts"]) == {"ring", "background", "size", "coding", "source", "all"}


def test_card_shows_one_row_of_cells_per_class(built):
    grid = Image.open(built / "assets" / "classes.jpg")
    assert grid.height // len(taxonomy.CLASSES) >= 100
    assert "assets/classes.jpg" in (built / "README.md").read_text("utf-8")


def test_nothing_is_left_beside_the_folder_but_log_and_lock(built):
    assert {path.name for path in built.parent.iterdir()} <= {"wbc", "wbc.lock", "wbc.log"}
