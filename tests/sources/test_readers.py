"""Every reader on a tiny tree laid out as its dataset is published, and on the real cells at hand."""

import pickle
import shutil
from collections import Counter
from dataclasses import replace

import pytest

from celluscan_hf import taxonomy
from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import READERS, Dropped, Record, open_source


class Reason(str):
    """The reason for which a file is dropped, as distinct from the text of a file."""


NO_CLASS = object()
MASK, FIELD_OF_VIEW, UNSIGNED = Reason("segmentation_mask"), Reason("whole_field"), Reason("unsigned")


def voc(*boxes, size=(640, 480)):
    """VOC boxes of a field: (name, left, top, right, bottom) each."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
        f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom in boxes
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


RBC, WBC, PLATELET = ("RBC", 10, 10, 110, 110), ("WBC", 200, 150, 400, 300), ("Platelets", 500, 400, 530, 425)

JHU_NO_CLASS = (
    "Arifact", "Artifact", "Lymphocyte, variant", "Plasma cells", "Prolymphocyte", "Promonocyte", "Smudge cells",
    "Thrombocyte aggregation", "Unidentified", "Young Unidentified",
)  # fmt: skip

# Files by path; what each becomes: (label, source label), or (NO_CLASS, code), or the reason for which it is dropped.
LAYOUTS = {
    "pbc": {
        "basophil/BA_1.jpg": ("Basophil", "BA"),
        "eosinophil/EO_2.jpg": ("Eosinophil", "EO"),
        "erythroblast/ERB_3.jpg": ("Erythroblast", "ERB"),
        "ig/IG_4.jpg": ("Immature Granulocyte", "IG"),
        "ig/PMY_5.jpg": ("Promyelocyte", "PMY"),
        "ig/MY_6.jpg": ("Myelocyte", "MY"),
        "ig/MMY_7.jpg": ("Metamyelocyte", "MMY"),
        "lymphocyte/LY_8.jpg": ("Lymphocyte", "LY"),
        "monocyte/MO_9.jpg": ("Monocyte", "MO"),
        "neutrophil/BNE_10.jpg": ("Band Neutrophil", "BNE"),
        "neutrophil/SNE_11.jpg": ("Segmented Neutrophil", "SNE"),
        "neutrophil/NEUTROPHIL_12.jpg": ("Neutrophil", "NEUTROPHIL"),
        "neutrophil/.DS_169665.jpg": (None, ".DS"),
        "platelet/PLATELET_13.jpg": ("Platelet", "PLATELET"),
        "platelet/XYZ_14.jpg": (None, "XYZ"),
    },
    "aml_lmu": {
        "NGS/NGS_0001.tiff": ("Segmented Neutrophil", "NGS"),
        "NGB/NGB_0001.tiff": ("Band Neutrophil", "NGB"),
        "EOS/EOS_0001.tiff": ("Eosinophil", "EOS"),
        "BAS/BAS_0001.tiff": ("Basophil", "BAS"),
        "MON/MON_0001.tiff": ("Monocyte", "MON"),
        "LYT/LYT_0001.tiff": ("Lymphocyte", "LYT"),
        "MYO/MYO_0001.tiff": ("Myeloblast", "MYO"),
        "PMO/PMO_0001.tiff": ("Promyelocyte", "PMO"),
        "MYB/MYB_0001.tiff": ("Myelocyte", "MYB"),
        "MMZ/MMZ_0001.tiff": ("Metamyelocyte", "MMZ"),
        "EBO/EBO_0001.tiff": ("Erythroblast", "EBO"),
        "KSC/KSC_0001.tiff": (NO_CLASS, "KSC"),
        "LYA/LYA_0001.tiff": (NO_CLASS, "LYA"),
        "MOB/MOB_0001.tiff": (NO_CLASS, "MOB"),
        "PMB/PMB_0001.tiff": (NO_CLASS, "PMB"),
        "NEW/NEW_0001.tiff": (None, "NEW"),
    },
    "bone_marrow": {
        "BAS/0001-1000/BAS_00001.jpg": ("Basophil", "BAS"),
        "EBO/0001-1000/EBO_00001.jpg": ("Erythroblast", "EBO"),
        "EOS/0001-1000/EOS_00001.jpg": ("Eosinophil", "EOS"),
        "LYT/25001-26000/LYT_25001.jpg": ("Lymphocyte", "LYT"),
        "MMZ/0001-1000/MMZ_00001.jpg": ("Metamyelocyte", "MMZ"),
        "MON/0001-1000/MON_00001.jpg": ("Monocyte", "MON"),
        "MYB/0001-1000/MYB_00001.jpg": ("Myelocyte", "MYB"),
        "NGB/0001-1000/NGB_00001.jpg": ("Band Neutrophil", "NGB"),
        "NGS/0001-1000/NGS_00001.jpg": ("Segmented Neutrophil", "NGS"),
        "PMO/0001-1000/PMO_00001.jpg": ("Promyelocyte", "PMO"),
        **{
            f"{code}/0001-1000/{code}_00001.jpg": (NO_CLASS, code)
            for code in ("ABE", "ART", "BLA", "FGC", "HAC", "KSC", "LYI", "NIF", "OTH", "PEB", "PLM")
        },
        "NEW/0001-1000/NEW_00001.jpg": (None, "NEW"),
    },
    "mll23": {
        "basophil/1.tif": ("Basophil", "basophil"),
        "eosinophil/1.tif": ("Eosinophil", "eosinophil"),
        "lymphocyte/1.tif": ("Lymphocyte", "lymphocyte"),
        "metamyelocyte/1.tif": ("Metamyelocyte", "metamyelocyte"),
        "monocyte/1.tif": ("Monocyte", "monocyte"),
        "myeloblast/1.tif": ("Myeloblast", "myeloblast"),
        "myelocyte/1.tif": ("Myelocyte", "myelocyte"),
        "neutrophil_band/1.tif": ("Band Neutrophil", "neutrophil_band"),
        "neutrophil_segmented/1.tif": ("Segmented Neutrophil", "neutrophil_segmented"),
        "normoblast/1.tif": ("Erythroblast", "normoblast"),
        "promyelocyte/1.tif": ("Promyelocyte", "promyelocyte"),
        "Smudge cell/1.tif": (NO_CLASS, "smudge_cell"),
        "hairy_cell/1.tif": (NO_CLASS, "hairy_cell"),
        "lymphocyte_large_granular/1.tif": (NO_CLASS, "lymphocyte_large_granular"),
        "lymphocyte_neoplastic/1.tif": (NO_CLASS, "lymphocyte_neoplastic"),
        "lymphocyte_reactive/1.tif": (NO_CLASS, "lymphocyte_reactive"),
        "plasma_cell/1.tif": (NO_CLASS, "plasma_cell"),
        "promyelocyte_atypical/1.tif": (NO_CLASS, "promyelocyte_atypical"),
        "new/1.tif": (None, "new"),
    },
    "raabin": {
        "Train/Basophil/20190531_112511_0.jpg": ("Basophil", "Basophil"),
        "Train/Eosinophil/95-8-5-1_176_1.jpg": ("Eosinophil", "Eosinophil"),
        "Train/Lymphocyte/95-8-5-1_177_1.jpg": ("Lymphocyte", "Lymphocyte"),
        "TestA/Monocyte/95-8-5-2_12_3.jpg": ("Monocyte", "Monocyte"),
        "TestB/Neutrophil/96-1-1-1_1_1.jpg": ("Neutrophil", "Neutrophil"),
        "Train/Burst/96-1-1-1_1_1.jpg": (None, "Burst"),
    },
    "bccd": {
        "JPEGImages/BloodImage_00000.jpg": None,
        "JPEGImages/BloodImage_00000.jpg#00": (NO_CLASS, "RBC"),
        "JPEGImages/BloodImage_00000.jpg#01": ("Neutrophil", "WBC"),
        "JPEGImages/BloodImage_00000.jpg#02": ("Platelet", "Platelets"),
        "Annotations/BloodImage_00000.xml": voc(RBC, WBC, PLATELET),
        "labels.csv": ",Image,Category\n,0,NEUTROPHIL\n",
        "README.md": (None, "README.md"),
    },
    "bccd_augmented": {
        "images/TRAIN/EOSINOPHIL/_0_207.jpeg": ("Eosinophil", "EOSINOPHIL"),
        "images/TRAIN/LYMPHOCYTE/_1_3.jpeg": ("Lymphocyte", "LYMPHOCYTE"),
        "images/TEST/MONOCYTE/_2_77.jpeg": ("Monocyte", "MONOCYTE"),
        "images/TEST_SIMPLE/NEUTROPHIL/_3_1.jpeg": ("Neutrophil", "NEUTROPHIL"),
        "images/TRAIN/BASOPHIL/_4_1.jpeg": (None, "BASOPHIL"),
    },
    "segmentation_wbc": {
        "Dataset 1/001.bmp": ("Neutrophil", "1"),
        "Dataset 1/002.bmp": ("Lymphocyte", "2"),
        "Dataset 1/003.bmp": ("Monocyte", "3"),
        "Dataset 1/004.bmp": ("Eosinophil", "4"),
        "Dataset 2/001.bmp": ("Basophil", "5"),
        "Dataset 2/002.bmp": (None, "6"),
        "Dataset 2/003.bmp": (None, "missing in Dataset 2"),
        "Dataset 1/001.png": MASK,
        "Class Labels of Dataset 1.csv": "image ID,class label\n1,1\n2,2\n3,3\n4,4\n",
        "Class Labels of Dataset 2.csv": "image ID,class label\n1,5\n2,6\n",
    },
    "lisc": {
        "Baso/1.bmp": ("Basophil", "baso"),
        "eosi/1.bmp": ("Eosinophil", "eosi"),
        "lymp/1.bmp": ("Lymphocyte", "lymp"),
        "mono/1.bmp": ("Monocyte", "mono"),
        "neut/1.bmp": ("Neutrophil", "neut"),
        "mixt/1.bmp": (NO_CLASS, "mixt"),
        "other/1.bmp": (None, "other"),
    },
    "bcisc": {
        "sub-images/images/baso_1-1_0.jpg": ("Basophil", "baso"),
        "sub-images/images/eosi_10-3_1.jpg": ("Eosinophil", "eosi"),
        "sub-images/images/lymp_2-4_0.jpg": ("Lymphocyte", "lymp"),
        "sub-images/images/mono_9-5_0.jpg": ("Monocyte", "mono"),
        "sub-images/images/neut_7-2_5.jpg": ("Neutrophil", "neut"),
        "sub-images/images/plat_7-2_5.jpg": (None, "plat"),
        "sub-images/masks/baso_1-1_0.png": MASK,
        "original-images/baso/1-1.jpg": FIELD_OF_VIEW,
        "original-images/baso/10-5(1).png": MASK,
        "README.md": (None, ""),
    },
    "apl_jhu": {
        "Patient_00/Signed slides/Band neutrophils/1.jpg": ("Band Neutrophil", "Band neutrophils"),
        "Patient_00/Signed slides/Basophil/1.jpg": ("Basophil", "Basophil"),
        "Patient_00/Signed slides/Blast, no lineage spec/1.jpg": ("Myeloblast", "Blast, no lineage spec"),
        "Patient_00/Signed slides/Eosinophils/1.jpg": ("Eosinophil", "Eosinophils"),
        "Patient_00/Signed slides/Erythroblast/1.jpg": ("Erythroblast", "Erythroblast"),
        "Patient_00/Signed slides/Giant thrombocyte/1.jpg": ("Platelet", "Giant thrombocyte"),
        "Patient_00/Signed slides/Lymphocyte/1.jpg": ("Lymphocyte", "Lymphocyte"),
        "Patient_01/Signed slides/Metamyelocyte/1.jpg": ("Metamyelocyte", "Metamyelocyte"),
        "Patient_01/Signed slides/Monocyte/1.jpg": ("Monocyte", "Monocyte"),
        "Patient_01/Signed slides/Myelocyte/1.jpg": ("Myelocyte", "Myelocyte"),
        "Patient_01/Signed slides/Promyelocyte/1.jpg": ("Promyelocyte", "Promyelocyte"),
        "Patient_01/Signed slides/Segmented neutrophils/1.jpg": ("Segmented Neutrophil", "Segmented neutrophils"),
        **{f"Patient_01/Signed slides/{code}/1.jpg": (NO_CLASS, code) for code in JHU_NO_CLASS},
        "Patient_01/Signed slides/New/1.jpg": (None, "New"),
        "Patient_01/Signed slides/1.jpg": (None, ""),
        "Patient_01/Unsigned slides/1.jpg": UNSIGNED,
        "master.csv": "Patient_ID,Diagnosis\nPatient_00,APL\nPatient_01,AML\n",
    },
}
LISC_DOWNLOAD = {
    "Main Dataset/Baso/1.bmp": b"cell",
    "Main Dataset/mixt/2.bmp": b"cells",
    "Ground Truth Segmentation/Baso/areaforexpert1/1_expert.bmp": b"mask",
    "Ground Truth Segmentation/Baso/areaforexpert2/1_expert.bmp": b"mask",
}
BY_KEY = pytest.mark.parametrize("key", LAYOUTS)


def files_of(key):
    """The files of a layout; those that are no text hold their own path."""
    paths = {path: content for path, content in LAYOUTS[key].items() if "#" not in path}
    return {path: content if type(content) is str else path for path, content in paths.items()}


def expected_of(key):
    outcomes = {path: outcome for path, outcome in LAYOUTS[key].items() if isinstance(outcome, tuple)}
    records = {f"{key}/{path}": outcome for path, outcome in outcomes.items() if outcome[0] is not NO_CLASS}
    dropped = {f"{key}/{path}": f"no_class:{code}" for path, (label, code) in outcomes.items() if label is NO_CLASS}
    others = {f"{key}/{path}": outcome for path, outcome in LAYOUTS[key].items() if isinstance(outcome, Reason)}
    return records, dropped | others


def split(items):
    """Records and dropped files by their image id."""
    items = list(items)
    records = {item.image_id: item for item in items if isinstance(item, Record)}
    dropped = {item.path: item for item in items if isinstance(item, Dropped)}
    assert len(records) + len(dropped) == len(items)
    return records, dropped


@pytest.fixture
def lay_out(tmp_path, write_files):
    """The source of `key` over files written to a folder."""

    def open_folder(key, files):
        return open_source(f"{key}={write_files(tmp_path / 'data', files)}", tmp_path / "scratch", seed=0)

    return open_folder


@pytest.fixture
def published(lay_out):
    """The source of `key` over its layout."""
    return lambda key: lay_out(key, files_of(key))


def test_every_reader_has_a_layout_here():
    assert set(LAYOUTS) == set(READERS) - {"imagefolder"}


@BY_KEY
def test_every_file_of_the_published_layout_becomes_its_label_or_is_dropped_with_a_reason(key, published):
    records, dropped = split(published(key).records())
    expected_records, expected_dropped = expected_of(key)
    assert {name: (record.label, record.source_label) for name, record in records.items()} == expected_records
    assert {path: item.reason for path, item in dropped.items()} == expected_dropped
    assert all(item.detail for item in dropped.values())
    assert {record.augmented for record in records.values()} == {key == "bccd_augmented"}
    if READERS[key].groups_from == "":  # no patients are published: each image is its own group
        assert all(record.group == record.image_id and record.box is None for record in records.values())


@BY_KEY
def test_bytes_of_each_record_are_those_of_its_file_in_another_process_too(key, published):
    source = published(key)
    records, _ = split(source.records())
    expected = [name.partition("/")[2].partition("#")[0].encode() for name in records]
    assert [source.read(record) for record in records.values()] == expected
    again = pickle.loads(pickle.dumps(source))
    assert [again.read(record) for record in records.values()] == expected


@BY_KEY
@pytest.mark.parametrize("packing", ["folder", "zip", "gztar"])
def test_order_wrapping_and_packing_change_no_record(key, packing, tmp_path, write_files, published):
    plain = list(published(key).records())
    files = {f"as downloaded/{path}": data for path, data in reversed(files_of(key).items())}
    wrapped = write_files(tmp_path / "outer", files)
    if packing != "folder":
        wrapped = tmp_path / shutil.make_archive(str(tmp_path / "packed"), packing, wrapped)
    packed = list(open_source(f"{key}={wrapped}", tmp_path / "scratch", seed=0).records())
    assert [without_member(item) for item in packed] == [without_member(item) for item in plain]


def without_member(item):
    return replace(item, member="") if isinstance(item, Record) else item


@BY_KEY
def test_a_source_in_two_parts_is_read_whole(key, tmp_path, write_files):
    parts = {f"{part}/{path}": data for part in ("part1", "part2") for path, data in files_of(key).items()}
    source = open_source(f"{key}={write_files(tmp_path / 'outer', parts)}", tmp_path / "scratch", seed=0)
    items = list(source.records())
    names = [item.image_id if isinstance(item, Record) else item.path for item in items]
    assert len(set(names)) == len(names)
    assert {name.split("/")[1] for name in names} == {"part1", "part2"}
    assert all(source.read(item) for item in items if isinstance(item, Record))


@BY_KEY
def test_each_reader_states_its_decisions_licence_and_origin(key):
    for decision in READERS[key].decisions.values():
        assert decision.label is None or decision.label in taxonomy.NAMES
        assert decision.reason.strip()
    info = READERS[key].info
    assert all([info.title, info.license, info.citation, info.url.startswith("http")])


@BY_KEY
@pytest.mark.parametrize(("files", "message"), [({"holiday/beach.jpg": b"x"}, "unknown layout"), ({}, "no files")])
def test_another_layout_is_an_error_of_one_line(key, files, message, lay_out):
    with pytest.raises(CelluScanError, match=f"source {key}: .*{message}.*expected") as error:
        list(lay_out(key, files).records())
    assert "\n" not in str(error.value)
    assert READERS[key].landmarks[0] in str(error.value)


@BY_KEY
def test_broken_link_is_dropped_with_its_problem(key, lay_out, tmp_path):
    source = lay_out(key, files_of(key))
    folder = next(path for path in (tmp_path / "data").iterdir() if path.is_dir())
    (folder / "gone.jpg").symlink_to("absent")
    _, dropped = split(source.records())
    assert dropped[f"{key}/{folder.name}/gone.jpg"].reason == "broken_link"


@pytest.mark.parametrize(
    ("key", "total"),
    [
        ("pbc", 17_092),
        ("aml_lmu", 18_365),
        ("bone_marrow", 171_375),
        ("mll23", 41_621),
        ("raabin", 14_514),
        ("bccd", 4155 + 372 + 361),
        ("bccd_augmented", 12_444),
        ("segmentation_wbc", 400),
        ("bcisc", 268),
        ("apl_jhu", 25_915),
    ],
)
def test_published_counts_have_the_published_total(key, total):
    counts = dict(READERS[key].info.published)
    assert counts.pop("total", sum(counts.values())) == total
    assert sum(counts.values()) <= total


@pytest.mark.parametrize("key", ["pbc", "aml_lmu", "bccd_augmented", "bcisc"])
def test_published_counts_are_by_labels_that_have_a_decision(key):
    assert set(READERS[key].info.published) <= set(READERS[key].decisions)


@pytest.mark.parametrize("folder", ["NGS/sub", "MYO/2019/a"])
def test_aml_label_is_the_first_folder(folder, lay_out):
    records, _ = split(lay_out("aml_lmu", {f"{folder}/1.tiff": b"x"}).records())
    assert [record.source_label for record in records.values()] == [folder.split("/")[0]]


def groups(source):
    return {record.image_id.partition("/")[2]: record.group for record in source.records()}


def test_raabin_smear_is_one_group_across_its_parts(lay_out):
    names = [
        "Train/Eosinophil/95-8-5-1_176_1.jpg",
        "TestA/Monocyte/95-8-5-1_2_1.jpg",
        "TestB/Neutrophil/95-8-5-1_9_4.jpg",
    ]
    group_of = groups(lay_out("raabin", dict.fromkeys(names, b"x")))
    assert [group_of[name] for name in names] == ["raabin/95-8-5-1"] * 3


def test_raabin_other_smears_are_other_groups(lay_out):
    names = ["95-8-5-1_1_1.jpg", "95-8-5-2_1_1.jpg", "95-8-5-11_1_1.jpg", "95-8-5_1_1.jpg"]
    assert len(set(groups(lay_out("raabin", {f"Train/Basophil/{name}": b"x" for name in names})).values())) == 4


def test_raabin_day_is_the_group_of_files_named_by_time(lay_out):
    names = ["Train/Basophil/20190531_112511_0.jpg", "TestA/Basophil/20190531_113000_1.jpg"]
    other = "Train/Basophil/20190601_112511_0.jpg"
    group_of = groups(lay_out("raabin", dict.fromkeys([*names, other], b"x")))
    assert [group_of[name] for name in names] == ["raabin/20190531"] * 2
    assert group_of[other] == "raabin/20190601"


def test_raabin_file_of_another_name_is_its_own_group(lay_out):
    group_of = groups(lay_out("raabin", {"Train/Basophil/cell.jpg": b"x", "Train/Basophil/cell (2).jpg": b"y"}))
    assert group_of == {path: f"raabin/{path}" for path in group_of}


def test_bccd_augmented_copies_of_one_cell_share_a_group(lay_out):
    names = ["images/TRAIN/EOSINOPHIL/_7_1.jpeg", "images/TRAIN/EOSINOPHIL/_7_2999.jpeg"]
    assert len(set(groups(lay_out("bccd_augmented", dict.fromkeys(names, b"x"))).values())) == 1


@pytest.mark.parametrize(
    "other",
    ["images/TEST/EOSINOPHIL/_7_1.jpeg", "images/TRAIN/MONOCYTE/_7_1.jpeg", "images/TRAIN/EOSINOPHIL/_77_1.jpeg"],
    ids=["part", "class", "index"],
)
def test_bccd_augmented_index_of_another_part_or_class_is_another_group(other, lay_out):
    group_of = groups(lay_out("bccd_augmented", {"images/TRAIN/EOSINOPHIL/_7_1.jpeg": b"x", other: b"y"}))
    assert len(set(group_of.values())) == 2


def test_bccd_augmented_comes_from_bccd():
    assert READERS["bccd_augmented"].info.derived_from == "bccd"


def test_segmentation_wbc_without_a_table_knows_no_label(lay_out):
    records, _ = split(lay_out("segmentation_wbc", {"Dataset 1/001.bmp": b"x"}).records())
    [record] = records.values()
    assert (record.label, record.source_label) == (None, "missing in Dataset 1")


def test_segmentation_wbc_number_counts_within_its_own_part(lay_out):
    files = {
        "Dataset 1/001.bmp": b"x",
        "Dataset 2/001.bmp": b"y",
        "Class Labels of Dataset 1.csv": "\ufeffimage ID,class label\n001, 4\n",
        "Class Labels of Dataset 2.csv": "image ID,class label\n1,3\n",
    }
    records, _ = split(lay_out("segmentation_wbc", files).records())
    assert [record.label for record in records.values()] == ["Eosinophil", "Monocyte"]


def test_lisc_full_download_gives_the_ids_of_its_class_folders(lay_out):
    records, _ = split(lay_out("lisc", LISC_DOWNLOAD).records())
    assert {image_id: record.label for image_id, record in records.items()} == {"lisc/Baso/1.bmp": "Basophil"}


def test_lisc_masks_and_mixed_fields_are_dropped(lay_out):
    _, dropped = split(lay_out("lisc", LISC_DOWNLOAD).records())
    assert Counter(item.reason for item in dropped.values()) == {"segmentation_mask": 2, "no_class:mixt": 1}


def test_bone_marrow_without_folders_of_ranges(lay_out):
    files = ["NGS/NGS_1.jpg", "LYT/LYT_25001.jpg", "BLA/BLA_2.jpg"]
    records, dropped = split(lay_out("bone_marrow", dict.fromkeys(files, b"x")).records())
    assert {image_id: record.label for image_id, record in records.items()} == {
        "bone_marrow/LYT/LYT_25001.jpg": "Lymphocyte",
        "bone_marrow/NGS/NGS_1.jpg": "Segmented Neutrophil",
    }
    assert {path: item.reason for path, item in dropped.items()} == {"bone_marrow/BLA/BLA_2.jpg": "no_class:BLA"}


BCISC_FILES = [
    "BCISC-master/sub-images/images/baso_1-1_0.jpg",
    "BCISC-master/sub-images/images/baso_1-1_1.jpg",
    "BCISC-master/sub-images/images/baso_1-2_0.jpg",
    "BCISC-master/sub-images/images/eosi_1-1_0.jpg",
    "BCISC-master/sub-images/masks/baso_1-1_0.png",
]


@pytest.mark.parametrize("given", ["", "BCISC-master", "BCISC-master/sub-images", "BCISC-master/sub-images/images"])
@pytest.mark.parametrize("packing", ["folder", "zip"])
def test_bcisc_from_each_level_of_its_folders(given, packing, tmp_path, write_files):
    location = write_files(tmp_path / "data", dict.fromkeys(BCISC_FILES, b"x")) / given
    if packing == "zip":
        location = tmp_path / shutil.make_archive(str(tmp_path / "packed"), "zip", location)
    records, dropped = split(open_source(f"bcisc={location}", tmp_path / "scratch", seed=0).records())
    assert [(record.label, record.group) for record in records.values()] == [
        ("Basophil", "bcisc/baso_1-1"),
        ("Basophil", "bcisc/baso_1-1"),
        ("Basophil", "bcisc/baso_1-2"),
        ("Eosinophil", "bcisc/eosi_1-1"),
    ]
    masks = 0 if given.endswith("sub-images/images") else 1  # they are in a folder beside
    assert [item.reason for item in dropped.values()] == ["segmentation_mask"] * masks


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (["original-images/baso/1-1.jpg", "original-images/neut/10-5.JPG"], "whole_field"),
        (["baso/1-1.jpg", "eosi/2-1.jpg"], "whole_field"),
        (["sub-images/masks/baso_1-1_0.png", "original-images/baso/6-1(2).png"], "segmentation_mask"),
    ],
    ids=["fields", "fields_at_the_top", "masks"],
)
def test_bcisc_fields_and_masks_are_never_cells(files, reason, lay_out):
    records, dropped = split(lay_out("bcisc", dict.fromkeys(files, b"x")).records())
    assert not records
    assert {item.reason for item in dropped.values()} == {reason}


JHU_FILES = {
    "APL/Patient_07/Signed slides/Monocyte/1.jpg": b"x",
    "APL/Patient_07/Signed slides/Lymphocyte/1.jpg": b"x",
    "APL/Patient_07/Unsigned slides/2.jpg": b"y",
    "APL/master.csv": "Patient_ID\nPatient_07\n",
}


@pytest.mark.parametrize("given", ["", "APL", "APL/Patient_07"])
def test_apl_jhu_patient_is_the_group_from_each_level_of_its_folders(given, tmp_path, write_files):
    location = write_files(tmp_path / "data", JHU_FILES) / given
    records, dropped = split(open_source(f"apl_jhu={location}", tmp_path / "scratch", seed=0).records())
    assert [(record.label, record.group) for record in records.values()] == [
        ("Lymphocyte", "apl_jhu/Patient_07"),
        ("Monocyte", "apl_jhu/Patient_07"),
    ]
    assert [item.reason for item in dropped.values()] == ["unsigned"]


def test_apl_jhu_zip_of_one_patient_is_one_group(tmp_path, write_files):
    folder = write_files(tmp_path / "data", JHU_FILES) / "APL" / "Patient_07"
    packed = shutil.make_archive(str(tmp_path / "Patient_07"), "zip", folder)
    source = open_source(f"apl_jhu={packed}", tmp_path / "scratch", seed=0)
    records, _ = split(source.records())
    assert {record.group for record in records.values()} == {"apl_jhu/Patient_07"}


def test_apl_jhu_patient_of_two_cohorts_is_one_group(lay_out):
    files = [f"{cohort}/Patient_07/Signed slides/Monocyte/{cohort}.jpg" for cohort in ("a", "b")]
    group_of = groups(lay_out("apl_jhu", dict.fromkeys(files, b"x")))
    assert group_of == dict.fromkeys(files, "apl_jhu/Patient_07")


def test_apl_jhu_folder_names_in_other_spelling(lay_out):
    files = {"P1/signed_slides/BLAST, no_lineage spec/1.jpg": b"x", "P1/unsigned_slides/Monocyte/1.jpg": b"y"}
    records, dropped = split(lay_out("apl_jhu", files).records())
    assert [(record.label, record.source_label) for record in records.values()] == [
        ("Myeloblast", "Blast, no lineage spec")
    ]
    assert [item.reason for item in dropped.values()] == ["unsigned"]


@pytest.mark.parametrize(("key", "microns"), [("aml_lmu", 0.0725), ("mll23", 0.0868), ("pbc", 0.1), ("raabin", None)])
def test_microns_per_pixel(key, microns):
    assert READERS[key].info.microns_per_pixel == (pytest.approx(microns, rel=1e-3) if microns else None)


def bccd_files(*boxes, types="NEUTROPHIL", size=(640, 480)):
    return {
        "JPEGImages/BloodImage_00012.jpg": b"field",
        "Annotations/BloodImage_00012.xml": voc(*boxes, size=size),
        "labels.csv": f',Image,Category\n,1,MONOCYTE\n,12,"{types}"\n',
    }


FIELD = "bccd/JPEGImages/BloodImage_00012.jpg"


@pytest.mark.parametrize(
    ("types", "label"),
    [
        ("EOSINOPHIL", "Eosinophil"),
        ("BASOPHIL", "Basophil"),
        ("NEUTROPHIL, NEUTROPHIL", "Neutrophil"),
    ],
)
def test_bccd_white_cell_takes_the_type_of_its_field(types, label, lay_out):
    records, _ = split(lay_out("bccd", bccd_files(WBC, RBC, types=types)).records())
    assert [record.label for record in records.values()] == [label]


@pytest.mark.parametrize(
    ("boxes", "types"),
    [
        ([WBC], "NEUTROPHIL, EOSINOPHIL"),
        ([WBC, WBC], "NEUTROPHIL, EOSINOPHIL"),
        ([WBC], ""),
    ],
    ids=["several_types", "both", "no_type"],
)
def test_bccd_white_cells_of_an_ambiguous_field_are_dropped(boxes, types, lay_out):
    records, dropped = split(lay_out("bccd", bccd_files(*boxes, PLATELET, types=types)).records())
    assert [item.reason for item in dropped.values()] == ["ambiguous_field"] * len(boxes)
    assert [record.label for record in records.values()] == ["Platelet"]


def test_bccd_every_box_is_accounted_for_in_its_order(lay_out):
    ids = [
        getattr(item, "image_id", None) or item.path
        for item in lay_out("bccd", bccd_files(RBC, WBC, PLATELET, RBC)).records()
    ]
    assert ids == [f"{FIELD}#{number:02d}" for number in range(4)]


def test_bccd_field_is_the_group_of_its_boxes(lay_out):
    records, _ = split(lay_out("bccd", bccd_files(WBC, PLATELET)).records())
    assert {record.group for record in records.values()} == {FIELD}


def test_bccd_box_of_an_unknown_name_is_dropped_under_it(lay_out):
    _, dropped = split(lay_out("bccd", bccd_files(("Parasite", 1, 1, 9, 9))).records())
    assert [item.reason for item in dropped.values()] == ["unknown_label:Parasite"]


@pytest.mark.parametrize(
    "corners",
    [
        (0, 0, 30, 30),
        (610, 450, 640, 480),
        (0, 200, 90, 400),
        (300, 200, 330, 225),
        (1, 1, 640, 480),
        (-5, -5, 900, 700),
    ],
)
def test_bccd_window_is_a_square_within_the_field_around_the_box(corners, lay_out):
    records, _ = split(lay_out("bccd", bccd_files(("Platelets", *corners))).records())
    [(left, top, right, bottom)] = [record.box for record in records.values()]
    assert right - left == bottom - top > 0
    assert 0 <= left < right <= 640 and 0 <= top < bottom <= 480
    if corners[2] - corners[0] < 100 and corners[3] - corners[1] < 100:  # then there is room for the box and a margin
        assert left <= corners[0] and top <= corners[1] and right >= corners[2] and bottom >= corners[3]
        assert right - left > corners[2] - corners[0]


def test_bccd_window_is_centred_away_from_the_border(lay_out):
    records, _ = split(lay_out("bccd", bccd_files(("Platelets", 300, 200, 340, 220))).records())
    [(left, top, right, bottom)] = [record.box for record in records.values()]
    assert ((left + right) / 2, (top + bottom) / 2) == (320, 210)


BOMB = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'
LEAK = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<annotation>",
        "<annotation/>",
        voc(),
        BOMB,
        LEAK,
        voc(WBC, size=("wide", 480)),
        voc(WBC, size=(0, 0)),
        voc(("WBC", 1, 1, "", 9)),
        voc(("WBC", 1, 1, "inf", 9)),
        voc(WBC).replace("bndbox", "polygon"),
        voc(WBC).replace("name", "title"),
        '<?xml version="1.0" encoding="klingon"?>' + voc(WBC),
    ],
    ids=[
        "empty", "cut", "bare", "no_box", "entities", "external_entity", "size_no_number", "size_zero",
        "corner_missing", "corner_infinite", "no_corners", "no_name", "encoding",
    ],
)  # fmt: skip
def test_bccd_field_with_unusable_boxes_is_dropped(xml, lay_out):
    files = bccd_files() | {"Annotations/BloodImage_00012.xml": xml}
    [item] = lay_out("bccd", files).records()
    assert (item.path, item.reason) == (FIELD, "no_annotation")
    assert "\n" not in item.detail


@pytest.mark.parametrize("packing", ["folder", "zip"])
@pytest.mark.parametrize(
    ("missing", "reason"),
    [("Annotations/BloodImage_00012.xml", "no_annotation"), ("labels.csv", "ambiguous_field")],
)
def test_bccd_without_a_describing_file(packing, missing, reason, tmp_path, write_files):
    files = bccd_files(WBC)
    del files[missing]
    location = write_files(tmp_path / "data", files)
    if packing != "folder":
        location = tmp_path / shutil.make_archive(str(tmp_path / "packed"), packing, location)
    [item] = open_source(f"bccd={location}", tmp_path, seed=0).records()
    assert item.reason == reason


def test_bccd_boxes_without_their_field_are_a_missing_file(lay_out):
    _, dropped = split(lay_out("bccd", bccd_files(WBC) | {"Annotations/BloodImage_00099.xml": voc(WBC)}).records())
    assert {path: item.reason for path, item in dropped.items()} == {
        "bccd/Annotations/BloodImage_00099.xml": "missing_file"
    }


def real_items(key, folder, tmp_path):
    return split(open_source(f"{key}={folder}", tmp_path, seed=0).records())


@pytest.mark.real_data
def test_real_pbc_counts_by_prefix(real_data, tmp_path):
    records, dropped = real_items("pbc", real_data / "PBC_dataset_normal_DIB", tmp_path)
    assert Counter(record.source_label for record in records.values()) == {
        "BA": 754, "EO": 1000, "ERB": 939, "LY": 733, "MO": 875, "PLATELET": 900, "IG": 82, "PMY": 347, "MY": 646,
        "MMY": 608, "BNE": 972, "SNE": 966, "NEUTROPHIL": 31, ".DS": 1,
    }  # fmt: skip
    assert not dropped
    unlabelled = [image_id for image_id, record in records.items() if record.label is None]
    assert unlabelled == ["pbc/neutrophil/.DS_169665.jpg"]


@pytest.mark.real_data
def test_real_aml_codes(real_data, tmp_path):
    records, dropped = real_items("aml_lmu", real_data / "AML-Cytomorphology_LMU", tmp_path)
    assert Counter(record.source_label for record in records.values()) == {
        "MYO": 11, "NGS": 3, "NGB": 3, "EOS": 3, "BAS": 3, "MON": 3, "LYT": 3, "PMO": 3, "MYB": 3, "MMZ": 3, "EBO": 3,
    }  # fmt: skip
    assert Counter(item.source_label for item in dropped.values()) == {"PMB": 3, "KSC": 2, "LYA": 2, "MOB": 2}


@pytest.mark.real_data
def test_real_bccd_counts_by_label(real_data, tmp_path):
    records, dropped = real_items("bccd", real_data / "BCCD", tmp_path)
    assert Counter(record.label for record in records.values() if record.box) == {
        "Platelet": 80, "Neutrophil": 30, "Eosinophil": 19, "Lymphocyte": 7, "Monocyte": 2, "Basophil": 1,
    }  # fmt: skip
    assert Counter(item.reason for item in dropped.values()) == {
        "no_class:RBC": 947, "ambiguous_field": 6, "other_cell_in_window": 1,
    }  # fmt: skip


@pytest.mark.real_data
def test_real_bccd_augmented_groups(real_data, tmp_path):
    records, _ = real_items("bccd_augmented", real_data / "dataset2-master", tmp_path)
    sizes = Counter(record.group for record in records.values())
    assert (len(sizes), set(sizes.values())) == (24, {10})


@pytest.mark.real_data
def test_real_bone_marrow_counts_by_code(real_data, tmp_path):
    records, dropped = real_items("bone_marrow", real_data / "Bone-Marrow-Cytomorphology", tmp_path)
    assert Counter(record.source_label for record in records.values()) == dict.fromkeys(
        ("EOS", "LYT", "MON", "NGS", "PMO"), 200
    )
    assert Counter(item.source_label for item in dropped.values()) == {"BLA": 200, "NIF": 20}


@pytest.mark.real_data
def test_real_bcisc_crops(real_data, tmp_path):
    records, dropped = real_items("bcisc", real_data / "BCISC", tmp_path)
    assert Counter(record.source_label for record in records.values()) == READERS["bcisc"].info.published
    assert len({record.group for record in records.values()}) == 246
    assert not dropped
