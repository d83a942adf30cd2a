"""Hidden and system folders are in no source, however it is packed; other hidden files are looked at."""

import shutil

import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import Record, open_source
from celluscan_hf.sources.hidden import hidden_part
from celluscan_hf.sources.tree import open_tree

HIDDEN = {
    ".git/objects/1a.png": ".git/",
    "Basophil/.ipynb_checkpoints/1-checkpoint.png": "Basophil/.ipynb_checkpoints/",
    "Basophil/@eaDir/1.png/SYNOPHOTO_THUMB.jpg": "Basophil/@eaDir/",
    "__MACOSX/Basophil/._1.png": "__MACOSX/",
    ".AppleDouble/1.png": ".AppleDouble/",
    "#recycle/Basophil/1.png": "#recycle/",
    "lost+found/1.png": "lost+found/",
    "$RECYCLE.BIN/S-1/1.png": "$RECYCLE.BIN/",
    "System Volume Information/1.png": "System Volume Information/",
    ".Trash-1000/files/1.png": ".Trash-1000/",
    ".DS_Store": ".DS_Store",
    "Basophil/._1.png": "Basophil/._1.png",
    "Basophil/Thumbs.db": "Basophil/Thumbs.db",
    "Basophil/DESKTOP.INI": "Basophil/DESKTOP.INI",
}


def test_hidden_part_is_the_outermost_hidden_folder_or_system_file():
    assert {path: hidden_part(path) for path in HIDDEN} == HIDDEN
    others = ["Basophil/1.png", "Basophil/.DS_169665.jpg", "./Basophil/1.png", "../1.png", "a.b/1"]
    assert not any(map(hidden_part, others))


@pytest.fixture(params=["folder", "zip", "gztar"])
def packed(request, tmp_path, write_files):
    folder = write_files(
        tmp_path / "cells", dict.fromkeys(["Basophil/1.png", "Basophil/.DS_169665.jpg", *HIDDEN], b"x")
    )
    return folder if request.param == "folder" else shutil.make_archive(str(tmp_path / "packed"), request.param, folder)


def test_hidden_folders_are_in_no_source_and_counted(packed, tmp_path):
    source = open_source(f"imagefolder={packed}", tmp_path / "scratch", seed=0)
    items = list(source.records())
    assert [(item.image_id, type(item)) for item in items] == [
        ("imagefolder/Basophil/.DS_169665.jpg", Record),
        ("imagefolder/Basophil/1.png", Record),
    ]
    assert f"passed over {len(HIDDEN)} hidden or system folders and files" in source.notes[0]


@pytest.mark.parametrize("key", ["pbc", "imagefolder"])
def test_a_source_with_hidden_files_alone_says_so(key, tmp_path, write_files):
    folder = write_files(tmp_path / "cells", dict.fromkeys(HIDDEN, b"x"))
    with pytest.raises(CelluScanError, match="holds no files but hidden and system files"):
        list(open_source(f"{key}={folder}", tmp_path / "scratch", seed=0).records())


def test_a_hidden_folder_is_not_walked(tmp_path, write_files):
    folder = write_files(tmp_path / "cells", {"a.png": b"x", ".git/b.png": b"y"})
    (folder / ".git" / "loop").symlink_to(folder)
    assert [entry.path for entry in open_tree(folder, tmp_path).all_entries()] == [".git/", "a.png"]
