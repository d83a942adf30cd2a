"""Tiny models whose every weight matters, images for them, and a fixed seed for each test."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "drop_path_rate": 0.0}


@pytest.fixture(autouse=True)
def steady() -> Iterator[None]:
    """The same random numbers in every test, and one thread: for tiny tensors more are slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing left of what other tests compiled: too many variants of one function are an error."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def tiny_config(**changes: Any) -> CelluScanConfig:
    return CelluScanConfig(**(TINY | changes))


def tiny_model(
    model_class: type[torch.nn.Module] = CelluScanForImageClassification, attention: str = "sdpa", **changes: Any
) -> Any:
    """A model in eval mode. Its weights are larger than fresh ones, and no bias is zero: a wrong sum shows."""
    torch.manual_seed(0)
    model = model_class(tiny_config(**changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.set_attn_implementation(attention)
    return model.eval()


def images(count: int = 4, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def labels(count: int = 4) -> torch.Tensor:
    return torch.arange(count) * 5 % 14


def gradients(model: torch.nn.Module, **inputs: Any) -> dict[str, torch.Tensor]:
    """What one backward pass of the loss gives every parameter."""
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
