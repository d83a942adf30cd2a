"""Tiny classifiers of every kind that inference meets, and a checkpoint folder of one."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaImageProcessor, PreTrainedModel, ViTConfig, ViTForImageClassification

from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="session")
def build_model() -> Callable[..., PreTrainedModel]:
    """A model with weights from a seed: `linear`, `convolution`, `mean` (ours) or `native` (the library's ViT)."""

    def build(kind: str, **fields: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        if kind == "native":
            return ViTForImageClassification(ViTConfig(**(TINY | {"num_labels": 14} | fields))).eval()
        own = {"mean": {"pooling": "mean"}, "convolution": {"patch_stem": "convolution"}, "linear": {}}[kind]
        return CelluScanForImageClassification(CelluScanConfig(**(TINY | own | fields))).eval()

    return build


@pytest.fixture(scope="session")
def processor() -> LlavaImageProcessor:
    return build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15))


@pytest.fixture
def checkpoint(tmp_path: Path, build_model: Callable[..., PreTrainedModel], processor: LlavaImageProcessor) -> Path:
    """A folder with a tiny model of ours and its processor; a test may spoil it."""
    folder = tmp_path / "checkpoint"
    build_model("linear").save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
