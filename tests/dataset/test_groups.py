"""Groups in a built folder: counted per source in the summary and in the card, and never divided by a split."""

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from celluscan_hf.dataset.card import groups_table
from celluscan_hf.dataset.command import summary
from celluscan_hf.errors import CelluScanError

from .conftest import build_small

HEADER = "| source | groups | images in them | images without a group | groups from |"


@pytest.fixture
def patients(tmp_path, write_image):
    """Write 36 cells of two classes and six patients by a path pattern of number, class and patient."""

    def lay_out(pattern):
        for number in range(36):
            name = "Basophil" if number < 18 else "Eosinophil"
            write_image(tmp_path / "own" / pattern.format(number=number, name=name, patient=f"p{number % 6}"), number)
        return tmp_path / "own"

    return lay_out


def build_without_filling(tmp_path, *sources):
    return build_small(tmp_path / "wbc", *sources, target_per_class=0)


def splits_of_patients(folder):
    """Return the splits of each patient, from the names of the images."""
    places = {}
    for path in folder.glob("data/originals/*.parquet"):
        for image_id in pq.read_table(path, columns=["image_id"])["image_id"].to_pylist():
            patient = int(Path(image_id).stem) % 6
            places.setdefault(patient, set()).add(path.name.split("-")[0])
    return places


@pytest.mark.parametrize("pattern", ["{name}/{patient}/{number}.png", "{patient}/{name}/{number}.png"])
def test_no_patient_of_a_folder_is_in_two_splits(pattern, patients, tmp_path):
    statistics = build_without_filling(tmp_path, f"imagefolder={patients(pattern)}")
    assert (sum(statistics["groups"].values()), statistics["source_groups"]["imagefolder"]["groups"]) == (6, 6)
    assert all(len(splits) == 1 for splits in splits_of_patients(tmp_path / "wbc").values())


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_no_patient_of_a_table_is_in_two_splits(name, patients, tmp_path):
    folder = patients("{name}/{number}.png")
    rows = [
        {"file_name": path.relative_to(folder).as_posix().replace("/", "\\"), "group_id": int(path.stem) % 6}
        for path in folder.rglob("*.png")
    ]
    with open(folder / name, "w", newline="") as file:
        if name == "metadata.jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, ["file_name", "group_id"])
            writer.writeheader()
            writer.writerows(rows)
    statistics = build_without_filling(tmp_path, f"imagefolder={folder}")
    assert sum(statistics["groups"].values()) == 6
    assert all(len(splits) == 1 for splits in splits_of_patients(tmp_path / "wbc").values())


def test_summary_and_card_list_the_groups_of_every_source(patients, tmp_path):
    folder = patients("{name}/{patient}/{number}.png")
    statistics = build_without_filling(tmp_path, f"imagefolder={folder}", "synthetic=2")
    origin = "the folder between class and image ('p0', 'p1', 'p2', …)"
    for text in (summary(statistics, tmp_path / "wbc"), (tmp_path / "wbc" / "README.md").read_text("utf-8")):
        assert f"{HEADER}\n" in text
        assert f"| imagefolder | 6 | 36 | 0 | {origin} |" in text
        assert "| synthetic | 0 | 0 | 28 |  |" in text


def test_a_build_without_group_counts_is_summarized(built):
    statistics = json.loads((built / "curation" / "statistics.json").read_text("utf-8"))
    del statistics["source_groups"]
    assert groups_table(statistics) == ""
    assert HEADER not in summary(statistics, built)


def test_hidden_folders_are_skipped(cell_folder, tmp_path, write_image, caplog):
    for hidden in (".ipynb_checkpoints", "@eaDir", "Basophil/.ipynb_checkpoints", ".git/Basophil"):
        write_image(cell_folder / hidden / "0.png", 0)
    statistics = build_without_filling(tmp_path, f"imagefolder={cell_folder}")
    assert (statistics["seen"], statistics["rows"]["originals"], statistics["dropped"]) == (24, 24, {})
    assert caplog.text.count("passed over 4 hidden or system folders and files: '.git/', '.ipynb_checkpoints/'") == 1


def test_a_table_that_fits_no_file_stops_the_build(cell_folder, tmp_path):
    table = "file_name,group_id\n" + "".join(f"{number}.png,p{number}\n" for number in range(12))
    (cell_folder / "metadata.csv").write_text(table)
    with pytest.raises(CelluScanError, match=r"source imagefolder: 12 of 12 rows of metadata\.csv match no file"):
        build_without_filling(tmp_path, f"imagefolder={cell_folder}")
    assert not (tmp_path / "wbc").exists()


@pytest.mark.real_data
def test_the_hidden_file_of_the_published_pbc_is_still_read(real_data: Path, tmp_path: Path):
    from celluscan_hf.sources import open_source

    source = open_source(f"pbc={real_data / 'PBC_dataset_normal_DIB'}", tmp_path, seed=0)
    assert "pbc/neutrophil/.DS_169665.jpg" in {item.image_id for item in source.records()}
    assert source.notes == []


def test_a_group_of_much_more_than_its_share_is_a_warning(patients, tmp_path):
    folder = patients("{name}/{number}.png")
    rows = [
        f"{path.relative_to(folder)},{'anonymous 7' if int(path.stem) % 2 else path.stem}"
        for path in folder.rglob("*.png")
    ]
    (folder / "metadata.csv").write_text("\n".join(["file_name,group_id", *rows]))
    statistics = build_without_filling(tmp_path, f"imagefolder={folder}")
    assert "the group 'anonymous 7' holds 18 of 36 grouped images" in " ".join(statistics["warnings"])
