"""A file has its final name only when it is complete."""

import pytest

from celluscan_hf.atomic_io import atomic_write, remove_partial_files


def test_a_file_appears_when_it_is_complete(tmp_path):
    with atomic_write(tmp_path / "folder" / "a.txt") as partial:
        partial.write_text("new")
        assert not (tmp_path / "folder" / "a.txt").exists()
    assert (tmp_path / "folder" / "a.txt").read_text() == "new"


def test_a_failed_write_leaves_the_previous_file_and_nothing_else(tmp_path):
    (tmp_path / "a.txt").write_text("before")
    for name in ("a.txt", "b.txt"):
        with pytest.raises(RuntimeError), atomic_write(tmp_path / name) as partial:
            partial.write_text("half")
            raise RuntimeError
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


def test_two_machines_may_write_one_file(tmp_path):
    with atomic_write(tmp_path / "a.txt") as late:
        late.write_text("the same")
        with atomic_write(tmp_path / "a.txt") as retried:  # here of one process, as there of processes with one number
            retried.write_text("the same")
        assert (tmp_path / "a.txt").read_text() == "the same"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_files_of_a_killed_process_are_removed(tmp_path):
    writing = atomic_write(tmp_path / "folder" / "a.txt")
    writing.__enter__().write_text("half")
    (tmp_path / "folder" / "b.txt").write_text("complete")
    remove_partial_files(tmp_path)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b.txt"]
