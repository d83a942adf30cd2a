"""A folder of the user's own images, and what `--source` and `--license` accept."""

import shutil
from dataclasses import replace

import pytest

from celluscan_hf import taxonomy
from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import READERS, Dropped, Record, open_source, open_sources
from celluscan_hf.sources.synthetic import Synthetic


@pytest.fixture
def lay_out(tmp_path, write_files):
    """The records over files written to a folder, as a list."""

    def records(files, key="imagefolder"):
        folder = write_files(tmp_path / "data", files)
        return list(open_source(f"{key}={folder}", tmp_path / "scratch", seed=0).records())

    return records


def labels(records):
    return {record.image_id.partition("/")[2]: record.label for record in records}


def same_text(code, label):
    return code.casefold().replace("_", " ") == label.casefold()


def assert_one_line(error):
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name",
    [lambda cell: cell.name.lower() + "s", lambda cell: cell.name.upper().replace(" ", "_"), lambda cell: cell.code],
)
def test_folder_names_the_class(name, lay_out):
    records = lay_out({f"{name(cell)}/1.png": b"x" for cell in taxonomy.CLASSES})
    assert {record.source_label: record.label for record in records} == {
        name(cell): cell.name for cell in taxonomy.CLASSES
    }


def test_image_is_its_own_group_without_metadata(lay_out):
    [record] = lay_out({"Basophil/1.png": b"x"})
    assert record.group == record.image_id == "imagefolder/Basophil/1.png"


def test_name_on_the_command_line_is_the_source_of_each_image(lay_out):
    [record] = lay_out({"Basophil/1.png": b"x"}, key="imagefolder:clinic")
    assert record.image_id == "clinic/Basophil/1.png"


def test_innermost_folder_names_the_class(lay_out):
    assert labels(lay_out({"Basophil/1.png": b"x", "Neutrophil/SNE/2.png": b"y"})) == {
        "Basophil/1.png": "Basophil",
        "Neutrophil/SNE/2.png": "Segmented Neutrophil",
    }


def test_outer_folder_changes_no_id(lay_out):
    assert labels(lay_out({"my cells/BA/1.png": b"x", "my cells/EO/2.png": b"y"})) == {
        "BA/1.png": "Basophil",
        "EO/2.png": "Eosinophil",
    }


@pytest.mark.parametrize("packing", ["zip", "gztar"])
@pytest.mark.parametrize("metadata", [{}, {"metadata.csv": "file_name,label,group_id\nBA/1.png,EO,p1\n"}])
def test_archive_gives_the_same_records(packing, metadata, tmp_path, write_files):
    folder = write_files(tmp_path / "data", {"BA/1.png": b"x", "EO/2.png": b"y", **metadata})
    archive = shutil.make_archive(str(tmp_path / "packed"), packing, folder)
    plain, packed = (open_source(f"imagefolder={path}", tmp_path / "scratch", seed=0) for path in (folder, archive))
    expected = [replace(item, member="") for item in plain.records()]
    assert [replace(item, member="") for item in packed.records()] == expected
    assert packed.groups_from == plain.groups_from


@pytest.mark.parametrize("folder", ["Neutrofils", "Segmented Neutrphil"])
def test_unknown_class_folder_is_an_error_with_the_nearest_names(folder, lay_out):
    with pytest.raises(CelluScanError, match=f"source imagefolder: .*'{folder}'.*nearest: .*Neutrophil") as error:
        lay_out({"Basophil/1.png": b"x", f"{folder}/2.png": b"y"})
    assert_one_line(error)


def test_all_unknown_folders_are_named_in_one_error(lay_out):
    with pytest.raises(CelluScanError, match=r"'Neutrofil' is not one of .*; nor are 'beads', 'dust'; rename"):
        lay_out({f"{folder}/1.png": b"x" for folder in ("Basophil", "beads", "dust", "Neutrofil")})


@pytest.mark.parametrize("label", taxonomy.PUBLISHED_LABELS)
def test_a_published_label_means_one_class_wherever_it_is_used(label):
    tables = [getattr(reader, "decisions", {}) for reader in READERS.values()]
    meanings = {decision.label for table in tables for code, decision in table.items() if same_text(code, label)}
    assert meanings == {taxonomy.PUBLISHED_LABELS[label]}


def test_published_labels_are_accepted_and_noted(tmp_path, write_files):
    folder = write_files(tmp_path / "data", {"EOS/1.png": b"x", "MYB/2.png": b"y", "BA/3.png": b"z"})
    source = open_source(f"imagefolder={folder}", tmp_path / "scratch", seed=0)
    assert labels(source.records()) == {"EOS/1.png": "Eosinophil", "MYB/2.png": "Myelocyte", "BA/3.png": "Basophil"}
    assert source.notes == ["labels that are read as in the published datasets: EOS as Eosinophil, MYB as Myelocyte"]


def test_folder_of_no_class_at_all_is_an_error_of_one_line(lay_out):
    with pytest.raises(CelluScanError, match=r"source imagefolder: .*beach") as error:
        lay_out({"holiday/beach.jpg": b"x"})
    assert_one_line(error)


def test_empty_folder_is_an_error_of_one_line(lay_out):
    with pytest.raises(CelluScanError, match=r"source imagefolder: .*no files.*expected") as error:
        lay_out({})
    assert_one_line(error)


def test_file_beside_the_class_folders_has_no_label(lay_out):
    assert labels(lay_out({"Basophil/1.png": b"x", "README.md": b"y"}))["README.md"] is None


def test_zip_packed_on_a_mac_is_read(tmp_path, write_files):
    names = ["cells/Basophil/1.png", "__MACOSX/cells/._Basophil", "__MACOSX/cells/Basophil/._1.png"]
    folder = write_files(tmp_path / "data", dict.fromkeys(names, b"x"))
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    items = open_source(f"imagefolder={archive}", tmp_path / "scratch", seed=0).records()
    assert labels(item for item in items if isinstance(item, Record))["Basophil/1.png"] == "Basophil"


def test_metadata_label_stands_above_the_folder(lay_out):
    files = {"BA/1.png": b"x", "BA/2.png": b"y", "metadata.csv": "file_name,label\nBA/1.png,eosinophils\n"}
    assert labels(lay_out(files)) == {"BA/1.png": "Eosinophil", "BA/2.png": "Basophil"}


@pytest.mark.parametrize("name", ["1.png", "./1.png", "any folder/1.png"])
def test_metadata_label_needs_no_class_folder(name, lay_out):
    files = {name.removeprefix("./"): b"x", "metadata.csv": f"file_name,label\n{name},MYO\n"}
    assert list(labels(lay_out(files)).values()) == ["Myeloblast"]


def test_metadata_group_joins_images(lay_out):
    table = "file_name,group_id\nBA/1.png,patient 1\nEO/2.png,patient 1\nEO/3.png,patient 2\nEO/4.png,\n"
    records = lay_out({"BA/1.png": b"1", "EO/2.png": b"2", "EO/3.png": b"3", "EO/4.png": b"4", "metadata.csv": table})
    first, second, third, fourth = (record.group for record in records)
    assert first == second
    assert len({second, third, fourth}) == 3


def test_groups_of_two_folders_are_not_joined(tmp_path, write_files):
    files = {"BA/1.png": b"x", "metadata.csv": "file_name,group_id\nBA/1.png,1\n"}
    specs = [f"imagefolder:{name}={write_files(tmp_path / name, files)}" for name in ("a", "b")]
    groups = {record.group for source in open_sources(specs, tmp_path, 0, {}) for record in source.records()}
    assert len(groups) == 2


def test_metadata_as_excel_saves_it_is_read(lay_out):
    table = "\ufefffile_name,label,group_id\r\nBA/1.png, EO ,p1\r\n"
    assert labels(lay_out({"BA/1.png": b"x", "metadata.csv": table})) == {"BA/1.png": "Eosinophil"}


def test_metadata_itself_is_no_image(lay_out):
    files = {"BA/1.png": b"x", "metadata.csv": "file_name\nBA/1.png\n"}
    assert list(labels(lay_out(files))) == ["BA/1.png"]


def test_metadata_below_an_outer_folder_is_found(lay_out):
    files = {"mine/cells/1.png": b"x", "mine/metadata.csv": "file_name,label\ncells/1.png,LY\n"}
    assert labels(lay_out(files)) == {"cells/1.png": "Lymphocyte"}


def test_file_named_in_metadata_but_missing_is_dropped(lay_out):
    items = lay_out({"BA/1.png": b"x", "metadata.csv": "file_name\nBA/1.png\nBA/2.png\n"})
    assert [(item.path, item.reason) for item in items if isinstance(item, Dropped)] == [
        ("imagefolder/BA/2.png", "missing_file")
    ]
    assert [item.image_id for item in items if isinstance(item, Record)] == ["imagefolder/BA/1.png"]


def test_unknown_label_in_metadata_is_an_error_that_names_the_file(lay_out):
    with pytest.raises(CelluScanError, match=r"BA/1\.png.*'Neutrofil'.*nearest: .*Neutrophil") as error:
        lay_out({"BA/1.png": b"x", "metadata.csv": "file_name,label\nBA/1.png,Neutrofil\n"})
    assert_one_line(error)


@pytest.mark.parametrize("table", ["image,label\nBA/1.png,BA\n", "file_name;label\nBA/1.png;BA\n", ""])
def test_metadata_without_file_names_is_an_error_that_says_what_is_expected(table, lay_out):
    with pytest.raises(CelluScanError, match=r"metadata\.csv .*expected file_name") as error:
        lay_out({"BA/1.png": b"x", "metadata.csv": table})
    assert_one_line(error)


@pytest.mark.parametrize(
    "table",
    [b"file_name,label\nBA/1.png,\xe9osinophile\n", "file_name,label\nBA/1.png,BA\n".encode("utf-16")],
    ids=["latin_1", "utf_16"],
)
def test_metadata_that_is_not_utf8_is_an_error_of_one_line(table, lay_out):
    with pytest.raises(CelluScanError, match=r"metadata\.csv") as error:
        lay_out({"BA/1.png": b"x", "metadata.csv": table})
    assert_one_line(error)


def test_metadata_row_without_a_file_name_is_an_error_of_one_line(lay_out):
    with pytest.raises(CelluScanError, match=r"metadata\.csv") as error:
        lay_out({"BA/1.png": b"x", "metadata.csv": "label,file_name\nBA,BA/1.png\nBA\n"})
    assert_one_line(error)


@pytest.fixture
def cells(tmp_path, write_files):
    return write_files(tmp_path / "cells", {"Basophil/1.png": b"x"})


def refused(specs, tmp_path, licenses=None):
    with pytest.raises(CelluScanError) as error:
        open_sources(specs, tmp_path, 0, licenses or {})
    assert_one_line(error)
    return str(error.value)


@pytest.mark.parametrize("key", ["imagefolder", "imagefolder:a", "pbc"])
def test_a_name_given_twice_is_refused_with_the_way_out(key, tmp_path, cells):
    message = refused([f"{key}={cells}", f"{key}={cells}"], tmp_path)
    assert key.rpartition(":")[2] in message
    assert "imagefolder:NAME=DIR" in message


def test_an_imagefolder_may_not_take_the_name_of_another_source(tmp_path, cells):
    assert "pbc is given twice" in refused([f"pbc={cells}", f"imagefolder:pbc={cells}"], tmp_path)


def test_sources_come_in_the_order_of_their_names(tmp_path, cells):
    specs = [f"imagefolder:z={cells}", f"pbc={cells}", "synthetic=1", f"imagefolder:a={cells}"]
    assert [source.name for source in open_sources(specs, tmp_path, 0, {})] == ["a", "pbc", "synthetic", "z"]


@pytest.mark.parametrize(("key", "meant"), [("pcb", "pbc"), ("aml_lum", "aml_lmu"), ("syntetic", "synthetic")])
def test_unknown_source_is_answered_with_the_nearest(key, meant, tmp_path, cells):
    message = refused([f"{key}={cells}"], tmp_path)
    assert key in message
    assert f"did you mean {meant}" in message


def test_source_like_none_is_answered_with_all(tmp_path, cells):
    message = refused([f"qqqq={cells}"], tmp_path)
    assert all(key in message for key in (*READERS, "synthetic"))


def test_a_published_source_takes_no_name(tmp_path, cells):
    assert "pbc:mine" in refused([f"pbc:mine={cells}"], tmp_path)


@pytest.mark.parametrize("spec", ["pbc", "pbc=", "=", "", "some/folder"])
def test_source_without_a_path_is_refused_with_an_example(spec, tmp_path):
    assert "expected KEY=PATH" in refused([spec], tmp_path)


@pytest.mark.parametrize("count", ["0", "-1", "1.5", " "])
def test_synthetic_takes_a_count_alone(count, tmp_path):
    assert "number of cells per class" in refused([f"synthetic={count}"], tmp_path)


def test_path_may_hold_an_equals_sign(tmp_path, write_files):
    folder = write_files(tmp_path / "a=b", {"Basophil/1.png": b"x"})
    assert len(list(open_source(f"imagefolder={folder}", tmp_path, 0).records())) == 1


def test_missing_path_is_refused(tmp_path):
    assert str(tmp_path / "absent") in refused([f"pbc={tmp_path / 'absent'}"], tmp_path)


def test_licence_is_unknown_until_given(tmp_path, cells):
    plain, given = (
        open_sources([f"imagefolder:a={cells}"], tmp_path, 0, licenses)[0].license
        for licenses in ({}, {"a": "CC0-1.0"})
    )
    assert (plain, given) == ("unknown", "CC0-1.0")


def test_licence_of_one_source_leaves_the_others(tmp_path, cells):
    sources = open_sources([f"pbc={cells}", f"imagefolder={cells}"], tmp_path, 0, {"imagefolder": "CC0-1.0"})
    assert [source.license for source in sources] == ["CC0-1.0", "CC-BY-4.0"]


def test_licence_of_a_source_not_given_is_refused(tmp_path, cells):
    message = refused([f"pbc={cells}"], tmp_path, {"bpc": "MIT"})
    assert "--license bpc" in message
    assert "pbc" in message


def test_synthetic_source_is_seeded_by_the_build(tmp_path):
    [source] = open_sources(["synthetic=3"], tmp_path, 7, {})
    assert isinstance(source, Synthetic)
    assert (source.count, source.seed) == (3, 7)
