"""The facts on each class: complete, with references, without advice; broken files are refused."""

import copy

import pytest
import yaml

from celluscan_hf import taxonomy
from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.clinical_metrics import HARD_SETS
from celluscan_hf.space import facts as module
from celluscan_hf.space.facts import load_facts

CODES = [cell.code for cell in taxonomy.CLASSES]
ADVICE = ("you should", "treat", "diagnos", "consult", "your doctor")
CONTENT = yaml.safe_load(module._FACTS.read_text("utf-8"))


@pytest.fixture
def load(tmp_path):
    """The facts of a content written to a file."""

    def write_and_load(content):
        path = tmp_path / "facts.yaml"
        path.write_text(yaml.safe_dump(content, allow_unicode=True), "utf-8")
        return load_facts(path)

    return write_and_load


@pytest.fixture
def content():
    return copy.deepcopy(CONTENT)


def statements(cell):
    return [*cell.looks, *cell.reported_in, *cell.look_alikes]


def sentences(cell):
    return [
        cell.summary,
        *(s.text for s in (*cell.looks, *cell.reported_in)),
        *(other.how for other in cell.look_alikes),
    ]


def test_every_class_is_present_in_the_order_of_the_taxonomy():
    assert [cell.code for cell in load_facts().values()] == list(load_facts()) == CODES


@pytest.mark.parametrize("code", CODES)
def test_each_class_has_enough_facts_with_references_and_no_advice(code):
    cell, name = load_facts()[code], taxonomy.lookup(code).name
    assert 2 <= len(cell.looks) <= 4
    assert any("µm" in look.text for look in cell.looks)
    assert 3 <= len(cell.reported_in) <= 6
    assert all("reported" in statement.text.lower() for statement in cell.reported_in)
    others = [other.code for other in cell.look_alikes]
    assert others and set(others) <= set(CODES) - {code} and len(set(others)) == len(others)
    for statement in statements(cell):
        assert statement.reference.citation
        assert statement.reference.url.startswith(("https://", "http://"))
    assert not [text for text in sentences(cell) for word in ADVICE if word in text.lower()]
    assert ("coarse parent" in cell.summary) == any(other.parent == name for other in taxonomy.CLASSES)


@pytest.mark.parametrize("names", HARD_SETS.values(), ids=HARD_SETS)
def test_hard_sets_are_covered_in_both_directions(names):
    codes = [taxonomy.lookup(name).code for name in names]
    for code in codes:
        others = {other.code for other in load_facts()[code].look_alikes}
        assert set(codes) - {code} <= others


def test_well_known_look_alikes_name_each_other():
    facts = load_facts()
    pairs = "PMY MYO, MMY BNE, LY MO, LY ERB, LY MYO, MO MMY, PLT LY, PLT ERB, EO BA, BA NEU"
    for first, second in (pair.split() for pair in pairs.split(", ")):
        assert second in {cell.code for cell in facts[first].look_alikes}
        assert first in {cell.code for cell in facts[second].look_alikes}


def _without_class(content):
    del content["classes"]["MYO"]


def _with_unknown_class(content):
    content["classes"]["XYZ"] = content["classes"]["MYO"]


def _without_summary(content):
    del content["classes"]["MYO"]["summary"]


def _with_blank_summary(content):
    content["classes"]["MYO"]["summary"] = " "


def _with_unknown_field(content):
    content["classes"]["MYO"]["advice"] = "none"


def _without_looks(content):
    content["classes"]["MYO"]["looks"] = []


def _without_look_alikes(content):
    content["classes"]["MYO"]["look_alikes"] = None


def _with_unknown_reference(content):
    content["classes"]["MYO"]["reported_in"][1]["reference"] = "hearsay"


def _without_reference(content):
    del content["classes"]["MYO"]["looks"][0]["reference"]


def _with_unknown_look_alike(content):
    content["classes"]["MYO"]["look_alikes"][0]["class"] = "XYZ"


def _with_itself_as_look_alike(content):
    content["classes"]["MYO"]["look_alikes"][0]["class"] = "MYO"


def _with_unused_reference(content):
    content["references"]["shelf"] = {"citation": "A book nobody opened", "url": "https://example.org"}


def _without_address(content):
    del content["references"]["bain"]["url"]


@pytest.mark.parametrize(
    ("break_it", "place"),
    [
        (_without_class, "classes: missing: MYO"),
        (_with_unknown_class, "classes: unknown: XYZ"),
        (_without_summary, "MYO: missing: summary"),
        (_with_blank_summary, "MYO.summary: expected text"),
        (_with_unknown_field, "MYO: unknown: advice"),
        (_without_looks, "MYO.looks: expected a list"),
        (_without_look_alikes, "MYO.look_alikes: expected a list"),
        (_with_unknown_reference, r"MYO.reported_in\[1\].reference: unknown reference hearsay"),
        (_without_reference, r"MYO.looks\[0\]: missing: reference"),
        (_with_unknown_look_alike, r"MYO.look_alikes\[0\].class: XYZ is not one"),
        (_with_itself_as_look_alike, r"MYO.look_alikes\[0\].class: MYO is not one"),
        (_with_unused_reference, "references: no statement names shelf"),
        (_without_address, "references.bain: missing: url"),
    ],
)
def test_a_broken_copy_is_refused_by_its_place(break_it, place, load, content):
    break_it(content)
    with pytest.raises(CelluScanError, match=place) as error:
        load(content)
    assert "\n" not in str(error.value)
