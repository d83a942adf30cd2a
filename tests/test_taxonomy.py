"""The classes, their ids, and the names that users may write."""

import pytest

from celluscan_hf import taxonomy

TABLE = [
    # name, code, parent, lineage, stage, abnormal in blood; the position is the label id that datasets store
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


def test_published_label_ids_never_change():
    published = taxonomy.CLASSES[: len(TABLE)]
    assert [(c.name, c.code, c.parent, c.lineage, c.stage, c.abnormal_in_blood) for c in published] == TABLE
    assert {label: name for name, label in taxonomy.LABEL2ID.items()} == taxonomy.ID2LABEL
    assert list(taxonomy.ID2LABEL.items()) == list(enumerate(cell.name for cell in taxonomy.CLASSES))


@pytest.mark.parametrize(
    ("code", "stages"), [("MYO", (1,)), ("MY", (3,)), ("IG", (2, 3, 4)), ("NEU", (5, 6)), ("LY", ())]
)
def test_stages_that_a_label_covers(code, stages):
    assert taxonomy.stages(taxonomy.lookup(code).name) == stages


@pytest.mark.parametrize(
    "write",
    [
        str,
        str.upper,
        lambda text: f" {text} ",
        lambda text: text.replace(" ", "_").lower() + "s",
        lambda text: text.replace(" ", "-"),
        lambda text: text.replace(" ", "  "),
    ],
    ids=["as_is", "upper", "padded", "underscore_plural", "hyphen", "two_spaces"],
)
def test_lookup_accepts_every_spelling_of_a_name(write):
    assert [taxonomy.lookup(write(cell.name)) for cell in taxonomy.CLASSES] == list(taxonomy.CLASSES)


def test_lookup_accepts_codes_and_file_prefixes():
    assert [taxonomy.lookup(write(cell.code)) for cell in taxonomy.CLASSES for write in (str.upper, str.lower)] == [
        cell for cell in taxonomy.CLASSES for _ in range(2)
    ]
    prefixes = {"NGS": "Segmented Neutrophil", "NEUTROPHIL": "Neutrophil", "PLATELET": "Platelet"}
    assert {prefix: taxonomy.lookup(prefix).name for prefix in prefixes} == prefixes


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("Neutrofil", "Neutrophil"), ("promyelozyte", "Promyelocyte"), ("limphocites", "Lymphocyte")],
)
def test_an_unknown_name_is_answered_with_the_nearest(text, nearest):
    with pytest.raises(KeyError) as error:
        taxonomy.lookup(text)
    assert repr(text) in error.value.args[0] and nearest in error.value.args[0]


@pytest.mark.parametrize("text", ["", "zzzz", "12345"])
def test_a_name_unlike_all_is_answered_with_all_classes(text):
    with pytest.raises(KeyError) as error:
        taxonomy.lookup(text)
    assert all(name in error.value.args[0] for name in taxonomy.NAMES)


def test_only_the_parent_is_an_ancestor():
    for child, _, parent, *_ in TABLE:
        ancestors = [name for name in taxonomy.NAMES if taxonomy.is_ancestor(name, child)]
        assert ancestors == ([parent] if parent else [])


@pytest.mark.parametrize(
    ("names", "label"),
    [
        ({"Basophil"}, "Basophil"),
        ({"Neutrophil", "Band Neutrophil"}, "Band Neutrophil"),
        ({"Band Neutrophil", "Segmented Neutrophil"}, None),
        ({"Neutrophil", "Band Neutrophil", "Segmented Neutrophil"}, None),
        ({"Neutrophil", "Myelocyte"}, None),
        (set(), None),
    ],
)
def test_finest_label_on_which_all_agree(names, label):
    assert taxonomy.finest(names) == label


def test_classes_that_are_not_ours_have_codes_of_their_own():
    names = ("Neutrophil", "Plasma cell", "Plasmablast", "Smudge cell")
    assert [cell.code for cell in taxonomy.classes_of(names)] == ["NEU", "Plasma cell", "Plasmablast", "Smudge"]
