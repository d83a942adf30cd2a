"""Predictions made up for a test, a tiny classifier, and a small built dataset to evaluate it on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from celluscan_hf import taxonomy
from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.evaluation.predictions import FACTS, Predictions
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor


@pytest.fixture(scope="session")
def predicted() -> Callable[..., Predictions]:
    """Predictions from (true code, predicted code, its probability), one group each unless groups are given."""

    def make(
        outcomes: Sequence[tuple[str, str, float]],
        groups: Sequence[str] | None = None,
        sources: Sequence[str] | None = None,
    ) -> Predictions:
        ids = [f"drawn/{number}.png" for number in range(len(outcomes))]
        probabilities = np.zeros((len(outcomes), 14), np.float32)
        labels = []
        for row, (true, predicted_code, probability) in enumerate(outcomes):
            label = taxonomy.LABEL2ID[taxonomy.lookup(predicted_code).name]
            probabilities[row] = (1 - probability) / 13
            probabilities[row, label] = probability
            labels.append(taxonomy.LABEL2ID[taxonomy.lookup(true).name])
        facts = dict.fromkeys(FACTS, ids) | {"group_id": list(groups or ids)}
        facts["source"] = list(sources or ["drawn"] * len(ids))
        return Predictions(facts, np.array(labels), probabilities)

    return make


@pytest.fixture(scope="session")
def everything(predicted: Callable[..., Predictions]) -> Predictions:
    """Cells of all classes but Myeloblast, mostly right, with mistakes of every kind, from two sources."""
    codes = [cell.code for cell in taxonomy.CLASSES if cell.code != "MYO"]
    outcomes = [(code, code, 0.5 + 0.04 * number) for code in codes for number in range(10)]
    outcomes += [("MY", "PMY", 0.9), ("MMY", "MY", 0.8), ("PMY", "BNE", 0.7), ("SNE", "BNE", 0.95), ("EO", "NEU", 0.6)]
    outcomes += [("LY", "MO", 0.99), ("BNE", "NEU", 0.55), ("MY", "LY", 0.5)]
    return predicted(outcomes, sources=["one", "two"] * (len(outcomes) // 2))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model of ours, weights from a seed, and its processor."""
    return save_checkpoint(tmp_path_factory.mktemp("model") / "run")


def save_checkpoint(folder: Path, **fields: Any) -> Path:
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    config = CelluScanConfig(**(sizes | {"image_size": 32, "patch_size": 8} | fields))
    CelluScanForImageClassification(config).save_pretrained(folder)
    build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset of 20 synthetic cells per class, 32 px, without augmented rows."""
    output = tmp_path_factory.mktemp("built") / "wbc"
    build(BuildSettings(("synthetic=20",), output, image_size=32, target_per_class=0, num_proc=1))
    return output
