import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset

from celluscan_hf import taxonomy
from celluscan_hf.dataset.reading import open_dataset
from celluscan_hf.errors import CelluScanError


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def test_a_split_has_its_rows_with_images_as_stored(built: Path) -> None:
    data = open_dataset(built)
    assert len(data.split("default", "train")) == 14 * 28
    assert len(data.split("originals", "train")) == 14 * 14
    row = data.split("originals", "test")[0]
    assert row["image"]["bytes"][:2] == b"\xff\xd8"
    assert row["source"] == "synthetic"


def test_the_fingerprint_depends_on_the_data_alone(built: Path, copy: Path) -> None:
    assert open_dataset(built).fingerprint == open_dataset(copy).fingerprint
    file = next(copy.glob("data/originals/test-*.parquet"))
    pq.write_table(pq.read_table(file).slice(1), file)
    assert open_dataset(built).fingerprint != open_dataset(copy).fingerprint


def test_channel_statistics_are_those_of_the_build(built: Path) -> None:
    mean, std = open_dataset(built).channel_statistics
    assert all(0 < value < 1 for value in (*mean, *std))


def test_unknown_names_are_answered_with_the_known_ones(built: Path, tmp_path: Path) -> None:
    data = open_dataset(built)
    with pytest.raises(CelluScanError, match="no config 'x'; there are: default, originals, subset_5, subset_20"):
        data.split("x", "train")
    with pytest.raises(CelluScanError, match="no split 'dev'; there are: train, validation, test"):
        data.split("default", "dev")
    with pytest.raises(CelluScanError, match=r"has no data/originals/train-\*\.parquet"):
        open_dataset(tmp_path)
    with pytest.raises(CelluScanError, match="celluscan/none is not a local folder and cannot be downloaded"):
        open_dataset("celluscan/none")


def test_labels_of_other_names_are_refused(copy: Path) -> None:
    names = ["Macrophage" if name == "Monocyte" else name for name in taxonomy.NAMES]
    file = next(copy.glob("data/originals/test-*.parquet"))
    Dataset.from_parquet(str(file)).cast_column("label", ClassLabel(names=names)).to_parquet(file)
    with pytest.raises(CelluScanError, match=r"the label of test must have the 14 classes.*'Macrophage', 'Monocyte'"):
        open_dataset(copy).split("originals", "test")


def test_files_that_are_streamed_are_checked_as_well(copy: Path) -> None:
    data = open_dataset(copy)
    assert data.checked_files("default", "train") == data.files("default", "train")
    file = data.files("default", "train")[-1]
    rows = Dataset.from_parquet(str(file))
    names = [*taxonomy.NAMES[1:], taxonomy.NAMES[0]]
    rows.cast_column("label", ClassLabel(names=names)).to_parquet(file)
    with pytest.raises(CelluScanError, match="the 14 classes of CelluScan in their order"):
        data.checked_files("default", "train")
    file.write_bytes(b"PAR1 and no more")
    with pytest.raises(CelluScanError, match=f"{file.name} is damaged"):
        data.checked_files("default", "train")


def test_missing_columns_are_named(copy: Path) -> None:
    file = next(copy.glob("data/originals/test-*.parquet"))
    pq.write_table(pq.read_table(file).drop_columns(["group_id"]), file)
    with pytest.raises(CelluScanError, match="test lacks the columns group_id"):
        open_dataset(copy).split("originals", "test")


def test_a_damaged_file_is_an_error_of_its_split(copy: Path) -> None:
    file = next(copy.glob("data/originals/validation-*.parquet"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CelluScanError, match="a file of validation is damaged"):
        open_dataset(copy).split("originals", "validation")


def test_statistics_that_are_missing_are_named(copy: Path) -> None:
    (copy / "curation" / "statistics.json").unlink()
    with pytest.raises(CelluScanError, match=r"statistics\.json with channel_mean"):
        _ = open_dataset(copy).channel_statistics
