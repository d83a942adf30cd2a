"""Evaluation of a model with classes of one's own: by the names of folders, with what the taxonomy knows of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.job import EvaluationSettings, evaluate
from celluscan_hf.evaluation.predictions import Predictions
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor

NAMES = ("Neutrophil", "Band Neutrophil", "Smudge cell")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of two of our classes and one that is not ours."""
    folder = tmp_path_factory.mktemp("own") / "model"
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: label for label, name in enumerate(NAMES)}}
    CelluScanForImageClassification(CelluScanConfig(**sizes, **labels, image_size=32, patch_size=8)).save_pretrained(
        folder
    )
    build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15)).save_pretrained(folder)
    return folder


@pytest.fixture
def cells(tmp_path: Path, write_image: Any) -> Path:
    """Six cells each of a class by our name, by our code, of the third class, and of one that the model lacks."""
    for number in range(24):
        write_image(
            tmp_path / "cells" / ("neutrophils", "BNE", "Smudge cell", "Blast")[number % 4] / f"{number}.png", number
        )
    return tmp_path / "cells"


def test_an_evaluation_has_the_classes_of_the_model(model: Path, cells: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(str(model), tmp_path / "out", sources=(f"imagefolder={cells}",), resamples=20)
    metrics = evaluate(settings)
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text("utf-8"))
    assert metrics["confusion_matrix"]["labels"] == list(NAMES)
    assert {name: scores["support"] for name, scores in metrics["per_class"].items()} == dict.fromkeys(NAMES, 6)
    assert metrics["parent_level"]["classes"] == ["Neutrophil", "Smudge cell"]
    assert metrics["abnormal"] is None and metrics["five_classes"] is None
    assert metrics["data"]["dropped"] == {"unknown_label:Blast": 6}
    report = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "| Smudge cell |" in report.replace("  ", " ") and "Monocyte" not in report
    assert (tmp_path / "out" / "confusion_matrix.png").is_file() and (tmp_path / "out" / "recall.png").is_file()


def test_predictions_are_read_back_with_their_classes(tmp_path: Path) -> None:
    facts = {name: ["x"] for name in ("image_id", "source", "source_label", "group_id", "sha256")}
    scores = torch.tensor([[0.2, 0.3, 0.5]]).numpy()
    written = Predictions(facts, torch.tensor([2]).numpy(), scores, NAMES)
    written.write(tmp_path / "predictions.parquet")
    read = Predictions.read(tmp_path / "predictions.parquet")
    assert read.names == NAMES and read.probabilities.tolist() == scores.tolist() and read.labels.tolist() == [2]


def test_cells_of_other_classes_are_an_error(model: Path, tmp_path: Path, write_image: Any) -> None:
    write_image(tmp_path / "cells" / "Blast" / "0.png", 0)
    settings = EvaluationSettings(str(model), tmp_path / "out", sources=(f"imagefolder={tmp_path / 'cells'}",))
    message = r"no cell is of a class of the model \(Neutrophil, Band Neutrophil, Smudge cell\); they are named Blast"
    with pytest.raises(CelluScanError, match=message):
        evaluate(settings)


def test_one_folder_is_of_the_class_that_it_names(model: Path, tmp_path: Path, write_image: Any) -> None:
    for number in range(4):
        write_image(tmp_path / "cells" / "Smudge cell" / f"slide {number % 2}" / f"{number}.png", number)
    settings = EvaluationSettings(
        str(model), tmp_path / "out", sources=(f"imagefolder={tmp_path / 'cells'}",), resamples=0
    )
    metrics = evaluate(settings)
    assert metrics["per_class"]["Smudge cell"]["support"] == 4 and metrics["groups"] == 2


def test_a_built_dataset_has_our_classes_alone(model: Path, data_set: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(str(model), tmp_path / "out", dataset=str(data_set))
    with pytest.raises(CelluScanError, match="evaluated on folders of these: --source imagefolder=FOLDER"):
        evaluate(settings)
