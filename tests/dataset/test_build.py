"""The build gives the same bytes whatever happens, and one clear line if it cannot go on."""

import csv
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.inspection import parquet_files
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.dataset.workspace import Workspace
from celluscan_hf.errors import CelluScanError

from .conftest import build_small, command, contents, run


def dropped(folder: Path) -> dict[str, str]:
    with open(folder / "curation" / "dropped.csv", encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_as_one(built_small, tmp_path):
    assert run(tmp_path / "wbc", "--num-proc=2").returncode == 0
    assert contents(tmp_path / "wbc") == contents(built_small)


def test_the_order_of_files_on_disk_changes_nothing(cell_folder, tmp_path, monkeypatch):
    build_small(tmp_path / "one", f"imagefolder={cell_folder}", target_per_class=0)
    scandir = os.scandir

    def shuffled(path: str) -> list[os.DirEntry[str]]:
        entries = list(scandir(path))
        random.Random(1).shuffle(entries)
        return entries

    monkeypatch.setattr("celluscan_hf.sources.tree.os", SimpleNamespace(**{**vars(os), "scandir": shuffled}))
    build_small(tmp_path / "two", f"imagefolder={cell_folder}", target_per_class=0)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_another_seed_gives_another_split(cell_folder, tmp_path):
    test_ids = []
    for seed in (42, 43):
        build_small(tmp_path / str(seed), f"imagefolder={cell_folder}", target_per_class=0, seed=seed)
        (file,) = (tmp_path / str(seed)).glob("data/originals/test-*.parquet")
        test_ids.append(set(pq.read_table(file)["image_id"].to_pylist()))
    assert test_ids[0] != test_ids[1]


KILLED_WHEN = {
    "scanning in two processes": ("scanned/*.parquet", "--num-proc=2"),
    "augmenting": ("final/data/augmented/*.parquet", "--num-proc=1"),
    "describing": ("final/curation/dropped.csv", "--num-proc=1"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "option"), KILLED_WHEN.values(), ids=KILLED_WHEN)
def test_a_killed_and_resumed_build_gives_the_same_bytes(built_small, tmp_path, pattern, option):
    output = tmp_path / "wbc"
    process = subprocess.Popen(command(output, option), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    work = tmp_path / "wbc.building"
    while process.poll() is None and not any(work.glob(pattern)):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists(), "the build ended before it could be killed"
    build_small(output, resume=True)
    assert contents(output) == contents(built_small)
    assert not work.exists()


def test_a_build_killed_after_its_output_was_renamed_is_finished(built_small, tmp_path):
    shutil.copytree(built_small, tmp_path / "wbc")
    (tmp_path / "wbc.building" / "scanned").mkdir(parents=True)
    build_small(tmp_path / "wbc", resume=True)
    assert not (tmp_path / "wbc.building").exists()


def test_half_written_files_of_a_killed_process_are_not_published(tmp_path):
    with Workspace(BuildSettings(("synthetic=1",), tmp_path / "wbc")) as work:
        work.open({**work.settings.content, "listing": "", "files": "", "software": {}})
        (work.final / ".x.parquet.123.partial").write_bytes(b"half")
        (work.final / "x.parquet").write_bytes(b"complete")
        work.publish()
    assert contents(tmp_path / "wbc").keys() == {"x.parquet"}
    assert not (tmp_path / "wbc.building").exists()


def test_a_finished_build_also_of_an_older_version_is_left_unchanged(built_small, tmp_path):
    output = Path(shutil.copytree(built_small, tmp_path / "wbc"))
    path = output / "curation" / "statistics.json"
    statistics = json.loads(path.read_text())
    del statistics["settings"]["exclude_acquisitions"]  # a setting that older builds lack
    path.write_text(json.dumps(statistics))
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    again = run(output)
    assert again.returncode == 0, again.stderr
    assert "already built; nothing was changed" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == before


def test_a_finished_folder_of_another_build_is_refused(built_small, cell_folder):
    with pytest.raises(CelluScanError, match="finished build with image_size=48, but image_size=64 was given"):
        build_small(built_small, image_size=64)
    with pytest.raises(CelluScanError, match="finished build from other sources, files or licences"):
        build_small(built_small, f"imagefolder={cell_folder}")


def test_an_output_inside_a_source_is_refused(cell_folder):
    with pytest.raises(CelluScanError, match="is inside source imagefolder"):
        build_small(cell_folder / "out", f"imagefolder={cell_folder}")


@pytest.mark.parametrize("path", ["thesis.tex", "curation/statistics.json"])
def test_an_output_that_holds_something_else_is_refused(tmp_path, write_files, path):
    write_files(tmp_path / "wbc", {path: "{}"})
    with pytest.raises(CelluScanError, match="is not a built dataset and not empty"):
        build_small(tmp_path / "wbc")
    assert (tmp_path / "wbc" / path).read_text() == "{}"


def test_a_second_build_into_the_same_folder_stops(tmp_path):
    with (
        Workspace(BuildSettings(("synthetic=1",), tmp_path / "wbc")),
        pytest.raises(CelluScanError, match=r"another build into .*wbc is running"),
    ):
        build_small(tmp_path / "wbc")


def test_an_unfinished_build_asks_for_resume(tmp_path, write_files):
    write_files(tmp_path / "wbc.building", {"build.json": "{}"})
    with pytest.raises(CelluScanError, match="is an unfinished build; add --resume"):
        build_small(tmp_path / "wbc")


def test_resuming_with_other_settings_is_refused(tmp_path):
    work = Workspace(BuildSettings(("synthetic=1",), tmp_path / "wbc", 48, 10, seed=1))
    with work:
        work.open({**work.settings.content, "listing": "x"})
    with pytest.raises(CelluScanError, match="seed=1, but seed=42 was given"):
        build_small(tmp_path / "wbc", resume=True)


@pytest.mark.parametrize("changed", ["listing", "files", "software"])
def test_resuming_what_has_changed_is_refused(tmp_path, cell_folder, changed, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("celluscan_hf.dataset.build._scan_and_curate", stop)
    with pytest.raises(KeyboardInterrupt):
        build_small(tmp_path / "wbc", f"imagefolder={cell_folder}")
    path = tmp_path / "wbc.building" / "build.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {changed: "another"}))
    with pytest.raises(CelluScanError, match="have changed since"):
        build_small(tmp_path / "wbc", f"imagefolder={cell_folder}", resume=True)


def test_an_acquisition_can_be_left_out_by_its_name_in_the_audit(built_small, tmp_path):
    counts = json.loads((built_small / "curation" / "audit.json").read_text())["confounding"]["acquisition"]
    name = min(counts, key=lambda acquisition: sum(counts[acquisition].values()))
    done = run(tmp_path / "wbc", f"--exclude-acquisition={name}", "--target-per-class=0")
    assert done.returncode == 0, done.stderr
    audit = json.loads((tmp_path / "wbc" / "curation" / "audit.json").read_text())
    assert name not in audit["confounding"]["acquisition"]
    dropped = (tmp_path / "wbc" / "curation" / "dropped.csv").read_text()
    assert dropped.count(f",excluded_acquisition,{name}\n") == sum(counts[name].values())
    assert f"`{name}`" in (tmp_path / "wbc" / "README.md").read_text()
    with pytest.raises(CelluScanError, match=re.escape(f"exclude_acquisitions=['{name}'], but")):
        build_small(tmp_path / "wbc", target_per_class=0)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_resume_goes_on(built_small, tmp_path):
    def little_space() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    stopped = run(tmp_path / "wbc", preexec_fn=little_space)
    assert stopped.returncode == 2
    assert "no space left" in stopped.stderr and "--resume" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    build_small(tmp_path / "wbc", resume=True)
    assert contents(tmp_path / "wbc") == contents(built_small)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=pbc=/nowhere/at/all"], "/nowhere/at/all does not exist"),
        (["--license=pbc"], "expected SOURCE=LICENSE"),
        (["--output=/dev/null/wbc"], "/dev/null"),
    ],
)
def test_a_bad_request_is_one_line(tmp_path, arguments, message):
    result = run(tmp_path / "wbc", *arguments)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert result.returncode == 2
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "wbc").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "no --source given"),
        ({"image_size": 7}, "--image-size 7: expected 32 to 1024"),
        ({"num_proc": 0}, "--num-proc 0: expected 1 or more"),
    ],
)
def test_settings_out_of_range_are_refused(tmp_path, changes, message):
    with pytest.raises(CelluScanError, match=message):
        BuildSettings(**{"sources": ("synthetic=1",), "output": tmp_path} | changes)


def test_everything_bad_in_a_folder_becomes_a_row_with_its_reason(tmp_path, cell_folder, write_image):
    folder = cell_folder / "Basophil"
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("not an image")
    (folder / "half.jpg").write_bytes(write_image(tmp_path / "x.jpg", 7).read_bytes()[:-100])
    (folder / "loop").symlink_to(folder)
    (folder / "nowhere.png").symlink_to(tmp_path / "nothing")
    write_image(folder / "tiny.png", Image.new("RGB", (9, 9)))
    (folder / "copy.png").write_bytes((folder / "0.png").read_bytes())
    (cell_folder / "Monocyte" / "wrong.png").write_bytes((folder / "1.png").read_bytes())
    statistics = build_small(tmp_path / "wbc", f"imagefolder={cell_folder}", target_per_class=0)
    reasons = {path.split("/")[-1]: reason for path, reason in dropped(tmp_path / "wbc").items()}
    assert reasons == {
        "empty.jpg": "empty_file",
        "notes.txt": "not_an_image",
        "half.jpg": "truncated",
        "loop": "symlink_loop",
        "nowhere.png": "broken_link",
        "tiny.png": "too_small",
        "copy.png": "duplicate",
        "1.png": "label_conflict",
        "wrong.png": "label_conflict",
    }
    assert statistics["seen"] == statistics["rows"]["originals"] + len(reasons)


def test_a_file_name_that_is_no_utf8_becomes_a_row(tmp_path, cell_folder):
    name = os.fsencode(cell_folder / "Basophil") + b"/\xff.png"
    try:
        Path(os.fsdecode(name)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    build_small(tmp_path / "wbc", f"imagefolder={cell_folder}", target_per_class=0)
    assert dropped(tmp_path / "wbc") == {"imagefolder/Basophil/\\xff.png": "non_utf8_name"}


def test_two_folders_with_the_same_file_names_stay_apart_with_their_licences(tmp_path, cell_folder, write_image):
    for number in range(12):
        write_image(tmp_path / "other" / "Basophil" / f"{number}.png", 300 + number)
    sources = (f"imagefolder:a={cell_folder}", f"imagefolder:b={tmp_path / 'other'}")
    (tmp_path / "wbc").mkdir()  # an empty output folder is used
    statistics = build_small(tmp_path / "wbc", *sources, target_per_class=0, licenses=(("a", "CC-BY-4.0"),))
    assert set(statistics["sources"]) == {"a", "b"}
    assert statistics["rows"]["originals"] == 36
    assert statistics["licenses"]["CC-BY-4.0"] == 24


@pytest.mark.real_data
@pytest.mark.slow
def test_the_real_cells_are_curated_as_known(real_data: Path, tmp_path: Path, write_image: Callable[..., Path]):
    sources = {
        "pbc": "PBC_dataset_normal_DIB", "aml_lmu": "AML-Cytomorphology_LMU", "bccd": "BCCD",
        "bccd_augmented": "dataset2-master",
    }  # fmt: skip
    specs = [f"{name}={real_data / folder}" for name, folder in sources.items()]
    statistics = build_small(tmp_path / "wbc", *specs, image_size=96, target_per_class=0, num_proc=2)
    reasons = dropped(tmp_path / "wbc")
    assert reasons["pbc/neutrophil/.DS_169665.jpg"] == "not_an_image"
    assert sum(path.startswith("pbc/") and reason == "duplicate" for path, reason in reasons.items()) == 7
    assert set(statistics["sources"]["bccd_augmented"]) == set(statistics["sources"]["bccd"]) == {"train"}
    pbc = json.loads((tmp_path / "wbc" / "curation" / "sources.json").read_text("utf-8"))["pbc"]
    assert pbc["found"]["SNE"] == 966 and pbc["published"]["SNE"] == 1646
    with open(tmp_path / "wbc" / "curation" / "duplicates.csv", encoding="utf-8", newline="") as file:
        near = {(row["duplicate_of"], row["image_id"]) for row in csv.DictReader(file) if row["kind"] == "near"}
    assert ("pbc/eosinophil/EO_246684.jpg", "pbc/eosinophil/EO_409717.jpg") in near
    assert ("pbc/ig/IG_466905.jpg", "pbc/ig/IG_855229.jpg") in near


@pytest.mark.real_data
def test_mirrored_and_turned_copies_of_real_cells_stay_with_their_cells(real_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "cells" / "Basophil"
    folder.mkdir(parents=True)
    for path in sorted((real_data / "PBC_dataset_normal_DIB" / "basophil").glob("BA_*.jpg"))[:24]:
        image = Image.open(path)
        image.save(folder / f"{path.stem}.png")
        ImageOps.mirror(image).save(folder / f"{path.stem}-mirrored.png")
        image.rotate(180).resize((150, 150)).save(folder / f"{path.stem}-turned.jpg")
    output = tmp_path / "wbc"
    build(BuildSettings((f"imagefolder={folder.parent}",), output, image_size=64, target_per_class=0, num_proc=1))
    places: dict[str, set[tuple[str, str]]] = {}
    for path in parquet_files(output):
        for row in pq.read_table(path, columns=["image_id", "group_id"]).to_pylist():
            cell = Path(row["image_id"]).stem.split("-")[0]
            places.setdefault(cell, set()).add((row["group_id"], path.name.split("-")[0]))
    assert len(places) == 24
    assert all(len(cell_places) == 1 for cell_places in places.values())
