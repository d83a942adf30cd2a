"""The model that comes with the package: complete, its own weights evaluated, and of use without anything else."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForImageClassification, pipeline

from celluscan_hf import default_model, taxonomy
from celluscan_hf.bundled_model import NAME
from celluscan_hf.inference.loading import load_classifier, load_reliability
from celluscan_hf.modeling.checkpoints import start_model
from celluscan_hf.modeling.key_mapping import WeightsError
from celluscan_hf.sources import READERS
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.training import recipes

FOLDER = Path(default_model())


def read(name: str) -> Any:
    return json.loads((FOLDER / name).read_text("utf-8"))


def test_it_answers_in_a_pipeline_and_through_the_auto_classes() -> None:
    cell = draw_cell("Eosinophil", np.random.default_rng(0), 200)
    answers = pipeline("image-classification", model=default_model())(cell, top_k=14)
    assert sorted(answer["label"] for answer in answers) == sorted(taxonomy.NAMES)
    assert AutoModelForImageClassification.from_pretrained(FOLDER).config.id2label == taxonomy.ID2LABEL
    richer = pipeline("wbc-classification", model=default_model())(cell)
    assert richer["label"] in taxonomy.NAMES
    assert richer["set"]


def test_it_is_calibrated_and_small() -> None:
    assert load_reliability(load_classifier(FOLDER)[0]) is not None
    assert (FOLDER / "model.safetensors").stat().st_size <= 12e6


def test_its_metrics_are_of_these_weights_on_the_test_split_of_its_data() -> None:
    metrics, settings = read("metrics.json"), read("settings.json")
    weights = hashlib.sha256((FOLDER / "model.safetensors").read_bytes()).hexdigest()
    assert metrics["model"]["sha256"] == weights
    assert metrics["data"]["split"] == "test"
    assert metrics["data"]["fingerprint"] == settings["data"]["fingerprint"]
    assert settings["recipe"] == "bundled"
    assert isinstance(settings["seed"], int)


def test_its_card_names_the_authors_of_the_images_and_how_to_use_it() -> None:
    card, sources = (FOLDER / "README.md").read_text("utf-8"), read("settings.json")["data"]["sources"]
    assert sorted(sources) == ["aml_lmu", "bccd", "bcisc", "bone_marrow", "pbc"]
    for source in sources:
        assert READERS[source].info.citation in card
        assert READERS[source].info.license in card
    assert "default_model()" in card
    assert "Not a medical device" in card


def test_it_holds_neither_code_nor_cells_nor_paths_of_a_machine() -> None:
    names = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith(".py") or "/" in name]
    for name in names - {"model.safetensors", "reliability.safetensors"}:
        if not name.endswith(".png"):
            assert not re.search(r"(?<![\w.:/])/(?:tmp|home|root|work|Users)/", (FOLDER / name).read_text("utf-8")), (
                name
            )


def test_a_training_can_start_from_it() -> None:
    model = start_model(NAME, taxonomy.ID2LABEL)
    given, _ = load_classifier(FOLDER)
    assert model.config.crops == given.config.crops
    assert (model.classifier.linear.weight == given.classifier.linear.weight).all()
    assert recipes.load("finetune-small")[0]["start"] == NAME


@pytest.mark.parametrize("name", ["celluscan:wbc-large", "wbc-small"])
def test_another_name_is_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="no such file or folder"):
        start_model(name, taxonomy.ID2LABEL)
