"""The facts on each class: complete, sourced, sober, and refused where they are broken."""

import copy

import pytest
import yaml

from celluscan_hf import taxonomy
from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.clinical_metrics import HARD_SETS
from celluscan_hf.space import facts as module
from celluscan_hf.space.facts import load_facts

CODES = [cell.code for cell in taxonomy.CLASSES]
BY_CODE = pytest.mark.parametrize("code", CODES)
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


def test_every_class_is_there_in_the_one_order():
    assert list(load_facts()) == CODES
    assert [cell.code for cell in load_facts().values()] == CODES


def test_a_second_load_is_the_first():
    assert load_facts() is load_facts()


@BY_CODE
def test_each_class_has_enough_to_show(code):
    cell = load_facts()[code]
    assert 2 <= len(cell.looks) <= 4
    assert 3 <= len(cell.reported_in) <= 6
    assert cell.look_alikes


@BY_CODE
def test_size_is_told_in_micrometres(code):
    assert any("µm" in look.text for look in load_facts()[code].looks)


@BY_CODE
def test_every_statement_has_a_citation_and_an_address(code):
    for statement in statements(load_facts()[code]):
        assert statement.reference.citation
        assert statement.reference.url.startswith(("https://", "http://"))


@BY_CODE
def test_look_alikes_are_other_classes_each_once(code):
    others = [other.code for other in load_facts()[code].look_alikes]
    assert code not in others
    assert set(others) <= set(CODES)
    assert len(set(others)) == len(others)


@BY_CODE
def test_conditions_are_reported_and_nothing_advised(code):
    cell = load_facts()[code]
    assert all("reported" in statement.text.lower() for statement in cell.reported_in)
    assert not [text for text in sentences(cell) for word in ADVICE if word in text.lower()]


@BY_CODE
def test_a_parent_says_that_it_is_one(code):
    name = taxonomy.lookup(code).name
    is_parent = any(cell.parent == name for cell in taxonomy.CLASSES)
    assert ("coarse parent" in load_facts()[code].summary) == is_parent


@pytest.mark.parametrize("names", HARD_SETS.values(), ids=HARD_SETS)
def test_hard_sets_are_covered_in_both_directions(names):
    codes = [taxonomy.lookup(name).code for name in names]
    for code in codes:
        others = {other.code for other in load_facts()[code].look_alikes}
        assert set(codes) - {code} <= others


@pytest.mark.parametrize(
    ("one", "other"),
    [("PMY", "MYO"), ("MMY", "BNE"), ("LY", "MO"), ("LY", "ERB"), ("LY", "MYO"), ("MO", "MMY"), ("PLT", "LY"),
     ("PLT", "ERB"), ("EO", "BA"), ("BA", "NEU")],
)  # fmt: skip
def test_well_known_look_alikes_name_each_other(one, other):
    facts = load_facts()
    assert other in {cell.code for cell in facts[one].look_alikes}
    assert one in {cell.code for cell in facts[other].look_alikes}


def test_a_whole_copy_loads(load, content):
    assert load(content) == load_facts()


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
        (_with_unknown_look_alike, r"MYO.look_alikes\[0\].class: XYZ is none"),
        (_with_itself_as_look_alike, r"MYO.look_alikes\[0\].class: MYO is none"),
        (_with_unused_reference, "references: no statement names shelf"),
        (_without_address, "references.bain: missing: url"),
    ],
)
def test_a_broken_copy_is_refused_by_its_place(break_it, place, load, content):
    break_it(content)
    with pytest.raises(CelluScanError, match=place) as error:
        load(content)
    assert "\n" not in str(error.value)
