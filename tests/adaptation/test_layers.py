"""Layers are trained the same every time, batch norms keep their statistics, and adapters end in plain weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from celluscan_hf.adaptation.adapt import Start
from celluscan_hf.adaptation.cells import LabelledCells, view_of
from celluscan_hf.adaptation.layers import Schedule, train_layers
from celluscan_hf.adaptation.trials import head_for, with_head
from celluscan_hf.errors import CelluScanError
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.low_rank import add_adapters, merge
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification

SHORT = Schedule(steps=4, batch_size=6)


@pytest.fixture
def train(start: Start, drawn: Path, read: Callable[..., LabelledCells]) -> Callable[..., None]:
    """Train a model on the drawn cells."""
    cells = read(drawn)

    def run(model: torch.nn.Module, schedule: Schedule = SHORT, seed: int = 0, **options: bool) -> None:
        view = view_of(start.processor)
        train_layers(model, cells.pixels, cells.labels, view, schedule, seed, **options)  # type: ignore[arg-type]

    return run


def copy(start: Start) -> torch.nn.Module:
    return with_head(start.model, head_for(start.model, start.names), start.names)


def test_the_same_seed_gives_the_same_weights(start: Start, train: Callable[..., None]) -> None:
    first, again, other = copy(start), copy(start), copy(start)
    train(first)
    train(again)
    train(other, seed=1)
    states = [model.state_dict() for model in (first, again, other)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())
    assert not first.training


def test_it_learns(start: Start, train: Callable[..., None], drawn: Path, read: Callable[..., LabelledCells]) -> None:
    cells, model = read(drawn), copy(start)
    pixel_values = view_of(start.processor)(cells.pixels)
    labels = torch.from_numpy(cells.labels)
    with torch.no_grad():
        before = model(pixel_values=pixel_values, labels=labels).loss
    train(model, Schedule(steps=40, batch_size=18, learning_rate=2e-3))
    with torch.no_grad():
        assert model(pixel_values=pixel_values, labels=labels).loss < before


def test_batch_norms_keep_their_statistics_unless_told_otherwise(train: Callable[..., None]) -> None:
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    model = CelluScanForImageClassification(
        CelluScanConfig(**sizes, image_size=32, patch_size=8, patch_stem="convolution")
    )
    before = {name: value.clone() for name, value in model.named_buffers()}
    train(model)
    assert before
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    train(model, keep_statistics=False)
    assert not any(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_adapters_are_merged_into_plain_weights(start: Start, train: Callable[..., None]) -> None:
    model = copy(start)
    names = set(model.state_dict())
    adapters = add_adapters(model, 8)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert {name for name in trainable if "lora" not in name} == {"classifier.linear.weight", "classifier.linear.bias"}
    train(model)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = model(pixel_values=images).logits
        plain = merge(adapters)
        assert torch.allclose(plain(pixel_values=images).logits, expected, atol=1e-5)
    assert set(plain.state_dict()) == names
    weight = "vit.layers.0.attention.qkv.weight"
    assert not torch.equal(plain.state_dict()[weight], start.model.state_dict()[weight])
    assert torch.equal(
        plain.state_dict()["vit.embeddings.cls_token"], start.model.state_dict()["vit.embeddings.cls_token"]
    )


def test_without_peft_the_extra_is_named(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(CelluScanError, match=r'pip install "celluscan_hf\[adapt\]"'):
        add_adapters(copy(start), 8)


def test_every_class_is_drawn_equally_often() -> None:
    from celluscan_hf.adaptation.layers import _batches

    labels = np.repeat([0, 5], [30, 3])
    rows = np.concatenate(list(_batches(labels, Schedule(steps=50, batch_size=20), seed=0)))
    assert abs((labels[rows] == 5).mean() - 0.5) < 0.05
