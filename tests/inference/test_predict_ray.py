"""Prediction on a Ray cluster: the rows of `celluscan predict`, each image exactly once, also after the driver died."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.predict import predict
from celluscan_hf.inference.predict_ray import MANIFEST, locked, predict_on_ray
from celluscan_hf.inference.prediction_plan import read_places, write_plan
from celluscan_hf.inference.prediction_shards import Check, check_shard, part_path
from celluscan_hf.inference.shard_predictor import SCHEMA, Settings

Write = Callable[..., Path]
SMALL = Settings(batch_size=4, shard_size=8)


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory, write_image: Write) -> Path:
    """A folder of 30 cells and a file cut short."""
    folder = tmp_path_factory.mktemp("cells") / "cells"
    for seed in range(30):
        write_image(folder / f"{seed % 3}" / f"{seed:02d}.jpg", seed)
    content = (folder / "1" / "01.jpg").read_bytes()
    (folder / "1" / "01b.jpg").write_bytes(content[: len(content) // 2])
    return folder


def table(rows: int, groups: int, path: Path, cells: Path) -> Path:
    images = [{"bytes": file.read_bytes(), "path": None} for file in sorted(cells.rglob("*.jpg"))[:rows]]
    ids = [f"cell {number}" for number in range(rows)]
    pq.write_table(pa.table({"image": images, "image_id": ids}), path, row_group_size=groups)
    return path


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in pq.read_table(path).to_pylist()]


def plain(tmp_path: Path, model: Path, *images: Path) -> list[dict[str, Any]]:
    predict(images, model, tmp_path / "plain.jsonl", batch_size=4)
    return [json.loads(line) for line in (tmp_path / "plain.jsonl").read_text("utf-8").splitlines()]


def nearly(value: Any) -> Any:
    """Numbers to four digits: batches of another size give others in the last."""
    if isinstance(value, dict):
        return {name: nearly(item) for name, item in value.items()}
    if isinstance(value, list):
        return [nearly(item) for item in value]
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


@pytest.mark.slow
def test_rows_are_those_of_predict_with_bad_files_as_rows_and_a_finished_folder_is_kept(
    cells: Path, calibrated: Path, ray_nodes: Any, tmp_path: Path
) -> None:
    inputs = [cells, table(21, 5, tmp_path / "more.parquet", cells)]
    folder, address = tmp_path / "predictions", ray_nodes.complete().address
    summary = predict_on_ray(inputs, calibrated, folder, address, settings=SMALL)
    assert rows_of(folder) == nearly(plain(tmp_path, calibrated, *inputs))
    assert pq.read_schema(part_path(folder, 0)).equals(SCHEMA)
    manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    assert (summary.images, summary.unusable) == (manifest["images"], manifest["errors"]["truncated"]) == (52, 2)
    assert sum(shard["rows"] for shard in manifest["shards"]) == 52
    before = {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.parquet")}
    again = predict_on_ray(inputs, calibrated, folder, address, settings=SMALL)
    assert (summary.predicted, again.predicted) == (52, 0)
    assert (again.images, again.unusable) == (52, 2)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*.parquet")} == before
    _refuses_what_differs(inputs, calibrated, folder, address)
    _notices_a_lost_row(inputs, calibrated, folder, address)


def _refuses_what_differs(inputs: list[Path], model: Path, folder: Path, address: str) -> None:
    with pytest.raises(CelluScanError, match="begun with top_k=3, not 2"):
        predict_on_ray(inputs, model, folder, address, settings=Settings(2, 4, shard_size=8))
    with pytest.raises(CelluScanError, match="begun with another images"):
        predict_on_ray(inputs[:1], model, folder, address, settings=SMALL)
    other = shutil.copytree(model, folder.parent / "other")
    record = json.loads((other / "reliability.json").read_text("utf-8"))
    (other / "reliability.json").write_text(json.dumps(record | {"note": "another"}))
    with pytest.raises(CelluScanError, match="begun with another model"):
        predict_on_ray(inputs, other, folder, address, settings=SMALL)


def _notices_a_lost_row(inputs: list[Path], model: Path, folder: Path, address: str) -> None:
    """A shard that lost a row is removed, so that the next run writes it again."""
    (folder / MANIFEST).unlink()
    path = part_path(folder, 1)
    pq.write_table(pq.read_table(path).slice(1), path)
    with pytest.raises(CelluScanError, match=r"part-00001.parquet has 7 rows for 8 images; 1 such files were removed"):
        predict_on_ray(inputs, model, folder, address, settings=SMALL)
    assert not (folder / MANIFEST).exists() and not path.exists()


@pytest.mark.slow
def test_a_killed_driver_goes_on_with_the_missing_shards_also_if_a_node_is_killed(
    cells: Path, checkpoint: Path, ray_nodes: Any, tmp_path: Path
) -> None:
    folder, paths = tmp_path / "predictions", tmp_path / "paths.txt"
    address = ray_nodes.complete().address
    paths.write_text("".join(f"{path}\n" for path in sorted(cells.rglob("*.jpg"))))
    words = (
        f"predict --list {paths} --model {checkpoint} --output {folder} --batch-size 4 --shard-size 1 --ray {address}"
    )
    process = subprocess.Popen([sys.executable, "-m", "celluscan_hf.cli", *words.split()], stderr=subprocess.DEVNULL)
    _wait_for(3, folder, process.poll)
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.parquet")}
    assert 3 <= len(written) < 31 and not (folder / MANIFEST).exists()

    def kill_node() -> None:
        _wait_for(len(written) + 3, folder, lambda: None)
        ray_nodes.kill()

    killer = threading.Thread(target=kill_node)
    killer.start()
    settings = Settings(batch_size=4, shard_size=1)
    summary = predict_on_ray([], checkpoint, folder, address, settings=settings, lists=[str(paths)])
    killer.join()
    assert (summary.images, summary.unusable) == (31, 1)
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert [row["image"] for row in rows_of(folder)] == [str(path) for path in sorted(cells.rglob("*.jpg"))]
    assert not list(folder.glob(".*.partial"))


def _wait_for(parts: int, folder: Path, ended: Callable[[], int | None]) -> None:
    while ended() is None and len(list(folder.glob("part-*.parquet"))) < parts:
        time.sleep(0.02)


def test_a_plan_covers_each_image_once_in_order(cells: Path, data_set: Path, tmp_path: Path) -> None:
    more = table(21, 5, tmp_path / "more.parquet", cells)
    plan = write_plan(tmp_path / "plan.arrow", [cells, more, cells / "0" / "00.jpg", data_set], [], 8)
    places = [read_places(plan.path, shard) for shard in range(plan.shards)]
    names = [image.name for shard in places for place in shard for image in place.images()]
    files = sorted(str(path) for path in cells.rglob("*.jpg"))
    originals = [name for name in names if name.startswith("synthetic/")]
    assert names == [*files, *(f"cell {number}" for number in range(21)), *originals]
    assert len(set(originals)) == len(originals) == 280  # of 14 classes; no augmented row
    assert (plan.images, plan.repeated) == (len(names), 1)
    assert all(sum(place.rows for place in shard) >= 8 for shard in places[:-1])


def test_a_plan_changes_with_its_files(cells: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(cells, tmp_path / "cells")
    first = write_plan(tmp_path / "1", [copy], [], 8)
    assert write_plan(tmp_path / "2", [copy], [], 8).digest == first.digest
    (copy / "0" / "00.jpg").write_bytes((copy / "0" / "03.jpg").read_bytes())
    assert write_plan(tmp_path / "3", [copy], [], 8).digest != first.digest


def test_a_list_may_name_files_that_do_not_exist(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    paths = (cells / "0" / "00.jpg", "", cells / "nothing.jpg", tmp_path / "empty", "https://host.org/a.png")
    (tmp_path / "paths.txt").write_text("".join(f"{path}\n" for path in paths))
    plan = write_plan(tmp_path / "plan.arrow", [], [str(tmp_path / "paths.txt")], 8)
    assert [(place.path.name, getattr(place, "problem", None)) for place in read_places(plan.path, 0)] == [
        ("00.jpg", ""),
        ("nothing.jpg", "missing_file"),
        ("empty", "unusable_path"),
        ("a.png", "unusable_path"),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray=auto"], "with --ray expected a folder"),
        (["--ray=auto", "--output=rows.csv"], "with --ray expected a folder"),
        (["--ray=auto", "--output=rows", "--csv"], "--csv cannot be used with --ray"),
        (["--shard-size=9"], "go with --ray"),
        (["--ray=auto", "--output=.", "--device=cuda:1"], "expected cpu or cuda"),
        (["--ray=auto", "--output=."], "is not empty, and not a prediction that was begun here"),
    ],
)
def test_what_cannot_be_met_is_one_line(
    cells: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from celluscan_hf import cli

    monkeypatch.chdir(cells)
    assert cli.main(["predict", "0", *options]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_shard_is_noticed(cells: Path, tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.arrow", [cells], [], 8)
    part_path(tmp_path, 0).write_bytes(b"PAR1")
    assert "part-00000.parquet is damaged" in check_shard(Check(tmp_path, 0)).problem


@pytest.mark.parametrize(("left", "is_own"), [("plan.arrow", True), (".celluscan-x", True), ("cell.jpg", False)])
def test_a_folder_left_by_a_job_that_was_killed_while_it_planned_is_taken(
    left: str, is_own: bool, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / left).write_bytes(b"")
    if is_own:
        with locked(tmp_path / "out"):
            return
    with pytest.raises(CelluScanError, match="not a prediction that was begun here"), locked(tmp_path / "out"):
        pass


@pytest.mark.parametrize("change", ["lost", "swapped"])
def test_a_shard_unlike_its_plan_is_noticed(cells: Path, tmp_path: Path, change: str) -> None:
    write_plan(tmp_path / "plan.arrow", [cells], [], 8)
    names = [str(path) for path in sorted(cells.rglob("*.jpg"))[:8]]
    names = names[:-1] if change == "lost" else [names[1], names[0], *names[2:]]
    rows = [dict.fromkeys(SCHEMA.names) | {"image": name, "top": []} for name in names]
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), part_path(tmp_path, 0))
    expected = {"lost": "has 7 rows for 8 images", "swapped": "row 0 is of"}[change]
    assert expected in check_shard(Check(tmp_path, 0)).problem
