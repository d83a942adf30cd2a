"""Files of a source: the same from a folder and every archive, and nothing an archive says can do harm."""

import bz2
import gzip
import io
import lzma
import os
import pickle
import random
import shutil
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.sources import archives, entries
from celluscan_hf.sources.tree import Entry, open_tree

FILES = {"b/2.png": b"two", "a.txt": b"at the top", "b/10.png": b"ten", "b/c/ü 1.png": b"deep", "b.d/0": b""}
ORDER = sorted(FILES)
TARS = {"tar": "w", "tar.gz": "w:gz", "tar.bz2": "w:bz2", "tar.xz": "w:xz"}
ARCHIVES = ("zip", *TARS)
KINDS = pytest.mark.parametrize("kind", ["zip", "tar"])  # a compressed tar differs in nothing but its compression


def noise(size):
    """Bytes that do not compress."""
    return random.Random(0).randbytes(size)


def make_zip(path, members):
    """A zip of (name, bytes) pairs; names may repeat and may be unsafe."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def tar_member(name, size=0, **attributes):
    member = tarfile.TarInfo(name)
    member.size = size
    for key, value in attributes.items():
        setattr(member, key, value)
    return member


def make_tar(path, members, mode="w"):
    """A tar of (name, bytes) pairs; `TarInfo` in place of the name for anything but a plain file."""
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            member = name if isinstance(name, tarfile.TarInfo) else tar_member(name, len(data))
            archive.addfile(member, io.BytesIO(data))
    return path


def make_archive(folder, kind, members):
    path = folder / f"cells.{kind}"
    return make_zip(path, members) if kind == "zip" else make_tar(path, members, TARS[kind])


def problems(tree):
    return {entry.path: entry.problem for entry in tree.entries()}


def assert_one_line_naming(error, path):
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch"


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "cells"
    path.mkdir()
    return path


@pytest.fixture
def shut():
    """Takes every right from a path until the test is over; skips where that keeps nobody out."""
    paths = []

    def take_rights(path):
        path.chmod(0)
        paths.append(path)
        if os.access(path, os.R_OK):
            pytest.skip("root can read everything")

    yield take_rights
    for path in paths:
        path.chmod(0o700)


@pytest.fixture(params=["folder", *ARCHIVES])
def packed(request, tmp_path, write_files):
    """`FILES` as a folder and in every kind of archive, created in an order that is not theirs."""
    if request.param == "folder":
        return write_files(tmp_path / "cells", FILES)
    return make_archive(tmp_path, request.param, reversed(FILES.items()))


def test_a_tree_lists_and_reads_the_same_however_it_is_packed(packed, scratch, monkeypatch):
    tree = open_tree(packed, scratch)
    assert list(tree.entries()) == list(tree.entries()) == [Entry(path) for path in ORDER]
    assert {path: tree.read(path) for path in ORDER} == FILES
    assert pickle.loads(pickle.dumps(tree)).read("b/10.png") == b"ten"
    with pytest.raises(BadImage, match="unreadable"):
        tree.read("b/absent.png")
    monkeypatch.setattr(entries, "MAX_FILE_BYTES", 3)
    assert tree.read("b/2.png") == b"two"
    with pytest.raises(BadImage, match="too_many_bytes"):
        tree.read("a.txt")


def test_large_archive_in_a_source_is_called_one(folder, scratch, write_files, monkeypatch):
    monkeypatch.setattr(entries, "MAX_FILE_BYTES", 3)
    with pytest.raises(BadImage, match="archive"):
        open_tree(write_files(folder, {"Basophil.ZIP": b"PK\x03\x04"}), scratch).read("Basophil.ZIP")


def test_zip_member_larger_than_its_directory_says_is_a_bad_image(tmp_path, scratch):
    path = make_zip(tmp_path / "cells.zip", [("a.png", bytes(1000))])
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (10).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(BadImage):
        open_tree(path, scratch).read("a.png")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_is_recognised_by_its_content_not_its_name(kind, tmp_path, scratch):
    archive = make_archive(tmp_path, kind, FILES.items()).rename(tmp_path / "download")
    assert [entry.path for entry in open_tree(archive, scratch).entries()] == ORDER


@KINDS
@pytest.mark.parametrize("name", ["../up.png", "b\\..\\..\\up.png", "/../up.png", ".."])
def test_member_that_points_outside_is_flagged(kind, name, tmp_path, scratch):
    tree = open_tree(make_archive(tmp_path, kind, [(name, b"x"), ("a.png", b"y")]), scratch)
    assert problems(tree) == {name: "unsafe_path", "a.png": ""}


FOREIGN_NAMES = {
    "Basophil\\a.png": "Basophil/a.png",
    ".\\Basophil\\b.png": "Basophil/b.png",
    "/data/Basophil/a.png": "data/Basophil/a.png",
    "//server/Basophil/a.png": "server/Basophil/a.png",
    "C:/cells/a.png": "cells/a.png",
    "D:\\cells\\b.png": "cells/b.png",
    "./Basophil//c.png": "Basophil/c.png",
    "Basophil/10:30.png": "Basophil/10:30.png",
    "c:a.png": "c:a.png",
}


@KINDS
def test_members_are_read_under_the_clean_relative_paths_of_their_names(kind, tmp_path, scratch):
    members = [(name, name.encode()) for name in FOREIGN_NAMES]
    tree = open_tree(make_archive(tmp_path, kind, members), scratch)
    assert problems(tree) == dict.fromkeys(sorted(FOREIGN_NAMES.values()), "")
    assert {path: tree.read(path) for path in FOREIGN_NAMES.values()} == {
        path: name.encode() for name, path in FOREIGN_NAMES.items()
    }


@KINDS
@pytest.mark.parametrize("other", ["b\\a.png", "C:/b/a.png"])
def test_of_two_names_for_one_path_the_exact_one_is_read(kind, other, tmp_path, scratch):
    members = [(other, b"foreign"), ("b/a.png", b"exact")]
    for number, order in enumerate((members, members[::-1])):
        (tmp_path / str(number)).mkdir()
        tree = open_tree(make_archive(tmp_path / str(number), kind, order), scratch)
        assert list(tree.entries()) == [Entry("b/a.png"), Entry("b/a.png", "repeated_member")]
        assert tree.read("b/a.png") == b"exact"


def test_folders_of_a_windows_zip_are_no_files(tmp_path, scratch):
    path = make_zip(tmp_path / "cells.zip", [("b\\", b""), ("b\\c\\", b""), ("b\\c\\1.png", b"x"), ("e\\", b"")])
    assert problems(open_tree(path, scratch)) == {"b/c/1.png": "", "e": "empty_folder"}


@KINDS
def test_nothing_is_unpacked_by_its_name(kind, tmp_path, scratch):
    (tmp_path / "in").mkdir()
    archive = make_archive(tmp_path / "in", kind, [("../up.png", b"x"), ("a.png", b"y")])
    tree = open_tree(archive, scratch)
    assert [tree.read(entry.path) for entry in tree.entries() if not entry.problem] == [b"y"]
    written = {path.name for path in tmp_path.rglob("*")} - {"in", archive.name, "scratch"}
    assert all(name.endswith(".tar") for name in written)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@KINDS
def test_second_member_of_a_name_is_flagged(kind, tmp_path, scratch):
    archive = make_archive(tmp_path, kind, [("a.png", b"x"), ("a.png", b"y")])
    assert list(open_tree(archive, scratch).entries()) == [Entry("a.png"), Entry("a.png", "repeated_member")]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_folders_in_an_archive_are_entries_where_they_are_empty(kind, tmp_path, write_files, scratch):
    formats = {"zip": "zip", "tar": "tar", "tar.gz": "gztar", "tar.bz2": "bztar", "tar.xz": "xztar"}
    folder = write_files(tmp_path / "cells", FILES)
    (folder / "outer" / "empty").mkdir(parents=True)
    archive = shutil.make_archive(str(tmp_path / "made"), formats[kind], folder)
    expected = dict.fromkeys(ORDER, "") | {"outer/empty": "empty_folder"}
    assert problems(open_tree(tmp_path / archive, scratch)) == problems(open_tree(folder, scratch)) == expected


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symlink", "hard_link"])
@pytest.mark.parametrize("target", ["a.png", "/etc/passwd"])
def test_link_in_a_tar_is_flagged(kind, target, tmp_path, scratch):
    link = tar_member("link.png", type=kind, linkname=target)
    tree = open_tree(make_tar(tmp_path / "cells.tar", [("a.png", b"x"), (link, b"")]), scratch)
    assert problems(tree) == {"a.png": "", "link.png": "link_in_archive"}


def test_name_in_a_tar_that_is_not_utf8_is_reported_readably(tmp_path, scratch):
    with tarfile.open(tmp_path / "cells.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tar_member("a\udcff.png"))
    assert problems(open_tree(tmp_path / "cells.tar", scratch)) == {"a\\xff.png": "non_utf8_name"}


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE], ids=["fifo", "device"])
def test_special_file_in_a_tar_is_flagged(kind, tmp_path, scratch):
    tree = open_tree(make_tar(tmp_path / "cells.tar", [("a.png", b"x"), (tar_member("odd", type=kind), b"")]), scratch)
    assert problems(tree)["odd"]


def test_symlink_in_a_zip_gives_no_bytes_from_outside(tmp_path, scratch):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "cells.zip", "w") as archive:
        archive.writestr(link, str(secret))
    tree = open_tree(tmp_path / "cells.zip", scratch)
    assert tree.read("link.png") != b"secret"
    assert problems(tree) == {"link.png": "link_in_archive"}


def test_encrypted_zip_member_is_a_bad_image(tmp_path, scratch):
    path = make_zip(tmp_path / "cells.zip", [("a.png", b"x" * 40)])
    data = bytearray(path.read_bytes())
    data[6] |= 1  # general purpose flag of the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and of the directory
    path.write_bytes(data)
    tree = open_tree(path, scratch)
    assert problems(tree) == {"a.png": "encrypted"}
    with pytest.raises(BadImage, match="unreadable"):
        tree.read("a.png")


@pytest.mark.parametrize(
    "method",
    [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
    ids=["stored", "deflated", "bzip2", "lzma"],
)
def test_corrupt_zip_member_is_a_bad_image_and_the_others_are_read(method, tmp_path, scratch):
    path = tmp_path / "cells.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", noise(400))
        archive.writestr("b.png", b"fine")
    data = bytearray(path.read_bytes())
    data[46:346] = b"\xff" * 300  # from the eleventh byte of the first member's data
    path.write_bytes(data)
    tree = open_tree(path, scratch)
    with pytest.raises(BadImage, match="unreadable"):
        tree.read("a.png")
    assert tree.read("b.png") == b"fine"


def test_zip_member_that_is_no_deflate_stream_is_a_bad_image(tmp_path, scratch):
    path = make_zip(tmp_path / "cells.zip", [("a.png", b"x" * 40)])
    data = bytearray(path.read_bytes())
    data[35] = 0xFF  # a block type that deflate does not have
    path.write_bytes(data)
    with pytest.raises(BadImage, match="unreadable"):
        open_tree(path, scratch).read("a.png")


def test_zip_member_of_an_unknown_compression_is_a_bad_image(tmp_path, scratch):
    path = make_zip(tmp_path / "cells.zip", [("a.png", b"x" * 40)])
    data = bytearray(path.read_bytes())
    data[8] = data[data.index(b"PK\x01\x02") + 10] = 77
    path.write_bytes(data)
    assert problems(open_tree(path, scratch)) == {"a.png": "unknown_compression"}
    with pytest.raises(BadImage, match="unreadable"):
        open_tree(path, scratch).read("a.png")


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open], ids=["gz", "bz2", "xz"])
def test_tar_that_grows_too_much_is_refused(opener, tmp_path, scratch, monkeypatch):
    monkeypatch.setattr(archives, "MAX_EXPANSION", 5)
    plain = make_tar(tmp_path / "plain.tar", [("a.png", bytes(200_000))])
    bomb = tmp_path / "bomb"
    with opener(bomb, "wb") as file:
        file.write(plain.read_bytes())
    with pytest.raises(CelluScanError, match="grows more than 5 times") as error:
        open_tree(bomb, scratch)
    assert_one_line_naming(error, bomb)


def test_refused_tar_is_refused_again(tmp_path, scratch, monkeypatch):
    monkeypatch.setattr(archives, "MAX_EXPANSION", 5)
    bomb = make_tar(tmp_path / "bomb.tar.gz", [("a.png", bytes(200_000))], "w:gz")
    for _ in range(2):
        with pytest.raises(CelluScanError):
            open_tree(bomb, scratch)


def test_compressed_tar_is_decompressed_once(tmp_path, scratch):
    archive = make_tar(tmp_path / "cells.tar.gz", FILES.items(), "w:gz")
    open_tree(archive, scratch)
    [copy] = scratch.iterdir()
    modified = copy.stat().st_mtime_ns
    open_tree(archive, scratch)
    assert [path.stat().st_mtime_ns for path in scratch.iterdir()] == [modified]


def test_another_archive_of_the_same_name_and_size_is_not_mistaken(tmp_path, scratch):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder, data in ((first, b"one"), (second, b"two")):
        folder.mkdir()
        plain = make_tar(folder / "plain.tar", [("a.png", data)])
        (folder / "cells.tar.gz").write_bytes(gzip.compress(plain.read_bytes(), 0, mtime=0))
    assert (first / "cells.tar.gz").stat().st_size == (second / "cells.tar.gz").stat().st_size
    reads = [open_tree(folder / "cells.tar.gz", scratch).read("a.png") for folder in (first, second)]
    assert reads == [b"one", b"two"]


@pytest.mark.parametrize("kind", TARS)
def test_tar_cut_short_is_an_error_of_one_line(kind, tmp_path, scratch):
    members = [(f"{number}.png", noise(3000)) for number in range(40)]
    path = make_archive(tmp_path, kind, members)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(CelluScanError) as error:
        list(open_tree(path, scratch).entries())
    assert_one_line_naming(error, path)


def test_corrupt_compressed_tar_is_an_error_of_one_line(tmp_path, scratch):
    path = make_tar(tmp_path / "cells.tar.gz", [("a.png", noise(90_000))], "w:gz")
    data = bytearray(path.read_bytes())
    data[-8:-4] = b"\x00\x00\x00\x00"  # the checksum
    path.write_bytes(data)
    with pytest.raises(CelluScanError) as error:
        open_tree(path, scratch)
    assert_one_line_naming(error, path)


def test_missing_path_is_an_error_of_one_line(tmp_path, scratch):
    with pytest.raises(CelluScanError, match="does not exist") as error:
        open_tree(tmp_path / "absent", scratch)
    assert_one_line_naming(error, tmp_path / "absent")


@pytest.mark.parametrize("data", [b"", b"not an archive", b"PK\x03\x04 cut", b"\x1f\x8b\x08 not a tar"])
def test_file_that_is_no_archive_is_an_error_of_one_line(data, tmp_path, scratch):
    path = tmp_path / "cells.bin"
    path.write_bytes(data)
    with pytest.raises(CelluScanError) as error:
        list(open_tree(path, scratch).entries())
    assert_one_line_naming(error, path)


def test_symlinked_file_and_folder_are_followed(folder, tmp_path, scratch, write_files):
    other_folder = write_files(tmp_path / "elsewhere", {"1.png": b"one", "more/2.png": b"two"})
    (folder / "one.png").symlink_to(other_folder / "1.png")
    (folder / "more").symlink_to(other_folder / "more")
    tree = open_tree(folder, scratch)
    assert {entry.path: tree.read(entry.path) for entry in tree.entries()} == {"more/2.png": b"two", "one.png": b"one"}


def test_two_links_to_one_folder_are_both_followed(folder, tmp_path, scratch, write_files):
    other_folder = write_files(tmp_path / "elsewhere", {"1.png": b"one"})
    for name in ("a", "b"):
        (folder / name).symlink_to(other_folder)
    assert problems(open_tree(folder, scratch)) == {"a/1.png": "", "b/1.png": ""}


def test_link_to_a_folder_above_is_reported_once(folder, scratch, write_files):
    write_files(folder, {"a/b/1.png": b"one"})
    (folder / "a" / "b" / "up").symlink_to(folder)
    assert problems(open_tree(folder, scratch)) == {"a/b/1.png": "", "a/b/up": "symlink_loop"}


def test_link_to_itself_is_a_loop(folder, scratch):
    (folder / "self").symlink_to(folder / "self")
    assert problems(open_tree(folder, scratch)) == {"self": "symlink_loop"}


def test_link_to_nothing_is_broken(folder, scratch):
    (folder / "gone.png").symlink_to(folder / "absent.png")
    assert problems(open_tree(folder, scratch)) == {"gone.png": "broken_link"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_fifo_is_not_a_file(folder, scratch):
    os.mkfifo(folder / "pipe.png")
    assert problems(open_tree(folder, scratch)) == {"pipe.png": "not_a_file"}


def test_name_that_is_not_utf8_is_reported_readably(folder, scratch):
    try:
        with open(os.fsencode(folder) + b"/a\xff.png", "wb"):
            pass
    except OSError:
        pytest.skip("the file system takes UTF-8 names alone")
    assert problems(open_tree(folder, scratch)) == {"a\\xff.png": "non_utf8_name"}


def test_unreadable_file_is_a_bad_image(folder, scratch, write_files, shut):
    write_files(folder, {"a.png": b"x"})
    shut(folder / "a.png")
    with pytest.raises(BadImage, match="unreadable"):
        open_tree(folder, scratch).read("a.png")


def test_unreadable_folder_is_reported(folder, scratch, write_files, shut):
    write_files(folder, {"shut/a.png": b"x", "b.png": b"y"})
    shut(folder / "shut")
    assert problems(open_tree(folder, scratch)) == {"b.png": "", "shut": "unreadable_folder"}


def test_file_gone_after_listing_is_a_bad_image(folder, scratch, write_files):
    write_files(folder, {"a.png": b"x"})
    tree = open_tree(folder, scratch)
    list(tree.entries())
    (folder / "a.png").unlink()
    with pytest.raises(BadImage, match="unreadable"):
        tree.read("a.png")


def test_folder_without_files_is_reported(folder, scratch, write_files):
    assert list(open_tree(folder, scratch).entries()) == []
    write_files(folder, {"a/1.png": b"x"})
    (folder / "b" / "c").mkdir(parents=True)
    assert problems(open_tree(folder, scratch)) == {"a/1.png": "", "b/c": "empty_folder"}


@pytest.mark.parametrize("packing", ["folder", "zip", "tar"])
def test_folder_of_hidden_files_alone_is_empty(packing, folder, tmp_path, scratch, write_files):
    names = ["a/1.png", "b/.DS_Store", "c/.git/config", ".idea/x", "__MACOSX/a/._1.png"]
    write_files(folder, dict.fromkeys(names, b"x"))
    (folder / "@eaDir").mkdir()
    location = folder if packing == "folder" else shutil.make_archive(str(tmp_path / "packed"), packing, folder)
    expected = {"a/1.png": "", "b": "empty_folder", "c": "empty_folder"}
    assert problems(open_tree(Path(location), scratch)) == expected
