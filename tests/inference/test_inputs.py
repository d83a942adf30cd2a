"""Files, folders, patterns and tables become named images: every image once, in order; clear errors."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.inference import inputs
from celluscan_hf.inference.inputs import find_images

Draw = Callable[..., Image.Image]
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test names its files from the folder it is in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def tree(write_image: Write, write_files: Callable[..., Path]) -> Path:
    folder = Path("cells")
    for name in ("b.JPG", "a.png", "b/c.tif", "b/d.webp", ".hidden.png", ".git/e.png", "__MACOSX/f.png", "._a.png"):
        write_image(folder / name, 1)
    write_files(folder, {"notes.txt": "text", "b/Thumbs.db": "x", ".cache/table.parquet": "PAR1"})
    return folder


def names(*named: str | Path) -> list[str]:
    images = find_images(named)
    result = [image.name for image in images]
    assert len(images) == len(result)
    return result


def errors(*named: str | Path) -> list[str]:
    """For each image why it cannot be used, or nothing."""
    reasons = []
    for image in find_images(named):
        try:
            reasons.append("" if image.read().mode == "RGB" else "mode")
        except BadImage as error:
            reasons.append(str(error))
    return reasons


def refused(named: str | Path, match: str) -> None:
    with pytest.raises(CelluScanError, match=match) as info:
        find_images([named])
    assert "\n" not in str(info.value)


def coded(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def table(cell_image: Draw) -> Callable[..., Path]:
    """Write a parquet file of synthetic cells."""

    def write(path: str = "cells.parquet", count: int = 3, kind: str = "struct", **columns: Any) -> Path:
        cells: list[Any] = [coded(cell_image(seed)) for seed in range(count)]
        if kind == "struct":
            cells = [{"bytes": cell, "path": None} for cell in cells]
        types = {"binary": pa.binary(), "large_binary": pa.large_binary()}
        image = pa.array(cells, types.get(kind, pa.struct({"bytes": pa.binary(), "path": pa.string()})))
        pq.write_table(pa.table({"image": image} | columns), path)
        return Path(path)

    return write


def test_a_file_is_read_whatever_it_is_called(write_image: Write) -> None:
    cell = write_image(Path("cell.of.mine"), 1, format="PNG")
    assert names(cell) == ["cell.of.mine"]
    assert errors(cell) == [""]


def test_a_folder_stands_for_its_images_in_order(tree: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ["cells/a.png", "cells/b.JPG", "cells/b/c.tif", "cells/b/d.webp"]
    assert names(tree) == expected
    (tree / "same.png").symlink_to("a.png")  # as in the Hub's cache
    assert names(tree) == [*expected, "cells/same.png"]
    monkeypatch.setenv("HOME", str(here))
    assert names("~/cells/a*.png") == [str(here / "cells" / "a.png")]


def test_what_cannot_be_reached_in_a_folder_is_reported(tree: Path) -> None:
    (tree / "z.png").symlink_to("gone.png")
    (tree / "y").symlink_to("gone")
    assert names(tree)[-2:] == ["cells/y", "cells/z.png"]
    assert errors(tree)[-2:] == ["broken_link", "broken_link"]


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("cells/*.png", ["cells/a.png"]),
        ("cells/*", ["cells/a.png", "cells/b/c.tif", "cells/b/d.webp", "cells/b.JPG"]),
        ("cells/**", ["cells/a.png", "cells/b.JPG", "cells/b/c.tif", "cells/b/d.webp"]),
        ("cells/[a]*", ["cells/a.png"]),
        ("cells/*.txt", ["cells/notes.txt"]),
    ],
)
def test_a_pattern_stands_for_the_images_that_match(pattern: str, matches: list[str], tree: Path) -> None:
    assert names(pattern) == matches


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("run [2]/*.png", ["run [2]/a.png"]),
        ("run [2]/**", ["run [2]/a.png", "run [2]/b [x]/c.png"]),
        ("run [2]/b [x]/*", ["run [2]/b [x]/c.png"]),
        ("run [2]/[ab].png", ["run [2]/a.png"]),
        ("run [2]", ["run [2]/a.png", "run [2]/b [x]/c.png"]),
    ],
)
def test_brackets_in_the_names_of_folders_are_not_patterns(
    pattern: str, matches: list[str], write_image: Write
) -> None:
    for name in ("run [2]/a.png", "run [2]/b [x]/c.png", "run 2/z.png"):
        write_image(Path(name), 1)
    assert names(pattern) == matches


@pytest.mark.parametrize("named", ["cells", "cells/**"])
def test_files_without_an_image_ending_are_counted(named: str, write_image: Write, write_files: Any) -> None:
    write_image(Path("cells/a.png"), 1)
    others = ("b.heic", "c.HEIC", "d.avif", "e.jp2", "README", ".hidden", "Thumbs.db")
    write_files(Path("cells"), dict.fromkeys(others, "x"))
    images = find_images([named, named])
    assert images.skipped == {".heic": 2, ".avif": 1, ".jp2": 1, "": 1}
    assert inputs.counted(images.skipped) == "2 .heic, 1 without an ending, 1 .avif, 1 .jp2"


def test_a_folder_without_images_says_what_it_holds(write_files: Any) -> None:
    write_files(Path("cells"), {"a.heic": "x", "b.heic": "x"})
    refused("cells", r"^cells contains no image file \(\.bmp .*\), but 2 \.heic; expected")


def test_a_web_address_is_named_in_full() -> None:
    with pytest.raises(CelluScanError) as caught:
        find_images([address := "https://host.org/cells/a.png"])
    assert str(caught.value) == f"{address} is a web address; download the image and give its file"


def test_a_name_with_brackets_is_not_a_pattern_where_it_exists(write_image: Write) -> None:
    assert names(write_image(Path("cell[1].png"), 1)) == ["cell[1].png"]


def test_files_named_again_are_counted(tree: Path, here: Path) -> None:
    assert find_images([tree]).repeated == 0
    assert find_images(["cells/a.png", tree, here / "cells/a.png"]).repeated == 2


def test_what_is_named_twice_comes_once(tree: Path, here: Path, table: Callable[..., Path]) -> None:
    cells = table()
    named = ["cells/b/c.tif", tree, here / "cells/a.png", "./cells/../cells/a.png", "cells/*.png", cells, here / cells]
    assert names(*named) == [
        "cells/b/c.tif", "cells/a.png", "cells/b.JPG", "cells/b/d.webp",
        "cells.parquet#0", "cells.parquet#1", "cells.parquet#2",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["struct", "binary", "large_binary"])
def test_rows_of_a_parquet_file(kind: str, table: Callable[..., Path], cell_image: Draw) -> None:
    path = table("cells.data", kind=kind)  # recognised by its content
    assert names(path) == ["cells.data#0", "cells.data#1", "cells.data#2"]
    for seed, image in enumerate(find_images([path])):
        assert image.read().tobytes() == cell_image(seed).tobytes()


def test_rows_are_called_by_their_image_id(table: Callable[..., Path]) -> None:
    assert names(table(image_id=["pbc/a.jpg", None, "pbc/c.jpg"])) == ["pbc/a.jpg", "cells.parquet#1", "pbc/c.jpg"]


def test_few_rows_are_in_memory_at_a_time(table: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    batches_read = []
    iter_batches = pq.ParquetFile.iter_batches

    def note(file: pq.ParquetFile, batch_size: int, row_groups: list[int], columns: list[str]) -> Any:
        for batch in iter_batches(file, batch_size, row_groups=row_groups, columns=columns):
            batches_read.append((len(batch), columns))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", note)
    monkeypatch.setattr(inputs, "ROWS_AT_ONCE", 2)
    images = iter(find_images([table(count=5, other=list("abcde"))]))
    next(images)
    assert batches_read == [(2, ["image"])]
    assert len(list(images)) == 4


def test_rows_without_an_image_are_bad_each_for_itself(cell_image: Draw) -> None:
    cells = [
        None,
        {"bytes": None, "path": None},
        {"bytes": None, "path": "/etc/passwd"},
        {"bytes": b"junk", "path": "a.png"},
        {"bytes": coded(cell_image(1)), "path": "a.png"},
    ]
    pq.write_table(pa.table({"image": cells}), "cells.parquet")
    assert errors("cells.parquet") == [
        "empty_file",
        "empty_file",
        "not_embedded (the row has no bytes, only the path /etc/passwd)",
        "not_an_image (starts with 6a 75 6e 6b)",
        "",
    ]


def test_damage_in_a_parquet_file_costs_its_row_group(table: Callable[..., Path]) -> None:
    path = table(count=6)
    pq.write_table(pq.read_table(path), path, row_group_size=2, compression="zstd")
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    path.write_bytes(data)
    matches = errors(path)
    assert matches[:2] == matches[4:] == ["", ""]
    assert all(error.startswith("unreadable (") for error in matches[2:4])
    assert names(path) == [f"cells.parquet#{row}" for row in range(6)]


def test_a_junk_file_is_bad_and_the_others_are_not(tree: Path) -> None:
    (tree / "a.png").write_bytes(b"junk")
    (tree / "b" / "c.tif").write_bytes(b"")
    assert errors(tree) == ["not_an_image (starts with 6a 75 6e 6b)", "", "empty_file", ""]


def test_a_deleted_file_is_bad(write_image: Write) -> None:
    cell = write_image(Path("cell.png"), 1)
    (image,) = find_images([cell])
    cell.unlink()
    with pytest.raises(BadImage, match="unreadable"):
        image.read()


def test_a_name_that_is_not_text_is_made_readable(write_image: Write) -> None:
    cell = os.fsdecode(b"cell\xff.png")
    write_image(Path("cell.png"), 1).rename(cell)
    assert names(cell) == ["cell\\xff.png"]
    assert errors(cell) == [""]


@pytest.mark.parametrize(
    ("named", "match"),
    [
        ("gone.png", r"^gone\.png does not exist; expected image files, folders"),
        ("gone/*.png", r"^no image matches 'gone/\*\.png'"),
        ("cells/*.gif", r"^no image matches"),
        ("", "^an empty name"),
        ("link.png", "is a broken link"),
        ("pipe", "is neither a file nor a folder"),
        ("empty", r"^empty contains no image file \(\.bmp "),
    ],
)
def test_a_name_that_stands_for_nothing(named: str, match: str, tree: Path) -> None:
    Path("empty").mkdir()
    Path("link.png").symlink_to("gone.png")
    os.mkfifo("pipe")
    refused(named, match)


def test_nothing_named() -> None:
    with pytest.raises(CelluScanError, match="no image was given"):
        find_images([])


def test_a_built_dataset_is_not_mixed(table: Callable[..., Path], write_image: Write) -> None:
    Path("out/data/originals").mkdir(parents=True)
    table("out/data/originals/train-00000.parquet")
    table("out/data/originals/test-00000.parquet")
    write_image(Path("out/assets/classes.jpg"), 1)
    refused("out", r"^out contains 2 parquet files, .*such as out/data/originals/test-00000\.parquet, or the images")
    assert names("out/**/*.jpg") == ["out/assets/classes.jpg"]
    assert len(names("out/data/*/test-*.parquet")) == 3


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"pixels": [b"1"]}, "^t.parquet has the columns pixels; expected a column image with the bytes"),
        ({"image": [1]}, "has a column image of int64; expected"),
        ({"image": [{"path": "a.png"}]}, "has a column image of struct<path: string>; expected"),
    ],
)
def test_a_parquet_file_without_images(columns: dict[str, Any], match: str) -> None:
    pq.write_table(pa.table(columns), "t.parquet")
    refused("t.parquet", match)


def test_a_parquet_file_without_rows(table: Callable[..., Path]) -> None:
    refused(table(count=0), "only parquet files without rows")


def test_a_damaged_parquet_file() -> None:
    Path("t.parquet").write_bytes(b"PAR1 and no more")
    refused("t.parquet", r"^t\.parquet is not a parquet file, or damaged \(")
