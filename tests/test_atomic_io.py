"""A file has its name only when it is whole."""

import pytest

from celluscan_hf.atomic_io import atomic_write, remove_partial_files


def test_a_file_has_no_name_while_it_is_written(tmp_path):
    with atomic_write(tmp_path / "folder" / "a.txt") as partial:
        partial.write_text("half")
        assert not (tmp_path / "folder" / "a.txt").exists()
    assert (tmp_path / "folder" / "a.txt").read_text() == "half"


def test_a_failed_file_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_file_leaves_the_one_before_it(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "before"


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    writing = atomic_write(tmp_path / "folder" / "a.txt")
    writing.__enter__().write_text("half")
    (tmp_path / "folder" / "b.txt").write_text("whole")
    remove_partial_files(tmp_path)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b.txt"]
