import csv
import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard

from celluscan_hf.errors import CelluScanError
from celluscan_hf.hub.command import DATASET
from celluscan_hf.hub.data_folder import VERSIONS, assemble, check_licenses, with_version
from celluscan_hf.hub.upload import Target, listing

STATISTICS = {"rows": {"originals": 280, "augmented": 112}, "settings": {"sources": ["synthetic"]}}


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.fixture
def built(data_set: Path, tmp_path: Path) -> Path:
    """A copy of the built folder, to change."""
    return Path(shutil.copytree(data_set, tmp_path / "wbc"))


def test_images_that_may_be_passed_on_pass_the_gate(built: Path) -> None:
    check_licenses(built)


@pytest.mark.parametrize("license", ["unknown", "CC-BY-NC-4.0"])
def test_a_source_that_cannot_be_passed_on_is_named_with_what_to_do(built: Path, license: str) -> None:
    edit(built / "curation/sources.json", lambda sources: sources["synthetic"].update(license=license))
    with pytest.raises(CelluScanError, match=rf"synthetic \({license}\).*--license.*--recipe-only"):
        check_licenses(built)


def test_a_closed_source_without_images_stops_nothing(built: Path) -> None:
    edit(
        built / "curation/sources.json",
        lambda sources: sources.update(other=sources["synthetic"] | {"license": "unknown", "used": 0}),
    )
    check_licenses(built)


def test_all_files_are_those_of_the_build_but_for_the_card(built: Path, tmp_path: Path) -> None:
    assemble(built, Target(DATASET, "dataset"), [], tmp_path / "folder")
    assembled, original = dict(listing(tmp_path / "folder")), dict(listing(built))
    assert assembled.keys() == original.keys()
    others = [path for path in assembled if path != "README.md"]
    assert all(assembled[path].read_bytes() == original[path].read_bytes() for path in others)


def test_the_card_names_its_repository_and_the_build_keeps_its_own(built: Path, tmp_path: Path) -> None:
    before = (built / "README.md").read_bytes()
    assemble(built, Target("someone/cells", "dataset", revision="v1.0"), [], tmp_path / "folder")
    text = (tmp_path / "folder/README.md").read_text()
    assert 'load_dataset("someone/cells", revision="v1.0")' in text
    assert DATASET not in text
    assert (built / "README.md").read_bytes() == before


def test_the_change_log_has_every_version_and_the_newest_first(built: Path, tmp_path: Path) -> None:
    old = with_version([], "v1.0", "a" * 64, STATISTICS)
    assemble(built, Target(DATASET, "dataset", revision="v1.1"), old, tmp_path / "folder")
    log = (tmp_path / "folder/README.md").read_text().partition("## Change log")[2]
    assert 0 < log.index("v1.1") < log.index("v1.0")
    assert [version["revision"] for version in json.loads((tmp_path / "folder" / VERSIONS).read_text())] == [
        "v1.0",
        "v1.1",
    ]


def test_a_folder_that_lists_versions_itself_is_not_written_to(built: Path, tmp_path: Path) -> None:
    (built / VERSIONS).write_text("[]")  # as in a folder that was fetched from the Hub
    assemble(built, Target(DATASET, "dataset", revision="v1.0"), [], tmp_path / "folder")
    assert (built / VERSIONS).read_text() == "[]"
    assert len(json.loads((tmp_path / "folder" / VERSIONS).read_text())) == 1


def test_a_version_that_is_listed_with_the_same_data_keeps_its_entry() -> None:
    versions = [with_version([], "v1.0", "a" * 64, STATISTICS)[0] | {"date": "2020-01-01"}]
    assert with_version(versions, "v1.0", "a" * 64, STATISTICS) == versions


def test_a_version_whose_data_changed_before_it_was_tagged_is_written_anew() -> None:
    versions = with_version([], "v1.0", "a" * 64, STATISTICS)
    assert [entry["fingerprint"] for entry in with_version(versions, "v1.0", "b" * 64, STATISTICS)] == ["b" * 64]


def test_recipe_only_has_every_row_and_no_image(built: Path, tmp_path: Path) -> None:
    assemble(built, Target(DATASET, "dataset"), [], tmp_path / "folder", recipe_only=True)
    paths = [path for path, _ in listing(tmp_path / "folder")]
    assert not [path for path in paths if path.endswith((".parquet", ".jpg", ".png"))]
    with (tmp_path / "folder/curation/rows.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 476
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert all(len(row["sha256"]) == 64 for row in rows)
    with (tmp_path / "folder/curation/label_map.csv").open() as stream:
        assert sum(int(row["originals"]) for row in csv.DictReader(stream)) == 280


def test_recipe_only_tells_how_to_build_and_declares_no_rows(built: Path, tmp_path: Path) -> None:
    assemble(built, Target(DATASET, "dataset"), [], tmp_path / "folder", recipe_only=True)
    card = DatasetCard.load(tmp_path / "folder/README.md")
    assert "celluscan build --source synthetic=FOLDER" in card.text
    assert "load_dataset(" not in card.text
    assert "configs" not in card.data.to_dict()
    assert "dataset_info" not in card.data.to_dict()


def test_a_folder_that_is_not_a_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CelluScanError, match=r"expected a folder made by celluscan build"):
        check_licenses(tmp_path)
