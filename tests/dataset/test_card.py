"""The dataset card: complete when rendered, and without hard-coded numbers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import UndefinedError

from celluscan_hf.dataset import card
from celluscan_hf.dataset.features import FEATURES
from celluscan_hf.dataset.schema import SCHEMA
from celluscan_hf.hub.command import DATASET

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def text(built):
    return (built / "README.md").read_text("utf-8")


def curation(built, name):
    return json.loads((built / "curation" / name).read_text("utf-8"))


def test_nothing_of_the_template_is_left(text):
    assert "{{" not in text and "{%" not in text and "{#" not in text


def test_a_build_that_is_not_published_names_no_repository(text):
    assert DATASET not in text and 'load_dataset("path/to/this/folder")' in text


def test_template_has_measured_values_in_generated_tables_only():
    generated = r"<!-- table: .*?<!-- end -->"
    prose = re.sub(
        rf"```.*?```|https?://\S+|\{{\{{.*?\}}\}}|\{{%.*?%\}}|{generated}",
        "",
        card.template_path("dataset_card.md").read_text("utf-8"),
        flags=re.DOTALL,
    )
    assert set(re.findall(r"(?<![\w/])\d[\d,.]*\d", prose)) <= {"14", "70", "64", "2021", "95"}


def test_tables_hold_the_counts_of_the_statistics(built, text):
    for name, counts in curation(built, "statistics.json")["classes"].items():
        balanced = counts["train"] + counts["augmented"]
        row = [name, counts["train"], counts["augmented"], balanced, counts["validation"], counts["test"]]
        assert f"| {' | '.join(map(str, row))} |" in text


def test_every_source_is_named_with_licence_and_citation(built, text):
    for source in curation(built, "sources.json").values():
        for fact in ("title", "license", "url"):
            assert source[fact] in text


@pytest.mark.parametrize(("microns", "stated"), [(29 / 400, True), (None, False)])
def test_size_of_a_pixel_is_stated_if_it_is_published(microns, stated, built):
    sources = curation(built, "sources.json")
    assert {source["microns_per_pixel"] for source in sources.values()} == {None}  # synthetic cells have no size
    sources = {name: source | {"microns_per_pixel": microns} for name, source in sources.items()}
    text = card.render(curation(built, "statistics.json"), sources, card.DatasetCardData())
    assert ("A pixel of its files is 0.0725 µm." in text) is stated


def test_card_of_a_build_without_sizes_of_pixels(built):
    sources = curation(built, "sources.json")
    for source in sources.values():
        del source["microns_per_pixel"]
    assert "µm" not in card.render(curation(built, "statistics.json"), sources, card.DatasetCardData())


def test_limits_are_stated(text):
    for limit in ("confounded", "parent", "Adult blood", "Stain", "Not a medical device"):
        assert limit.lower() in text.lower()


def test_a_missing_value_is_an_error_not_a_gap(built):
    statistics = curation(built, "statistics.json")
    del statistics["channel_mean"]
    with pytest.raises(UndefinedError):
        card.render(statistics, curation(built, "sources.json"), card.DatasetCardData())


def test_numbers_in_a_table_are_right_aligned():
    assert card.table(["a", "n"], [["x", 12345]]).splitlines()[1:] == ["|---|---:|", "| x | 12,345 |"]


def test_the_schema_is_what_datasets_writes_for_the_features():
    assert FEATURES.arrow_schema.equals(SCHEMA, check_metadata=True)


def test_a_worker_does_not_import_datasets():
    program = "import sys, celluscan_hf.dataset.shards, celluscan_hf.dataset.inspection, celluscan_hf.curation.scan\n"
    program += "print({'datasets', 'pandas', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
