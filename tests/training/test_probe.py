"""The linear probe: the head alone, features computed once, a checkpoint like any other."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from celluscan_hf.hub.model_folder import TrainedModel, Variant, assemble
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.modeling.checkpoints import start_model
from celluscan_hf.training import features, probe
from celluscan_hf.training.probe import fit_logistic, fit_probe
from tests.commands import evaluate

DINOV2 = {"layer_scale_init": 0.1, "num_register_tokens": 2, "pooling": "cls_mean"}
Recipe = Callable[..., Path]
Trained = Callable[..., int]


@pytest.fixture
def start(recipe: Recipe, trained: Trained, tmp_path: Path) -> Path:
    """A DINOv2 with hardly trained weights."""
    assert trained(recipe(model=DINOV2, num_train_epochs=1), tmp_path / "start") == 0
    return tmp_path / "start"


def test_only_the_head_changes_and_it_gets_better(
    start: Path, recipe: Recipe, trained: Trained, data_set: Path, tmp_path: Path
) -> None:
    output = tmp_path / "probe"
    chosen = recipe("probe", model=DINOV2, start=str(start), probe=True, calibrate=True)
    assert trained(chosen, output) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (start, output))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    record, first = (json.loads((folder / "training.json").read_text()) for folder in (output, start))
    assert record["validation"]["macro_f1"] > first["validation"]["macro_f1"] + 0.1
    assert record["validation"]["macro_f1"] == max(line["eval_macro_f1"] for line in record["history"])
    assert len(record["history"]) == len(probe.STRENGTHS)
    assert type(AutoModelForImageClassification.from_pretrained(output)).__name__.startswith("Dinov2WithRegisters")
    evaluation = tmp_path / "evaluation"
    assert evaluate("--model", output, "--dataset", data_set, "--output", evaluation, "--resamples", "0") == 0
    assemble(TrainedModel(output, evaluation), Variant("lab/probe", False, None, None, None), tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "the head alone, by logistic regression on features" in card
    assert "Strength of the regularization chosen by macro-F1 on validation" in card
    assert "| epochs |" not in card


def test_features_are_computed_once_for_each_model(
    start: Path, data_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = load_classifier(start)
    model = start_model(str(start), model.config.id2label)
    first = fit_probe(model, processor, str(data_set), tmp_path)
    computed: list[int] = []
    original = features.run_model
    monkeypatch.setattr(features, "run_model", lambda *given: computed.append(1) or original(*given))
    again = start_model(str(start), model.config.id2label)
    assert fit_probe(again, processor, str(data_set), tmp_path) == first
    assert torch.equal(again.classifier.linear.weight, model.classifier.linear.weight)
    assert not computed
    with torch.no_grad():
        again.vit.layernorm.bias += 1
    fit_probe(again, processor, str(data_set), tmp_path)
    assert len(computed) == 2  # train and validation, as the weights are others


@pytest.mark.parametrize("classes", [[1, 5, 7], [1, 5]])
def test_classes_without_cells_are_never_answered(classes: list[int]) -> None:
    labels = np.repeat(classes, 20)
    values = np.eye(14)[labels] + np.random.default_rng(0).normal(0, 0.1, (len(labels), 14))
    (weight, bias), history = fit_logistic((values, labels), (values, labels))
    answers = (values @ weight.T + bias).argmax(axis=1)
    assert (answers == labels).all()
    assert history[-1]["eval_macro_f1"] == 1
    random = np.random.default_rng(1).normal(0, 3, (200, 14))
    assert set((random @ weight.T + bias).argmax(axis=1).tolist()) <= set(classes)


def test_it_excludes_adapters(
    recipe: Recipe, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(recipe(probe=True, lora_rank=4), tmp_path / "out") == 2
    assert "--probe trains the head alone: leave --lora_rank" in capsys.readouterr().err
