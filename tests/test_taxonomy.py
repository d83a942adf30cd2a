"""The 14 classes, in the one order, and the names a person may type for them."""

import pytest

from celluscan_hf import taxonomy

TABLE = [
    # name, code, parent, lineage, stage, abnormal in blood
    ("Band Neutrophil", "BNE", "Neutrophil", "granulocytic", 5, False),
    ("Basophil", "BA", None, "granulocytic", None, False),
    ("Eosinophil", "EO", None, "granulocytic", None, False),
    ("Erythroblast", "ERB", None, "erythroid", None, True),
    ("Immature Granulocyte", "IG", None, "granulocytic", None, True),
    ("Lymphocyte", "LY", None, "lymphoid", None, False),
    ("Metamyelocyte", "MMY", "Immature Granulocyte", "granulocytic", 4, True),
    ("Monocyte", "MO", None, "monocytic", None, False),
    ("Myeloblast", "MYO", None, "granulocytic", 1, True),
    ("Myelocyte", "MY", "Immature Granulocyte", "granulocytic", 3, True),
    ("Neutrophil", "NEU", None, "granulocytic", None, False),
    ("Platelet", "PLT", None, "megakaryocytic", None, False),
    ("Promyelocyte", "PMY", "Immature Granulocyte", "granulocytic", 2, True),
    ("Segmented Neutrophil", "SNE", "Neutrophil", "granulocytic", 6, False),
]


@pytest.mark.parametrize(("label", "row"), list(enumerate(TABLE)), ids=[row[1] for row in TABLE])
def test_class_of_each_label_id(label, row):
    cell = taxonomy.CLASSES[label]
    assert (cell.name, cell.code, cell.parent, cell.lineage, cell.stage, cell.abnormal_in_blood) == row


@pytest.mark.parametrize(
    ("code", "stages"), [("MYO", (1,)), ("MY", (3,)), ("IG", (2, 3, 4)), ("NEU", (5, 6)), ("LY", ())]
)
def test_stages_that_a_label_leaves_open(code, stages):
    assert taxonomy.stages(taxonomy.lookup(code).name) == stages


def test_there_are_no_more_classes():
    assert len(taxonomy.CLASSES) == len(TABLE)


def test_names_are_alphabetical():
    assert list(taxonomy.NAMES) == sorted(taxonomy.NAMES)


def test_ids_and_names_map_to_each_other():
    assert {label: name for name, label in taxonomy.LABEL2ID.items()} == taxonomy.ID2LABEL
    assert list(taxonomy.ID2LABEL.items()) == list(enumerate(taxonomy.NAMES))


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[1])
@pytest.mark.parametrize(
    "variant",
    [
        str,
        str.upper,
        str.lower,
        lambda text: f" {text} ",
        lambda text: text + "s",
        lambda text: text.replace(" ", "_").lower() + "s",
        lambda text: text.replace(" ", "-"),
        lambda text: text.replace(" ", "  "),
    ],
    ids=["as_is", "upper", "lower", "padded", "plural", "underscore_plural", "hyphen", "two_spaces"],
)
def test_name_is_found_however_it_is_written(row, variant):
    assert taxonomy.lookup(variant(row[0])).name == row[0]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[1])
@pytest.mark.parametrize("variant", [str.upper, str.lower], ids=["upper", "lower"])
def test_code_is_found(row, variant):
    assert taxonomy.lookup(variant(row[1])).name == row[0]


@pytest.mark.parametrize(
    ("prefix", "name"),
    {
        "BA": "Basophil",
        "BNE": "Band Neutrophil",
        "EO": "Eosinophil",
        "ERB": "Erythroblast",
        "IG": "Immature Granulocyte",
        "LY": "Lymphocyte",
        "MMY": "Metamyelocyte",
        "MO": "Monocyte",
        "MY": "Myelocyte",
        "MYO": "Myeloblast",
        "NEUTROPHIL": "Neutrophil",
        "NGS": "Segmented Neutrophil",
        "PLATELET": "Platelet",
        "PMY": "Promyelocyte",
    }.items(),
)
def test_seed_prefix_is_found(prefix, name):
    assert taxonomy.lookup(prefix).name == name


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("Neutrofil", "Neutrophil"),
        ("promyelozyte", "Promyelocyte"),
        ("Thrombocyte platelet", "Platelet"),
        ("limphocites", "Lymphocyte"),
    ],
)
def test_unknown_name_is_answered_with_the_nearest(text, nearest):
    with pytest.raises(KeyError) as error:
        taxonomy.lookup(text)
    message = error.value.args[0]
    assert repr(text) in message
    assert nearest in message


@pytest.mark.parametrize("text", ["", "zzzz", "12345"])
def test_name_like_none_is_answered_with_all_classes(text):
    with pytest.raises(KeyError) as error:
        taxonomy.lookup(text)
    assert all(name in error.value.args[0] for name in taxonomy.NAMES)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row[1])
def test_only_the_parent_is_an_ancestor(row):
    assert [name for name in taxonomy.NAMES if taxonomy.is_ancestor(name, row[0])] == ([row[2]] if row[2] else [])


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ({"Basophil"}, "Basophil"),
        ({"Neutrophil", "Band Neutrophil"}, "Band Neutrophil"),
        ({"Immature Granulocyte", "Myelocyte"}, "Myelocyte"),
        ({"Band Neutrophil", "Segmented Neutrophil"}, None),
        ({"Neutrophil", "Band Neutrophil", "Segmented Neutrophil"}, None),
        ({"Neutrophil", "Myelocyte"}, None),
        ({"Eosinophil", "Band Neutrophil"}, None),
        (set(), None),
    ],
)
def test_finest_label_that_explains_all(names, label):
    assert taxonomy.finest(names) == label
