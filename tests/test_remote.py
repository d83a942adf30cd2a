"""Remote folders, tables and outputs by fsspec addresses: the same results as from local ones."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celluscan_hf.atomic_io import atomic_write
from celluscan_hf.cli import main
from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.inference.predict import predict
from celluscan_hf.remote import is_remote, locate
from celluscan_hf.sources.tree import open_tree

CLASSES = ("Basophil", "Monocyte")


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty file system in memory, at `memory://`."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def cells(tmp_path: Path, write_image: Any, bucket: Any) -> Path:
    """An image folder with 12 cells of each of two classes, and the same at `memory://lab/cells`."""
    for number in range(24):
        write_image(tmp_path / "cells" / CLASSES[number % 2] / f"{number}.png", number)
    (tmp_path / "cells" / "notes.txt").write_text("of the laboratory")
    bucket.put(f"{tmp_path / 'cells'}/", "/lab/cells", recursive=True)
    return tmp_path / "cells"


def parts(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").rglob("*.parquet"))}


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def table(images: Path) -> pa.Table:
    paths = sorted(images.rglob("*.png"))
    stored = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    return pa.table({"image": stored, "label": [path.parent.name for path in paths]})


def test_paths_are_local_unless_they_have_a_scheme() -> None:
    assert locate("cells/a.png") == Path("cells/a.png")
    assert not is_remote(locate("C:/cells")) and is_remote(locate("memory://lab/cells"))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://host.org/a.png", "is a web address; download the image"),
        ("zip://a.png::memory://lab/cells.zip", "is a chain of addresses"),
        ("nowhere://lab/a.png", r"nowhere://lab/a.png cannot be opened \(.*nowhere.*\); expected an address"),
    ],
)
def test_an_address_that_cannot_be_opened_is_named(address: str, message: str) -> None:
    with pytest.raises(CelluScanError, match=message):
        locate(address)


def test_a_build_from_a_remote_folder_has_the_bytes_of_a_local_one(cells: Path, tmp_path: Path) -> None:
    for name, place in (("here", str(cells)), ("there", "memory://lab/cells")):
        settings = BuildSettings(
            (f"imagefolder={place}",), tmp_path / name, image_size=48, target_per_class=0, num_proc=1
        )
        statistics = build(settings)
        assert statistics["seen"] == 25
    assert parts(tmp_path / "here") == parts(tmp_path / "there")
    listed = [(tmp_path / name / "curation" / "dropped.csv").read_bytes() for name in ("here", "there")]
    assert listed[0] == listed[1] and b"notes.txt" in listed[0]


@pytest.mark.parametrize("place", ["memory://lab/tables", "memory://lab/tables/train-0.parquet"])
def test_a_build_reads_remote_parquet(place: str, cells: Path, tmp_path: Path, bucket: Any) -> None:
    buffer = io.BytesIO()
    pq.write_table(table(cells), buffer)
    bucket.pipe("/lab/tables/train-0.parquet", buffer.getvalue())
    settings = BuildSettings((f"hf_dataset={place}",), tmp_path / "wbc", image_size=48, target_per_class=0, num_proc=1)
    assert build(settings)["rows"]["originals"] == 24


@pytest.mark.parametrize("named", ["memory://lab/cells", "memory://lab/cells/**/*.png", "memory://lab/cells.parquet"])
def test_remote_images_get_the_answers_of_local_ones(named: str, cells: Path, calibrated: Path, bucket: Any) -> None:
    buffer = io.BytesIO()
    pq.write_table(table(cells), buffer)
    bucket.pipe("/lab/cells.parquet", buffer.getvalue())
    expected, output = cells.with_name("expected.jsonl"), locate("memory://lab/rows.jsonl")
    assert predict([cells], calibrated, expected).images == predict([named], calibrated, output).images == 24
    answers = [[row | {"image": ""} for row in rows(path.read_text())] for path in (expected, output)]
    assert answers[0] == answers[1]
    with pytest.raises(CelluScanError, match=r"memory://lab/rows\.jsonl exists already"):
        predict([named], calibrated, output)


def test_rows_name_remote_images_by_their_address(cells: Path, calibrated: Path) -> None:
    output = cells.with_name("rows.jsonl")
    predict(["memory://lab/cells/Basophil/0.png"], calibrated, output)
    assert rows(output.read_text())[0]["image"] == "memory://lab/cells/Basophil/0.png"


@pytest.mark.parametrize("named", ["memory://lab/none.png", "memory://lab/none/*.png"])
def test_remote_images_that_do_not_exist_are_an_error(named: str, cells: Path, calibrated: Path) -> None:
    with pytest.raises(CelluScanError, match=r"memory://lab/none.* does not exist|no image matches"):
        predict([named], calibrated)


def test_an_unfinished_file_is_not_uploaded(bucket: Any) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_write(locate("memory://lab/rows.csv")) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    assert not bucket.exists("/lab/rows.csv")


def test_a_file_that_went_away_is_a_bad_image_and_a_failing_network_stops(
    cells: Path, tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = open_tree(locate("memory://lab/cells"), tmp_path)
    assert tree.read("Basophil/0.png") == (cells / "Basophil" / "0.png").read_bytes()
    with pytest.raises(BadImage, match="unreadable"):
        tree.read("Basophil/none.png")

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(type(bucket), "_open", fail)
    with pytest.raises(CelluScanError, match=r"memory://lab/cells/Basophil/0.png cannot be fetched \(connection reset"):
        tree.read("Basophil/0.png")


@pytest.mark.parametrize(
    "words",
    [
        ["build", "--source", "synthetic=2", "--output", "s3://lab/wbc"],
        ["evaluate", "--dataset", "out/wbc", "--output", "s3://lab/evaluation"],
        ["adapt", "--source", "imagefolder=cells", "--output", "s3://lab/model"],
        ["export-onnx", "out/run", "s3://lab/onnx"],
    ],
)
def test_folders_are_written_locally(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "expected a local path; write there, then upload the result" in capsys.readouterr().err
