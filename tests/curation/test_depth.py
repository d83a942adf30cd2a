"""Samples of fewer than 16 bits: one depth for all files of a source that do not name it."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.evaluation.cells import load_cells_of_sources
from celluscan_hf.modeling.decoding_celluscan import decode

SIDE = 48


def brightest(folder: Path) -> dict[str, int]:
    """The brightest grey level of each image of a built data set."""
    rows = pq.read_table(folder / "data" / "originals").to_pylist()
    return {row["image_id"]: int(np.asarray(decode(row["image"]["bytes"]).image).max()) for row in rows}


@pytest.fixture
def source(tmp_path: Path, cell_image) -> Path:
    """16-bit files of a 12-bit camera; every third image has an eighth of the light."""
    for label in ("Basophil", "Monocyte"):
        for number in range(12):
            levels = np.asarray(cell_image(number + 100 * (label == "Basophil"), (SIDE, SIDE)).convert("L"), np.uint16)
            (tmp_path / "own" / label).mkdir(parents=True, exist_ok=True)
            dark = 3 if number % 3 == 0 else 0
            Image.fromarray((levels << 4) >> dark).save(tmp_path / "own" / label / f"{number:02d}.tif")
    return tmp_path / "own"


def built(source: Path, output: Path, num_proc: int = 1, **changes: object) -> Path:
    build(BuildSettings((f"imagefolder={source}",), output, SIDE, 0, num_proc=num_proc, **changes))
    return output


def test_a_dark_file_is_scaled_as_the_others_of_its_source(source: Path, tmp_path: Path) -> None:
    levels = brightest(built(source, tmp_path / "wbc"))
    assert len(levels) == 24
    for name, level in levels.items():
        assert (level < 40) == (int(name[-6:-4]) % 3 == 0), name
    statistics = (tmp_path / "wbc" / "curation" / "statistics.json").read_text()
    assert '"12_bit_grey": 24' in statistics


def test_the_chunks_and_processes_of_a_build_change_nothing(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = built(source, tmp_path / "one")
    monkeypatch.setattr("celluscan_hf.dataset.build.CHUNK_RECORDS", 5)
    two = built(source, tmp_path / "two", num_proc=2)
    for file in sorted((one / "data" / "originals").iterdir()):
        assert file.read_bytes() == (two / "data" / "originals" / file.name).read_bytes()


def test_a_build_killed_while_it_scans_again_is_resumed_to_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = built(source, tmp_path / "one")
    monkeypatch.setattr("celluscan_hf.dataset.build.CHUNK_RECORDS", 5)
    monkeypatch.setattr("celluscan_hf.dataset.build.curate", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        built(source, tmp_path / "two")
    monkeypatch.undo()
    monkeypatch.setattr("celluscan_hf.dataset.build.CHUNK_RECORDS", 5)
    scanned = sorted((tmp_path / "two.building" / "scanned").glob("*.parquet"))
    scanned[-1].unlink()
    two = built(source, tmp_path / "two", resume=True)
    for file in sorted((one / "data" / "originals").iterdir()):
        assert file.read_bytes() == (two / "data" / "originals" / file.name).read_bytes()


def test_a_source_of_16_bits_keeps_its_upper_bits_and_is_scanned_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in source.rglob("*.tif"):
        Image.fromarray(np.asarray(Image.open(file)) << 4).save(file)
    for file in source.rglob("*.tif"):
        if np.asarray(Image.open(file)).max() < 2**14:
            file.unlink()
    monkeypatch.setattr("celluscan_hf.dataset.build.progress", _refuse_rescaling)
    assert min(brightest(built(source, tmp_path / "wbc")).values()) > 64


def _refuse_rescaling(stage: str, *arguments: object):
    from celluscan_hf.dataset.workers import progress

    assert stage != "rescaling"
    return progress(stage, *arguments)


def test_raw_cells_of_an_evaluation_are_scaled_as_in_a_data_set(source: Path, tmp_path: Path) -> None:
    levels = brightest(built(source, tmp_path / "wbc"))
    cells = load_cells_of_sources([f"imagefolder={source}"], tmp_path)
    assert {cell.image_id: int(np.asarray(cell.read()).max()) for cell in cells.kept} == pytest.approx(levels, abs=12)
