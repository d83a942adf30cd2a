"""Samples of fewer than 16 bits: one depth for all files of a source that do not state it."""

from pathlib import Path
from shutil import copytree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from celluscan_hf.curation import facts
from celluscan_hf.curation.depth import chunks_to_rescan, common_depth, source_depths
from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.cells import load_cells_of_sources
from celluscan_hf.modeling.decoding_celluscan import decode

SIDE = 48


def brightest(folder: Path) -> dict[str, int]:
    """The brightest grey level of each image of a built dataset."""
    rows = pq.read_table(folder / "data" / "originals").to_pylist()
    return {row["image_id"]: int(np.asarray(decode(row["image"]["bytes"]).image).max()) for row in rows}


def built(source: Path, output: Path, num_proc: int = 1, **changes: object) -> Path:
    build(BuildSettings((f"imagefolder={source}",), output, SIDE, 0, num_proc=num_proc, **changes))
    return output


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, cell_image) -> Path:
    """16-bit files of a 12-bit camera; every third image has an eighth of the light."""
    folder = tmp_path_factory.mktemp("depth") / "own"
    for label in ("Basophil", "Monocyte"):
        for number in range(12):
            levels = np.asarray(cell_image(number + 100 * (label == "Basophil"), (SIDE, SIDE)).convert("L"), np.uint16)
            (folder / label).mkdir(parents=True, exist_ok=True)
            dark = 3 if number % 3 == 0 else 0
            Image.fromarray((levels << 4) >> dark).save(folder / label / f"{number:02d}.tif")
    return folder


@pytest.fixture(scope="module")
def dataset(source: Path) -> Path:
    return built(source, source.parent / "wbc")


def test_a_dark_file_is_scaled_as_the_others_of_its_source(dataset: Path) -> None:
    levels = brightest(dataset)
    assert len(levels) == 24
    for name, level in levels.items():
        assert (level < 40) == (int(name[-6:-4]) % 3 == 0), name
    assert '"12_bit_grey": 24' in (dataset / "curation" / "statistics.json").read_text()


@pytest.mark.slow
def test_a_build_killed_while_it_scans_again_is_resumed_by_more_processes_to_the_same_bytes(
    source: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("celluscan_hf.dataset.build.CHUNK_RECORDS", 5)
    with monkeypatch.context() as killed, pytest.raises(ZeroDivisionError):
        killed.setattr("celluscan_hf.dataset.build.curate", lambda *arguments: 1 / 0)
        built(source, tmp_path / "wbc")
    scanned = sorted((tmp_path / "wbc.building" / "scanned").glob("*.parquet"))
    scanned[-1].unlink()
    resumed = built(source, tmp_path / "wbc", num_proc=2, resume=True)
    for file in sorted((dataset / "data" / "originals").iterdir()):
        assert file.read_bytes() == (resumed / "data" / "originals" / file.name).read_bytes()


def test_a_source_of_16_bits_keeps_its_upper_bits_and_is_scanned_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = copytree(source, tmp_path / "own")
    for file in deep.rglob("*.tif"):
        levels = np.asarray(Image.open(file)) << 4
        Image.fromarray(levels).save(file)
        if levels.max() < 2**14:
            file.unlink()
    monkeypatch.setattr("celluscan_hf.dataset.build.progress", _refuse_rescaling)
    assert min(brightest(built(deep, tmp_path / "wbc")).values()) > 64


def _refuse_rescaling(stage: str, *arguments: object):
    from celluscan_hf.workers import progress

    assert stage != "rescaling"
    return progress(stage, *arguments)


def test_raw_cells_of_an_evaluation_are_scaled_as_in_a_dataset(source: Path, dataset: Path, tmp_path: Path) -> None:
    cells = load_cells_of_sources([f"imagefolder={source}"], tmp_path)
    levels = {cell.image_id: int(np.asarray(cell.read()).max()) for cell in cells.kept}
    assert levels == pytest.approx(brightest(dataset), abs=12)


def test_files_far_below_the_largest_sample_are_refused_with_those_that_reach_it() -> None:
    samples = {f"own/{number}.tif": 4000 for number in range(20)} | {"own/hot.tif": 65535}
    with pytest.raises(CelluScanError, match=r"source own: most of its 21 files .* 1 reach 65,535: own/hot\.tif; "):
        common_depth("own", samples)
    assert common_depth("own", {"own/a.tif": 4000, "own/b.tif": 900}) == 12


def test_each_source_has_its_own_depth_and_only_chunks_of_another_depth_are_scanned_again() -> None:
    rows = [
        ("a", 0, 4_000, None), ("a", 0, 3_000, None), ("a", 1, 500, None), ("a", 2, 400, 12),
        ("b", 3, 60_000, None), ("b", 4, 50_000, None), ("c", 5, None, None),
    ]  # fmt: skip
    columns = dict(zip(("source", "chunk", "largest_sample", "sample_bits"), zip(*rows, strict=True), strict=True))
    table = {name: pa.array(values) for name, values in columns.items()}
    table |= {"source": facts.encode(table["source"]), "image_id": pa.array([str(row) for row in range(len(rows))])}
    scanned = facts.Facts(table, len(rows))
    assert source_depths(scanned) == {"a": 12, "b": 16}
    assert chunks_to_rescan(scanned) == {1: 12}
