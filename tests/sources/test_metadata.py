"""The table of a folder: no way of writing it loses a group without a word."""

import io
import json
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import Dropped, Record, open_source
from celluscan_hf.sources.groups import group_name

PATIENTS = 6
CELLS = 36


@pytest.fixture
def open_folder(tmp_path, write_files):
    """A source over files written to a folder, listed; and its items."""

    def opened(files):
        folder = write_files(tmp_path / "data", files)
        source = open_source(f"imagefolder={folder}", tmp_path / "scratch", seed=0)
        return source, list(source.records())

    return opened


def groups(items):
    """The group of each cell, None where it has none."""
    return {
        item.image_id.partition("/")[2]: None if item.group == item.image_id else item.group.partition("group:")[2]
        for item in items
        if isinstance(item, Record)
    }


def paths():
    """36 cells of two classes, with accents in half of their names, as they are called on disk: composed."""
    return [f"{'Basophil' if n % 2 else 'Eosinophil'}/{'é' if n < 18 else 'a'}_{n}.png" for n in range(CELLS)]


def patients():
    return [1 + n % PATIENTS for n in range(CELLS)]


def csv_text(names=None, ids=None, header="file_name,group_id", line="{},{}"):
    rows = zip(names or paths(), ids or patients(), strict=True)
    return "\n".join([header, *(line.format(name, group) for name, group in rows)]) + "\n"


def jsonl(names=None, ids=None):
    rows = zip(names or paths(), ids or patients(), strict=True)
    return "".join(json.dumps({"file_name": name, "group_id": group}) + "\n" for name, group in rows)


def parquet(ids):
    file = io.BytesIO()
    pq.write_table(pa.table({"file_name": paths(), "group_id": ids}), file)
    return file.getvalue()


def backslashes():
    return [name.replace("/", "\\") for name in paths()]


WAYS = {
    "csv": ("metadata.csv", csv_text()),
    "csv of Excel": ("metadata.csv", "\ufeff" + csv_text().replace("\n", "\r\n")),
    "csv with quotes": ("metadata.csv", csv_text(line='"{}","{}"')),
    "csv with blanks": ("metadata.csv", csv_text(header=" file_name , group_id ", line=" {} ,  {}  ")),
    "csv with capitals in the header": ("metadata.csv", csv_text(header="File_Name,Group_ID")),
    "csv with another column": ("metadata.csv", csv_text(header="stain,file_name,group_id", line="MGG,{},{}")),
    "csv with the column's image name": ("metadata.csv", csv_text(header="image_file_name,group_id")),
    "csv with numbers as pandas writes them beside gaps": ("metadata.csv", csv_text(line="{},{}.0")),
    "csv with empty rows at the end": ("metadata.csv", csv_text() + ",\n\n ,\n"),
    "csv with mixed numbers": ("metadata.csv", csv_text(ids=[f"{p}.0" if p % 4 else p for p in patients()])),
    "csv with backslashes": ("metadata.csv", csv_text(backslashes())),
    "csv with ./": ("metadata.csv", csv_text([f"./{name}" for name in paths()])),
    "csv with .\\": ("metadata.csv", csv_text([f".\\{name}" for name in backslashes()])),
    "csv with doubled slashes": ("metadata.csv", csv_text([name.replace("/", "//") for name in paths()])),
    "csv with decomposed accents": ("metadata.csv", unicodedata.normalize("NFD", csv_text())),
    "csv in capitals": ("metadata.csv", csv_text([name.upper() for name in paths()])),
    "csv with capitals in its name": ("Metadata.CSV", csv_text()),
    "jsonl": ("metadata.jsonl", jsonl()),
    "jsonl with strings": ("metadata.jsonl", jsonl(ids=list(map(str, patients())))),
    "jsonl with floats": ("metadata.jsonl", jsonl(ids=list(map(float, patients())))),
    "jsonl with all of them": (
        "metadata.jsonl",
        jsonl(ids=[(str, int, float)[n // 6 % 3](group) for n, group in enumerate(patients())]),
    ),
    "jsonl with CRLF": ("metadata.jsonl", jsonl().replace("\n", "\r\n")),
    "jsonl with backslashes": ("metadata.jsonl", jsonl(backslashes())),
    "parquet": ("metadata.parquet", parquet(patients())),
    "parquet with floats": ("metadata.parquet", parquet(pa.array(patients(), pa.float32()))),
    "parquet with categories": ("metadata.parquet", parquet(pa.array(map(str, patients())).dictionary_encode())),
    "parquet with large strings": ("metadata.parquet", parquet(pa.array(map(str, patients()), pa.large_string()))),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_the_table_gives_the_same_groups(way, open_folder):
    source, items = open_folder({**dict.fromkeys(paths(), b"x"), WAYS[way][0]: WAYS[way][1]})
    assert groups(items) == dict(zip(paths(), map(str, patients()), strict=True))
    assert source.groups_from == f"group_id of {WAYS[way][0]}"


def test_decomposed_names_on_disk_are_those_of_a_composed_table(open_folder):
    _, items = open_folder(
        {unicodedata.normalize("NFD", path): b"x" for path in paths()} | {"metadata.csv": csv_text()}
    )
    assert sorted(groups(items).values()) == sorted(map(str, patients()))


def test_a_table_in_each_folder_gives_its_groups(open_folder):
    files = dict.fromkeys(["train/BA/1.png", "train/BA/2.png", "test/BA/1.png"], b"x")
    tables = {
        "train/metadata.jsonl": '{"file_name": "BA/1.png", "group_id": 3}\n{"file_name": "BA/2.png", "group_id": 4}\n',
        "test/metadata.csv": "file_name,group_id\nBA/1.png,3.0\n",
    }
    _, items = open_folder(files | tables)
    assert groups(items) == {"train/BA/1.png": "3", "train/BA/2.png": "4", "test/BA/1.png": "3"}


NO_GROUP = [
    "", "  ", "NA", "na", "N/A", "n.a.", "nan", "NaN", "null", "NULL", "None", "<NA>", "#N/A", "unknown", "-", "--",
    "?", ".", "Not available", "unknown patient", "N.N.", "-1", "unbekannt",
]  # fmt: skip


@pytest.mark.parametrize("value", [*NO_GROUP, None, float("nan")])
def test_a_value_like_na_is_no_group(value):
    assert group_name("" if value is None else value) == group_name(value) == ""


@pytest.mark.parametrize("value", ["0", "Nadia", "NA12878", "unknown 1", "p-1", "Ä", "none-of-3"])
def test_a_name_is_a_group(value):
    assert group_name(value) == value


def test_unknown_patients_are_no_group_and_counted(open_folder):
    table = csv_text(ids=["p1", "p2"] * 9 + [NO_GROUP[n % len(NO_GROUP)] for n in range(18)])
    source, items = open_folder({**dict.fromkeys(paths(), b"x"), "metadata.csv": table})
    names = list(groups(items).values())
    assert (names.count("p1"), names.count("p2"), names.count(None)) == (9, 9, 18)
    assert any("18 of 36 rows have no group_id" in note for note in source.notes)
    assert any("18 of 36 images have no group" in note for note in source.notes)


def test_null_in_jsonl_and_parquet_is_no_group(open_folder):
    _, items = open_folder(dict.fromkeys(paths(), b"x") | {"metadata.parquet": parquet([1, None, float("nan")] * 12)})
    assert list(groups(items).values()).count(None) == 24


FILES = dict.fromkeys([f"BA/{number}.png" for number in range(8)], b"x")


def refusal(open_folder, files):
    with pytest.raises(CelluScanError) as error:
        open_folder(files)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "prefix", ["", "/data/cells/BA/", "C:\\cells\\BA\\", "cells/BA/", "../BA/", "BA/0"], ids=lambda text: text or "none"
)
def test_a_table_that_fits_no_file_stops_with_three_of_each_side(prefix, open_folder):
    table = "file_name,group_id\n" + "".join(f"{prefix}{number}.png,p{number}\n" for number in range(8))
    message = refusal(open_folder, {**FILES, "metadata.csv": table})
    assert "8 of 8 rows of metadata.csv match no file" in message
    assert all(repr(f"{prefix}{number}.png") in message for number in range(3))
    assert all(f"'BA/{number}.png'" in message for number in range(3))
    assert "'BA/3.png'" not in message


def test_half_of_the_rows_may_be_missing_and_are_listed(open_folder):
    table = "file_name\n" + "".join(f"BA/{number}.png\n" for number in range(4, 12))
    _, items = open_folder({**FILES, "metadata.csv": table})
    assert {item.path: (item.reason, item.detail) for item in items if isinstance(item, Dropped)} == {
        f"imagefolder/BA/{number}.png": ("missing_file", "named in metadata.csv") for number in range(8, 12)
    }


def test_groups_for_less_than_half_of_the_images_stop(open_folder):
    table = "file_name,group_id\nBA/0.png,p0\nBA/1.png,p1\nBA/2.png,p2\n"
    message = refusal(open_folder, {**FILES, "metadata.csv": table})
    assert "5 of 8 images have no row in metadata.csv" in message
    assert "'BA/3.png', 'BA/4.png', 'BA/5.png'" in message and "'BA/0.png', 'BA/1.png', 'BA/2.png'" in message


def test_rows_for_hidden_files_count_nowhere(open_folder):
    names = [f"BA/{prefix}{number}.png" for prefix in ("", "._", ".git/") for number in range(8)]
    table = "file_name,group_id\n" + "".join(f"{name},p\n" for name in names)
    _, items = open_folder({**FILES, "BA/._0.png": b"x", "metadata.csv": table})
    assert groups(items) == dict.fromkeys(FILES, "p")
    assert not any(isinstance(item, Dropped) for item in items)


def test_labels_for_a_few_images_are_enough(open_folder):
    _, items = open_folder({**FILES, "metadata.csv": "file_name,label\nBA/0.png,EO\n"})
    assert [item.label for item in items].count("Eosinophil") == 1


def test_files_that_are_no_images_need_no_row(open_folder):
    notes = {f"BA/{number}.xml": b"x" for number in range(30)}
    table = "file_name,group_id\n" + "".join(f"BA/{number}.png,p\n" for number in range(8))
    _, items = open_folder({**FILES, **notes, "metadata.csv": table})
    assert list(groups(items).values()).count("p") == 8


def test_files_that_differ_in_case_alone_are_told_apart(open_folder):
    table = "file_name,group_id\nBA/a.png,1\nBA/A.png,2\n"
    _, items = open_folder({"BA/a.png": b"x", "BA/A.png": b"y", "metadata.csv": table})
    assert groups(items) == {"BA/A.png": "2", "BA/a.png": "1"}


def test_case_that_could_mean_two_files_is_not_guessed(open_folder):
    table = "file_name,group_id\nBA/A.PNG,1\nBA/0.png,2\nBA/1.png,2\n"
    files = {"BA/a.png": b"x", "BA/A.png": b"y", "BA/0.png": b"z", "BA/1.png": b"v"}
    _, items = open_folder({**files, "metadata.csv": table})
    assert [item.path for item in items if isinstance(item, Dropped)] == ["imagefolder/BA/A.PNG"]


def test_a_row_that_could_mean_two_files_is_refused(open_folder):
    names = [unicodedata.normalize(kind, "BA/é.png") for kind in ("NFC", "NFD")]
    files = {**dict.fromkeys(names, b"x"), "metadata.csv": "file_name,group_id\nBA\\é.png,1\n"}
    assert "could be" in refusal(open_folder, files)


def test_two_rows_for_one_file_are_refused(open_folder):
    table = "file_name,group_id\nBA/0.png,1\nBA\\0.png,2\n"
    assert "twice" in refusal(open_folder, {**FILES, "metadata.csv": table})


def test_tables_that_disagree_are_refused_and_copies_are_not(open_folder):
    table = "file_name,group_id\n" + "".join(f"BA/{number}.png,{number}\n" for number in range(8))
    same = "".join(json.dumps({"file_name": f"BA/{number}.png", "group_id": number}) + "\n" for number in range(8))
    _, items = open_folder({**FILES, "metadata.csv": table, "metadata.jsonl": same})
    assert len(set(groups(items).values())) == 8
    other = same.replace('"group_id": 7', '"group_id": 8')
    assert "disagree on BA/7.png" in refusal(open_folder, {"metadata.jsonl": other})


@pytest.mark.parametrize("sign", [";", "\t", "|"])
def test_other_separators_are_refused_by_name(sign, open_folder):
    message = refusal(open_folder, {**FILES, "metadata.csv": f"file_name{sign}group_id\nBA/1.png{sign}1\n"})
    assert "expected file_name" in message and "separated by commas, not by" in message


@pytest.mark.parametrize(
    "name", ["metadata.tsv", "metadata.xlsx", "metadata.json", "metadata.csv.gz", "x/metadata.ods"]
)
def test_a_table_in_a_form_that_is_not_read_stops(name, open_folder):
    assert f"{name} is not read; save it as metadata.csv" in refusal(open_folder, {**FILES, name: b"x"})


def test_other_tables_are_named_in_a_note(open_folder):
    source, _ = open_folder({**FILES, "patients.csv": "file_name,group_id\nBA/0.png,1\n"})
    assert any("'patients.csv'" in note for note in source.notes)


def test_columns_that_are_not_used_are_named_in_a_note(open_folder):
    source, _ = open_folder({**FILES, "metadata.csv": "file_name,patient_id\nBA/0.png,1\n"})
    assert any("patient_id" in note and "group_id" in note for note in source.notes)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("metadata.jsonl", '[{"file_name": "BA/0.png"}]', "holds no JSON object in line 1"),
        ("metadata.jsonl", '{"file_name": "BA/0.png"}\n{"file', "holds no JSON object in line 2"),
        ("metadata.jsonl", "[" * 200_000, "holds no JSON object in line 1"),
        ("metadata.jsonl", '{"group_id": 1}\n', "expected file_name"),
        ("metadata.jsonl", b"\xff\xfe{", "is not UTF-8"),
        ("metadata.parquet", b"PAR1 not really", "is damaged"),
        ("metadata.parquet", b"", "is damaged"),
        ("metadata.csv", 'file_name,group_id\n"BA/0.png,1\n', "is damaged"),
        ("metadata.csv", "file_name,group_id\nBA/0,5.png,1\n", "more fields than columns in line 2"),
        ("metadata.csv", "file_name,group_id, group_id\nBA/0.png,1,2\n", "two columns group_id"),
        ("metadata.csv", "a_file_name,b_file_name\nBA/0.png,1\n", "a_file_name, b_file_name"),
        ("metadata.csv", "file_name,group_id\n,1\n", "no file_name in line 2"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(name, data, message, open_folder):
    assert message in refusal(open_folder, {**FILES, name: data})


def test_a_table_that_cannot_be_opened_is_refused(tmp_path, write_files):
    folder = write_files(tmp_path / "data", FILES)
    (folder / "metadata.csv").symlink_to(tmp_path / "gone.csv")
    with pytest.raises(CelluScanError, match=r"metadata\.csv cannot be read: broken_link"):
        list(open_source(f"imagefolder={folder}", tmp_path, seed=0).records())


def test_labels_for_less_than_half_of_the_images_stop_if_no_folder_has_the_others(open_folder):
    files = {f"{number}.png": b"x" for number in range(10)}
    table = "file_name,label\n0.png,Basophil\n1.png,Monocyte\n"
    with pytest.raises(CelluScanError, match=r"8 of 10 images have no row in metadata\.csv"):
        open_folder(files | {"metadata.csv": table.encode()})
