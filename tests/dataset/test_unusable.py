"""A source without a usable image stops a build with reasons and advice; one with few is a warning."""

import csv
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from celluscan_hf.dataset.command import summary
from celluscan_hf.dataset.reading import open_dataset
from celluscan_hf.errors import CelluScanError

from .conftest import build_small, run

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PAGE = b"\n<!DOCTYPE html>\n<html><title>Sign in</title></html>"


def refused(output: Path, *sources: str) -> str:
    """Return the one-line error of a build."""
    with pytest.raises(CelluScanError) as error:
        build_small(output, *sources, target_per_class=0)
    assert "\n" not in str(error.value)
    return str(error.value)


def listed(output: Path) -> dict[str, str]:
    """Return the reasons by path from the list next to the output."""
    with open(f"{output}.dropped.csv", encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


def zipped(path: Path, folder: Path, rename: Callable[[str], str] = str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.writestr(zipfile.ZipInfo(rename(file.relative_to(folder).as_posix())), file.read_bytes())
    return path


def encrypted(path: Path) -> Path:
    """A zip whose members are marked as encrypted."""
    data = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        for match in re.finditer(re.escape(mark), bytes(data)):
            data[match.start() + flags] |= 1
    path.write_bytes(data)
    return path


def test_zip_of_windows_is_built_like_its_folder(tmp_path, cell_folder):
    archive = zipped(tmp_path / "cells.zip", cell_folder, lambda name: name.replace("/", "\\"))
    statistics = build_small(tmp_path / "wbc", f"imagefolder={archive}", target_per_class=0)
    assert statistics["rows"]["originals"] == 24
    assert set(statistics["classes"]) == {"Basophil", "Monocyte"}


def test_nothing_but_unsafe_names_is_one_line_with_the_list(tmp_path, cell_folder):
    archive = zipped(tmp_path / "cells.zip", cell_folder, lambda name: f"../{name}")
    message = refused(tmp_path / "wbc", f"imagefolder={archive}")
    assert "source imagefolder: no usable image; all 24 were dropped: unsafe_path 24" in message
    assert f"{tmp_path / 'wbc'}.dropped.csv" in message
    assert set(listed(tmp_path / "wbc").values()) == {"unsafe_path"}


def test_nothing_but_broken_links_is_one_line(tmp_path, cell_folder):
    for file in cell_folder.rglob("*.png"):
        file.unlink()
        file.symlink_to(tmp_path / "gone" / file.name)
    assert "broken_link 24; links that point nowhere" in refused(tmp_path / "wbc", f"imagefolder={cell_folder}")


def test_nothing_but_encrypted_members_is_one_line(tmp_path, cell_folder):
    archive = encrypted(zipped(tmp_path / "cells.zip", cell_folder))
    assert "encrypted 24; the archive asks for a password" in refused(tmp_path / "wbc", f"imagefolder={archive}")


@pytest.mark.parametrize(
    ("data", "reason", "advice"),
    [
        (LFS, "git_lfs_pointer", "run git lfs pull"),
        (PAGE, "html_page", "log in and download"),
        (b"", "empty_file", "download them again"),
        (b"PK\x03\x04 and so on", "archive", "unpack them"),
        (b"a list of cells", "not_an_image", "expected JPEG"),
    ],
)
def test_files_that_are_not_images_get_advice(data, reason, advice, tmp_path, write_files):
    folder = write_files(tmp_path / "own", {f"Basophil/{number}.png": data for number in range(3)})
    message = refused(tmp_path / "wbc", f"imagefolder={folder}")
    assert f"all 3 were dropped: {reason} 3; " in message and advice in message
    assert set(listed(tmp_path / "wbc").values()) == {reason}


def test_one_class_folder_alone_is_answered_with_its_parent(tmp_path, cell_folder):
    message = refused(tmp_path / "wbc", f"imagefolder={cell_folder / 'Basophil'}")
    assert "no label 12" in message
    assert f"looks like the folder of one class; give the folder above it, {cell_folder}" in message


def test_zip_of_one_class_is_answered_with_what_to_do(tmp_path, cell_folder):
    archive = zipped(tmp_path / "Basophil.zip", cell_folder / "Basophil")
    assert "looks like an archive of one class: unpack it" in refused(tmp_path / "wbc", f"imagefolder={archive}")


def test_zip_per_class_is_answered_with_what_to_do(tmp_path, cell_folder):
    (tmp_path / "zips").mkdir()
    for name in ("Basophil", "Monocyte"):
        zipped(tmp_path / "zips" / f"{name}.zip", cell_folder / name)
    message = refused(tmp_path / "wbc", f"imagefolder={tmp_path / 'zips'}")
    assert "archive 2" in message and "each class into a folder of its name" in message


@pytest.mark.parametrize("table", ["labels.csv", "Labels.xlsx"])
def test_flat_folder_with_a_table_is_answered_with_its_name(table, tmp_path, cell_folder):
    (cell_folder / "Basophil").rename(tmp_path / "flat")
    (tmp_path / "flat" / table).write_text("image,class\n0.png,Basophil\n")
    message = refused(tmp_path / "wbc", f"imagefolder={tmp_path / 'flat'}")
    assert f"if {table} holds the labels, save it as metadata.csv with the columns file_name and label" in message


def test_names_with_backslashes_in_a_folder_are_answered_with_what_to_do(tmp_path, cell_folder):
    (tmp_path / "flat").mkdir()
    for file in (cell_folder / "Basophil").iterdir():
        file.rename(tmp_path / "flat" / f"Basophil\\{file.name}")
    assert "give the archive itself" in refused(tmp_path / "wbc", f"imagefolder={tmp_path / 'flat'}")


def test_labels_that_a_published_source_lacks_are_named(tmp_path, cell_folder):
    (cell_folder / "Basophil").rename(cell_folder / "basophil")
    for number, file in enumerate((cell_folder / "basophil").iterdir()):
        file.rename(file.with_name(f"X_{number}.png"))
    for file in (cell_folder / "Monocyte").iterdir():
        file.unlink()
    message = refused(tmp_path / "wbc", f"pbc={cell_folder}")
    assert "unknown_label:X 12" in message and "check its key" in message


def test_a_source_of_several_that_gives_nothing_stops_the_build(tmp_path, cell_folder, write_files):
    bad = write_files(tmp_path / "bad", {"Basophil/1.png": LFS, "Basophil/2.png": b""})
    sources = (f"imagefolder:a={cell_folder}", f"imagefolder:b={bad}")
    message = refused(tmp_path / "wbc", *sources)
    assert "source b: no usable image; all 2 were dropped: git_lfs_pointer 1, empty_file 1" in message
    assert "to build without it, leave it out" in message
    assert set(listed(tmp_path / "wbc")) == {"b/Basophil/1.png", "b/Basophil/2.png"}


def test_after_the_cause_is_fixed_the_same_command_builds(tmp_path, cell_folder, write_files):
    bad = write_files(tmp_path / "bad", {"Basophil/1.png": LFS})
    sources = (f"imagefolder:a={cell_folder}", f"imagefolder:b={bad}")
    refused(tmp_path / "wbc", *sources)
    (bad / "Basophil" / "1.png").write_bytes((cell_folder / "Basophil" / "0.png").read_bytes())
    (cell_folder / "Basophil" / "0.png").unlink()
    build_small(tmp_path / "wbc", *sources, target_per_class=0)
    assert not Path(f"{tmp_path / 'wbc'}.dropped.csv").exists()


def test_the_command_prints_one_error_line(tmp_path, write_files):
    folder = write_files(tmp_path / "own", {"Basophil/1.png": LFS})
    result = run(tmp_path / "wbc", f"--source=imagefolder={folder}", "--num-proc=1")
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert result.returncode == 2 and len(errors) == 1 and "git lfs pull" in errors[0]
    assert "Traceback" not in result.stderr


def test_a_source_of_which_little_can_be_used_is_a_warning(tmp_path, cell_folder, write_files):
    files = {f"Basophil/{number}.png": LFS for number in range(12)}
    poor = write_files(tmp_path / "poor", files | {"Basophil/good.png": (cell_folder / "Basophil/0.png").read_bytes()})
    (cell_folder / "Basophil/0.png").unlink()
    sources = (f"imagefolder:a={cell_folder}", f"imagefolder:b={poor}")
    lines = warnings(build_small(tmp_path / "wbc", *sources, target_per_class=0))
    assert any("source b: only 1 of 13 images can be used" in line and "git lfs pull" in line for line in lines)


def test_a_source_of_copies_alone_is_a_warning(tmp_path, cell_folder):
    sources = (f"imagefolder:a={cell_folder}", f"imagefolder:b={cell_folder}")
    lines = warnings(build_small(tmp_path / "wbc", *sources, target_per_class=0))
    assert any("source b adds no image: all 24 were dropped: duplicate 24" in line for line in lines)


def test_equal_images_under_other_labels_alone_are_one_line(tmp_path, cell_folder):
    other = tmp_path / "other"
    for name, label in (("Basophil", "Monocyte"), ("Monocyte", "Basophil")):
        (other / label).mkdir(parents=True)
        for file in (cell_folder / name).iterdir():
            (other / label / file.name).write_bytes(file.read_bytes())
    message = refused(tmp_path / "wbc", f"imagefolder:a={cell_folder}", f"imagefolder:b={other}")
    assert "each equals one of another class (a/Basophil/0.png = Basophil and b/Monocyte/0.png = Monocyte)" in message


def test_an_empty_class_folder_and_a_lost_class_are_warnings(tmp_path, cell_folder, write_files):
    (cell_folder / "Lymphocyte").mkdir()
    write_files(cell_folder, {"Eosinophil/1.png": LFS, "Eosinophil/2.png": LFS})
    lines = warnings(build_small(tmp_path / "wbc", f"imagefolder={cell_folder}", target_per_class=0))
    assert any("empty folders: imagefolder/Lymphocyte" in line for line in lines)
    assert any("none of its 2 Eosinophil images is left" in line for line in lines)


def test_too_few_cells_for_a_split_are_a_warning(tmp_path, cell_folder):
    for file in cell_folder.rglob("*.png"):
        if int(file.stem) > 2:
            file.unlink()
    lines = warnings(build_small(tmp_path / "wbc", f"imagefolder={cell_folder}", target_per_class=0))
    assert any(line.startswith("WARNING: validation is empty, so training cannot") for line in lines)
    assert any("from 10 groups" in line for line in lines)
    with pytest.raises(CelluScanError, match=r"has no validation split: .*too few groups.*add cells"):
        open_dataset(tmp_path / "wbc")


def test_a_split_without_a_class_is_a_warning(tmp_path, cell_folder, write_image):
    write_image(cell_folder / "Eosinophil" / "1.png", 500)
    lines = warnings(build_small(tmp_path / "wbc", f"imagefolder={cell_folder}", target_per_class=0))
    assert [line.partition(";")[0] for line in lines] == [
        "WARNING: validation has no Eosinophil",
        "WARNING: test has no Eosinophil",
    ]


def test_a_good_build_has_no_warnings(tmp_path, cell_folder):
    assert warnings(build_small(tmp_path / "wbc", f"imagefolder={cell_folder}", target_per_class=0)) == []


def warnings(statistics) -> list[str]:
    """Return the warnings of the closing summary."""
    return [line for line in summary(statistics, Path("wbc")).splitlines() if line.startswith("WARNING: ")]
