import copy
from typing import Any

import pytest
import torch

from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.training.optimisation import MuonWithAdamW, averaging, parameter_groups, running_statistics


@pytest.fixture
def model() -> CelluScanForImageClassification:
    config = CelluScanConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        patch_stem="convolution",
    )
    return CelluScanForImageClassification(config)


def by_name(model: torch.nn.Module, **options: Any) -> dict[str, dict[str, Any]]:
    defaults = {"learning_rate": 1.0, "weight_decay": 0.1, "layer_decay": 0.5, "muon": False}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, **(defaults | options))
    return {names[id(parameter)]: group for group in groups for parameter in group["params"]}


def test_every_trained_weight_is_in_one_group(model: CelluScanForImageClassification) -> None:
    groups = parameter_groups(model, 1.0, 0.1, 0.5, muon=True)
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    model.vit.requires_grad_(False)
    assert set(by_name(model)) == {"classifier.linear.weight", "classifier.linear.bias"}


def test_norms_biases_class_token_and_positions_do_not_decay(model: CelluScanForImageClassification) -> None:
    decaying = {name for name, group in by_name(model).items() if group["weight_decay"]}
    assert all(name.endswith("weight") and "norm" not in name for name in decaying)
    assert "vit.embeddings.cls_token" not in decaying
    assert "vit.embeddings.position_embeddings" not in decaying
    assert "vit.embeddings.projection.1.weight" not in decaying  # of a batch norm
    assert {"vit.embeddings.projection.0.weight", "vit.layers.0.mlp.fc1.weight", "classifier.linear.weight"} <= decaying


def test_learning_rates_fall_from_the_head_to_the_embeddings(model: CelluScanForImageClassification) -> None:
    rates = {name: group["lr"] for name, group in by_name(model).items()}
    assert rates["classifier.linear.weight"] == rates["vit.layernorm.bias"] == 1
    assert rates["vit.layers.1.mlp.fc1.weight"] == 0.5
    assert rates["vit.layers.0.attention.qkv.bias"] == 0.25
    assert rates["vit.embeddings.cls_token"] == 0.125


def test_muon_gets_the_matrices_of_the_blocks(model: CelluScanForImageClassification) -> None:
    marked = {name for name, group in by_name(model, muon=True).items() if group["muon"]}
    kinds = ("attention.qkv", "attention.proj", "mlp.fc1", "mlp.fc2")
    assert marked == {f"vit.layers.{layer}.{kind}.weight" for layer in (0, 1) for kind in kinds}


def _step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def _weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten().clone() for parameter in model.parameters()])


def test_muon_and_adamw_take_the_steps_they_take_alone(model: CelluScanForImageClassification) -> None:
    other = copy.deepcopy(model)
    both = MuonWithAdamW(parameter_groups(model, 0.01, 0.1, 0.5, muon=True), lr=0.01)
    groups = parameter_groups(other, 0.01, 0.1, 0.5, muon=True)
    muon = torch.optim.Muon([group for group in groups if group["muon"]], adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW([group for group in groups if not group["muon"]], lr=0.01)
    for _ in range(3):
        _step(model, both)
        _step(other, muon)
        adamw.step()
    assert torch.equal(_weights(model), _weights(other))


def test_the_average_follows_the_weights_and_is_swapped_with_them(model: CelluScanForImageClassification) -> None:
    optimizer = averaging(torch.optim.AdamW, 0.5)(parameter_groups(model, 0.1, 0.0, 1.0, muon=False), lr=0.1)
    expected = None
    for steps in (1, 2, 3):
        _step(model, optimizer)
        kept = min(0.5, (1 + steps) / (10 + steps))
        trained = _weights(model)
        expected = trained if expected is None else kept * expected + (1 - kept) * trained
    optimizer.eval()
    optimizer.eval()  # twice is once
    assert torch.allclose(_weights(model), expected, atol=1e-6)
    optimizer.train()
    assert torch.equal(_weights(model), trained)


def test_the_statistics_of_batch_norms_are_averaged_with_the_weights(model: CelluScanForImageClassification) -> None:
    groups = parameter_groups(model, 0.1, 0.0, 1.0, muon=False) + running_statistics(model)
    optimizer = averaging(torch.optim.AdamW, 0.5)(groups, lr=0.1)
    mean = next(buffer for name, buffer in model.named_buffers() if name.endswith("running_mean"))
    for value in (1.0, 3.0):
        mean.fill_(value)
        _step(model, optimizer)
    optimizer.eval()
    kept = 3 / 12
    assert torch.allclose(mean, torch.tensor(kept * 1.0 + (1 - kept) * 3.0))
    optimizer.train()
    assert torch.equal(mean, torch.full_like(mean, 3.0))


@pytest.mark.parametrize("muon", [False, True])
def test_an_optimiser_saved_with_averages_shown_goes_on_exactly(
    model: CelluScanForImageClassification, muon: bool
) -> None:
    def make(module: torch.nn.Module) -> Any:
        groups = parameter_groups(module, 0.1, 0.1, 1.0, muon=muon)
        return averaging(MuonWithAdamW if muon else torch.optim.AdamW, 0.9)(groups, lr=0.1)

    optimizer = make(model)
    for _ in range(3):
        _step(model, optimizer)
    optimizer.eval()
    saved, loaded = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    resumed = make(saved)
    resumed.load_state_dict(loaded)
    for module, its_optimizer in ((model, optimizer), (saved, resumed)):
        its_optimizer.train()
        _step(module, its_optimizer)
    assert torch.equal(_weights(model), _weights(saved))
    optimizer.eval(), resumed.eval()
    assert torch.equal(_weights(model), _weights(saved))
