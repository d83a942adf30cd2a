"""Every dataset check detects its violation in a modified copy of a built folder, and no other check does."""

import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from celluscan_hf.dataset.inspection import FileTask, inspect, parquet_files
from celluscan_hf.dataset.invariants import check
from celluscan_hf.dataset.schema import SCHEMA
from celluscan_hf.errors import CelluScanError

FILES, TARGET, SIZE = 14 * 20, 28, 48
Rows = list[dict[str, Any]]


def violations(folder: Path) -> dict[str, list[str]]:
    with tempfile.TemporaryDirectory() as facts:
        reports = [inspect(FileTask(path, SIZE, Path(facts))) for path in parquet_files(folder)]
        return check(folder, reports, FILES, TARGET)


def broken(folder: Path) -> set[str]:
    return {name for name, lines in violations(folder).items() if lines}


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


def edit(folder: Path, pattern: str, change: Callable[[Rows], Rows]) -> None:
    path = next(folder.glob(f"data/{pattern}"))
    rows = change(pq.read_table(path).to_pylist())
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), path)


def first(folder: Path, pattern: str) -> dict[str, Any]:
    return pq.read_table(next(folder.glob(f"data/{pattern}"))).slice(0, 1).to_pylist()[0]


def replace_first(**values: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [{**rows[0], **values}, *rows[1:]]


def recoded(image: dict[str, Any], turn: Image.Transpose | None = None) -> dict[str, Any]:
    buffer = io.BytesIO()
    opened = Image.open(io.BytesIO(image["bytes"]))
    (opened if turn is None else opened.transpose(turn)).save(buffer, "JPEG", quality=80)
    return {"bytes": buffer.getvalue(), "path": image["path"]}


def test_a_built_folder_passes_all_checks(built):
    assert broken(built) == set()


def test_a_lost_row_is_found(copy):
    edit(copy, "originals/test-*", lambda rows: rows[1:])
    assert broken(copy) == {"files seen = rows + dropped"}


def test_a_repeated_image_id_is_found(copy):
    edit(copy, "originals/test-*", lambda rows: [rows[0], {**rows[1], "image_id": rows[0]["image_id"]}, *rows[2:]])
    assert broken(copy) == {"image_id is unique"}


def test_a_group_across_splits_is_found(copy):
    group = first(copy, "originals/validation-*")["group_id"]
    edit(copy, "originals/test-*", replace_first(group_id=group))
    assert broken(copy) == {"no group crosses a split or tier"}


def test_a_group_across_tiers_is_found(copy):
    group = next(row["group_id"] for row in pq.read_table(next(copy.glob("data/originals/train-tier20-*"))).to_pylist())
    edit(copy, "originals/train-tier100-*", lambda rows: [*rows[:-1], {**rows[-1], "group_id": group}])
    assert "no group crosses a split or tier" in broken(copy)


def test_an_exact_duplicate_across_splits_is_found_by_its_file(copy):
    edit(copy, "originals/test-*", replace_first(sha256=first(copy, "originals/validation-*")["sha256"]))
    assert broken(copy) == {"no exact duplicate crosses a split"}


def test_an_exact_duplicate_across_splits_is_found_by_its_pixels(copy):
    edit(copy, "originals/test-*", replace_first(image=first(copy, "originals/validation-*")["image"]))
    assert broken(copy) == {"no exact duplicate crosses a split"}


def test_a_near_duplicate_across_splits_is_found(copy):
    other = first(copy, "originals/validation-*")
    edit(copy, "originals/test-*", replace_first(image=recoded(other["image"]), phash=other["phash"]))
    assert broken(copy) == {"no near duplicate crosses a split"}


def test_a_mirrored_copy_across_splits_is_found(copy):
    other = first(copy, "originals/validation-*")
    edit(copy, "originals/test-*", replace_first(image=recoded(other["image"], Image.Transpose.FLIP_LEFT_RIGHT)))
    assert broken(copy) == {"no near duplicate crosses a split"}


def test_an_augmented_row_in_test_is_found(copy):
    row = first(copy, "augmented/train-tier100-*")
    pq.write_table(pa.Table.from_pylist([row], SCHEMA), copy / "data/augmented/test-00000-of-00001.parquet")
    edit(copy, "augmented/train-tier100-*", lambda rows: rows[1:])
    assert "validation and test hold originals only" in broken(copy)


def test_an_original_of_test_with_a_parent_is_found(copy):
    row = first(copy, "augmented/train-tier100-*")
    edit(copy, "originals/test-*", replace_first(parent_id=row["parent_id"]))
    assert broken(copy) == {"validation and test hold originals only"}


def test_a_parent_outside_train_is_found(copy):
    parent = first(copy, "originals/test-*")["image_id"]
    edit(copy, "augmented/train-tier100-*", replace_first(parent_id=parent))
    assert broken(copy) == {"a parent is a train original of the same class, tier and group"}


def test_a_parent_in_another_tier_is_found(copy):
    row = first(copy, "augmented/train-tier100-*")
    edit(copy, "augmented/train-tier100-*", lambda rows: rows[1:])
    edit(copy, "augmented/train-tier20-*", lambda rows: [*rows, row])
    assert "a parent is a train original of the same class, tier and group" in broken(copy)


def test_a_class_under_the_target_is_found(copy):
    edit(copy, "augmented/train-tier100-*", lambda rows: rows[1:])
    assert broken(copy) == {"train classes reach the target"}


def test_a_variant_equal_to_its_parent_is_found(copy):
    row = first(copy, "augmented/train-tier100-*")
    originals = pq.read_table(next(copy.glob("data/originals/train-tier100-*"))).to_pylist()
    parent = next(original for original in originals if original["image_id"] == row["parent_id"])
    edit(copy, "augmented/train-tier100-*", replace_first(image=parent["image"]))
    assert broken(copy) == {"no augmented image equals its parent or a sibling"}


def test_equal_siblings_are_found(copy):
    row = first(copy, "augmented/train-tier100-*")
    edit(copy, "augmented/train-tier100-*", lambda rows: [*rows, {**row, "image_id": f"{row['parent_id']}~9999"}])
    assert broken(copy) == {"no augmented image equals its parent or a sibling"}


def test_an_image_of_another_size_is_refused(copy):
    path = next(copy.glob("data/originals/test-*"))
    with pytest.raises(CelluScanError, match="expected RGB, 64 x 64"):
        inspect(FileTask(path, 64, copy))


def test_other_columns_are_refused(copy):
    path = next(copy.glob("data/originals/test-*"))
    pq.write_table(pq.read_table(path).drop(["phash"]), path)
    with pytest.raises(CelluScanError, match="has the columns"):
        inspect(FileTask(path, SIZE, copy))
