"""Groups that folders give: the folder between class and image, or the one above the class."""

import pytest

from celluscan_hf import taxonomy
from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import open_source
from celluscan_hf.sources.groups import groups_of_folders


@pytest.fixture
def open_folder(tmp_path, write_files):
    def opened(paths, table=None):
        files = dict.fromkeys(paths, b"x") | ({"metadata.csv": table} if table else {})
        source = open_source(f"imagefolder={write_files(tmp_path / 'data', files)}", tmp_path / "scratch", seed=0)
        records = list(source.records())
        names = [None if item.group == item.image_id else item.group.partition("group:")[2] for item in records]
        return source, [item.label for item in records], names

    return opened


def test_the_folder_between_class_and_image_is_the_group(open_folder):
    paths = [f"{name}/p{number}/1.png" for name in ("Basophil", "Eosinophil") for number in (1, 2, 3)]
    source, labels, groups = open_folder(paths)
    assert labels == ["Basophil"] * 3 + ["Eosinophil"] * 3
    assert groups == ["p1", "p2", "p3"] * 2
    assert source.groups_from == "the folder between class and image ('p1', 'p2', 'p3')"


@pytest.mark.parametrize(
    "layout",
    [
        "Basophil/{}/slide1/1.png",
        "Basophil/images/{}/1.png",
        "Basophil/{}/images/1.png",
        "Basophil/study/{}/1.png",
        "wrapper/data/Basophil/{}/1.png",
        "Neutrophil/{}/SNE/1.png",
        "Neutrophil/SNE/{}/1.png",
        "{}/Basophil/1.png",
        "study/{}/Basophil/1.png",
        "{}/images/Basophil/1.png",
    ],
)
def test_the_outermost_folder_that_can_be_a_patient_is_the_group(layout, open_folder):
    _, labels, groups = open_folder([layout.format(f"p{number}") for number in range(6)])
    assert set(labels) == {"Basophil" if "Basophil" in layout else "Segmented Neutrophil"}
    assert groups == [f"p{number}" for number in range(6)]


@pytest.mark.parametrize(
    "folders",
    [
        ["BA", "EO"],
        ["BA/train", "BA/test", "EO/train", "EO/test"],
        ["BA/images", "EO/images"],
        ["BA/v2 final", "EO/v2 final"],
        ["BA/360x360", "EO/224px"],
        ["BA/part 1", "BA/part_2", "BA/Part-3", "BA/site A"],
        ["train/BA", "validation/BA", "test/BA", "test/EO"],
        ["part1/BA", "part2/BA", "part3/EO", "part4/EO"],
        ["cells/BA", "cells/EO"],
        ["Munich/BA", "Berlin/BA"],
        ["BA/unknown", "BA/NA", "EO/-"],
    ],
)
def test_a_folder_that_tells_no_patient_is_no_group(folders):
    assert groups_of_folders(folders).names == {}


def test_folders_that_are_not_taken_for_groups_are_named_in_a_note(open_folder):
    source, _, groups = open_folder(["BA/train/1.png", "BA/test/1.png", "Munich/BA/1.png", "Berlin/BA/1.png"])
    assert groups == [None] * 4
    assert any("not taken as patients or slides: the folders 'Berlin', 'Munich', 'test', …" in n for n in source.notes)


def test_a_file_beside_the_patients_has_no_group_and_is_counted(open_folder):
    source, _, groups = open_folder(["BA/p1/1.png", "BA/p2/1.png", "BA/unknown/1.png", "BA/1.png"])
    assert groups == [None, "p1", "p2", None]
    assert any("2 of 4 images have no group" in note for note in source.notes)


def test_a_group_in_the_table_beats_the_folder(open_folder):
    paths = [f"BA/p{number}/1.png" for number in range(4)]
    table = "file_name,group_id\nBA/p0/1.png,x\nBA/p1/1.png,x\nBA/p2/1.png,unknown\n"
    source, _, groups = open_folder(paths, table)
    assert groups == ["x", "x", "p2", "p3"]
    assert source.groups_from == "group_id of metadata.csv; the folder between class and image ('p2', 'p3')"


def test_files_without_an_ending_have_groups_too(open_folder):
    _, _, groups = open_folder(["BA/p1/1", "BA/p2/1", "BA/p2/notes.txt"])
    assert groups == ["p1", "p2", "p2"]


def test_a_table_without_groups_leaves_them_to_the_folders(open_folder):
    _, labels, groups = open_folder(["BA/p1/1.png", "BA/p2/1.png"], "file_name,label\nBA/p1/1.png,EO\n")
    assert (labels, groups) == (["Eosinophil", "Basophil"], ["p1", "p2"])


def test_folders_of_patients_without_class_folders_are_groups(open_folder):
    table = "file_name,label\n" + "".join(f"p{number}/1.png,EO\n" for number in range(4))
    _, labels, groups = open_folder([f"p{number}/1.png" for number in range(4)], table)
    assert (labels, groups) == (["Eosinophil"] * 4, ["p0", "p1", "p2", "p3"])


def refusal(open_folder, paths):
    with pytest.raises(CelluScanError) as error:
        open_folder(paths)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_two_levels_that_could_be_patients_are_refused(open_folder):
    paths = [f"{place}/BA/p{number}/1.png" for place in ("Ulm", "Bonn", "Kiel") for number in range(2)]
    message = refusal(open_folder, paths)
    assert "'Bonn', 'Kiel', 'Ulm' above the class folders" in message and "metadata.csv" in message


def test_folders_of_two_classes_are_refused(open_folder):
    message = refusal(open_folder, ["Basophil/MO/1.png", "Basophil/2.png"])
    assert "Basophil/MO/1.png is in folders of two classes" in message


@pytest.mark.parametrize("folder", ["Segmented Neutrphil", "band", "Bands", "immature granulocites"])
def test_a_misspelt_class_below_a_class_is_no_patient(folder, open_folder):
    assert f"'{folder}' is not one of the 14 classes" in refusal(open_folder, [f"Neutrophil/{folder}/1.png"])


def test_patients_of_an_unknown_class_are_refused_with_all_folders(open_folder):
    message = refusal(open_folder, ["BA/p1/1.png", "Artefacts/p1/1.png"])
    assert "'Artefacts/p1' is not one of the 14 classes" in message and "metadata.csv" in message


@pytest.mark.parametrize(("text", "like"), [("Neutrofil", True), ("band", True), ("BA", False), ("p1", False),
                                            ("basophil_07", False), ("Smith", False)])  # fmt: skip
def test_what_resembles_a_class(text, like):
    assert taxonomy.resembles(text) is like


def test_days_of_a_patient_are_one_group(open_folder):
    _, _, groups = open_folder([f"Basophil/day{day}/p{patient}/1.png" for day in (0, 1) for patient in (1, 2, 3)])
    assert groups == ["p1", "p2", "p3"] * 2


def test_a_folder_found_below_several_groups_is_refused(open_folder):
    with pytest.raises(CelluScanError, match="two levels of folders could be the patients"):
        open_folder([f"Basophil/{ward}/{patient}/1.png" for ward in ("north", "south") for patient in ("ab", "cd")])


def test_a_folder_of_parquet_is_sent_to_its_source(open_folder):
    with pytest.raises(CelluScanError, match="holds parquet files; give --source hf_dataset="):
        open_folder(["data/train-00000-of-00001.parquet"])
