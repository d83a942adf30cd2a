"""The folder of an evaluation appears whole or not at all, and nothing foreign is lost."""

from pathlib import Path

import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.folder import IMAGES, METRICS, REPORT, building, check_outside


def write(output: Path, text: str) -> None:
    with building(output) as building_folder:
        (building_folder.final / METRICS).write_text(text)
        (building_folder.scratch / "large").write_text("gone")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_folder_is_made_with_the_folders_above_it(tmp_path):
    write(tmp_path / "new" / "eval", "first")
    assert (tmp_path / "new" / "eval" / METRICS).read_text() == "first"
    assert names(tmp_path / "new") == {"eval", "eval.lock"}


def test_an_earlier_evaluation_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "eval", "first")
    (tmp_path / "eval" / REPORT).write_text("of the first")
    write(tmp_path / "eval", "second")
    assert names(tmp_path / "eval") == {METRICS}
    assert (tmp_path / "eval" / METRICS).read_text() == "second"


def test_an_evaluation_that_fails_leaves_the_earlier_one(tmp_path):
    write(tmp_path / "eval", "first")
    with pytest.raises(KeyboardInterrupt), building(tmp_path / "eval") as building_folder:
        (building_folder.final / METRICS).write_text("half")
        raise KeyboardInterrupt
    assert (tmp_path / "eval" / METRICS).read_text() == "first"
    assert names(tmp_path) == {"eval", "eval.lock"}


def test_what_a_killed_run_left_is_cleared(tmp_path):
    (tmp_path / "eval.building" / "final").mkdir(parents=True)
    (tmp_path / "eval.building" / "final" / "old").write_text("half")
    write(tmp_path / "eval", "new")
    assert names(tmp_path / "eval") == {METRICS}


def test_an_evaluation_gets_its_name_back_after_a_kill_between_the_renames(tmp_path):
    write(tmp_path / "eval", "first")
    (tmp_path / "eval.building").mkdir()
    (tmp_path / "eval").rename(tmp_path / "eval.building" / "previous")
    with pytest.raises(ValueError), building(tmp_path / "eval"):
        raise ValueError
    assert (tmp_path / "eval" / METRICS).read_text() == "first"


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors"])
def test_a_folder_with_other_files_is_refused_and_kept(name, tmp_path):
    write(tmp_path / "eval", "first")
    (tmp_path / "eval" / name).write_text("mine")
    with pytest.raises(CelluScanError, match=f"holds {name}, which is not from an evaluation"):
        write(tmp_path / "eval", "second")
    assert names(tmp_path / "eval") == {METRICS, name}


def test_the_examples_of_an_earlier_evaluation_go_with_it(tmp_path):
    write(tmp_path / "eval", "first")
    (tmp_path / "eval" / IMAGES).mkdir()
    (tmp_path / "eval" / IMAGES / "BNE.jpg").write_text("of the first")
    write(tmp_path / "eval", "second")
    assert names(tmp_path / "eval") == {METRICS}


@pytest.mark.parametrize("name", ["mine.jpg", "deeper/BNE.jpg", "BNE.jpg/mine.txt"])
def test_a_foreign_file_among_the_examples_is_refused_and_kept(name, tmp_path):
    write(tmp_path / "eval", "first")
    foreign = tmp_path / "eval" / IMAGES / name
    foreign.parent.mkdir(parents=True)
    foreign.write_text("mine")
    with pytest.raises(CelluScanError, match=f"holds {IMAGES}/{Path(name).parts[0]}, which is not from an evaluation"):
        write(tmp_path / "eval", "second")
    assert foreign.read_text() == "mine"


def test_a_folder_named_like_a_file_of_ours_is_foreign(tmp_path):
    (tmp_path / "eval" / METRICS).mkdir(parents=True)
    with pytest.raises(CelluScanError, match="which is not from an evaluation"):
        write(tmp_path / "eval", "new")


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "eval").write_text("mine")
    with pytest.raises(CelluScanError, match="is a file"):
        write(tmp_path / "eval", "new")


def test_a_second_evaluation_into_the_folder_is_refused(tmp_path):
    refused = pytest.raises(CelluScanError, match="another evaluation into")
    with building(tmp_path / "eval"), refused:
        write(tmp_path / "eval", "second")


def test_an_output_in_what_is_read_is_refused(tmp_path):
    with pytest.raises(CelluScanError, match="which is read"):
        check_outside(tmp_path / "wbc" / "eval", [tmp_path / "wbc"])
    check_outside(tmp_path / "wbc-eval", [tmp_path / "wbc"])
