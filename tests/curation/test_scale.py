"""Curation of invented tables: what it gave when it worked on Python lists, and that memory grows slowly."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from celluscan_hf.benchmarks import curation_tables
from celluscan_hf.cli import main
from celluscan_hf.curation import facts
from celluscan_hf.curation.curate import Curated, clean, exclude, usable_rows
from celluscan_hf.curation.scan import load_tables
from celluscan_hf.dataset.describe import padding_colour, write_curation
from celluscan_hf.dataset.plan import Shard, plan_augmented, plan_originals

COUNT, SEED = 6_000, 42
ROWS = ["image_id", "source", "label", "group_id", "split", "tier", "chunk", "position", "sharpness_outlier"]
# digests of the results of commit 094dd05, which held all rows as Python objects
EXPECTED = {
    "rows": "20d8a1b1e1c757cb",
    "lists": "b9f57374c7e65604",
    "plans": "c2dca497d3ed48d3",
    "dropped.csv": "3e03fdc8d1cc0bf7",
    "duplicates.csv": "c96a2bc36969d87f",
    "label_conflicts.csv": "6d38b43a8fc0a331",
    "quality.csv": "8deeb26d600e6429",
}

COLOUR = (172, 170, 172)


def digest(value: Any) -> str:
    return hashlib.sha256(value if isinstance(value, bytes) else repr(value).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def scanned_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scale") / "scanned"
    curation_tables.write_scanned(folder, COUNT, SEED)
    return folder


def curated(folder: Path) -> Curated:
    scanned = exclude(load_tables(folder), ["363x363/jpeg-3/warm"])
    usable = usable_rows(scanned)
    near = curation_tables.near_pairs(len(usable), SEED)
    return clean(scanned, usable, near, folder, SEED, {"university"})


def planned(result: Curated, folder: Path) -> list[Shard]:
    licenses = {name: f"licence of {name}" for name in curation_tables.SOURCES}
    return [
        *plan_originals(result.rows, licenses, SEED, folder),
        *plan_augmented(result.rows, licenses, SEED, 700, folder),
    ]


@pytest.mark.parametrize("batch", [1_000, facts.BATCH])
def test_the_results_are_those_of_rows_as_python_objects(
    scanned_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    for module in ("curation.facts", "curation.splits", "curation.duplicates"):
        monkeypatch.setattr(f"celluscan_hf.{module}.BATCH", batch)
    result = curated(scanned_folder)
    shards = planned(result, tmp_path / "plans")
    write_curation(result, result.dropped, tmp_path / "curation")
    plans = [(shard, pq.read_table(shard.plan_path(tmp_path / "plans")).to_pylist()) for shard in shards]
    digests = {
        "rows": digest([result.rows[name].to_pylist() for name in ROWS]),
        "lists": digest((result.dropped, result.duplicates, result.conflicts)),
        "plans": digest(plans),
        **{path.name: digest(path.read_bytes()) for path in sorted((tmp_path / "curation").iterdir())},
    }
    assert digests == EXPECTED
    assert padding_colour(result.rows, 224) == COLOUR


def test_the_benchmark_measures_each_stage_and_draws_a_chart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("psutil")
    path = tmp_path / "scale.json"
    main(["benchmark", "curation-scale", "--counts", "600", "1200", f"--folder={tmp_path}", f"--json={path}"])
    metrics = json.loads(path.read_text())["metrics"]
    assert [metrics[count]["rows"] for count in ("600", "1200")] == [600, 1_200]
    for measured in metrics.values():
        assert measured["kept"] + measured["exact_duplicates"] < measured["rows"]
        assert len(measured["stages"]) == 7
        assert all(0 < stage["peak_mib"] <= measured["peak_mib"] + 1 for stage in measured["stages"].values())
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["scale.json", "scale.png"]
