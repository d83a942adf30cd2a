"""Batch-norm statistics of other images, without labels."""

import pytest
import torch
from torch import nn

from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.target_statistics import PRIOR, use_target_statistics
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification

IMAGES = 3 * torch.randn(50, 3, 32, 32, generator=torch.Generator().manual_seed(0)) + 1
SIZES = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def build(patch_stem: str = "convolution") -> CelluScanForImageClassification:
    torch.manual_seed(0)
    return CelluScanForImageClassification(CelluScanConfig(**SIZES, intermediate_size=64, patch_stem=patch_stem))


def outputs_of_norms(model: nn.Module) -> list[torch.Tensor]:
    """What each batch norm makes of all images."""
    kept: list[torch.Tensor] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(lambda _, inputs, output: kept.append(output)) for layer in layers]
    model.eval()(IMAGES)
    for hook in hooks:
        hook.remove()
    return kept


def test_every_layer_then_normalizes_those_images_whatever_the_batches() -> None:
    model = build()
    use_target_statistics(model, lambda: [IMAGES[:20], IMAGES[20:]], prior=0)
    for values in outputs_of_norms(model):
        assert values.mean((0, 2, 3)).abs().max() < 1e-4
        assert (values.std((0, 2, 3)) - 1).abs().max() < 1e-2
    other = build()
    use_target_statistics(other, lambda: IMAGES.split(7), prior=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value)


def test_few_images_move_the_statistics_a_little() -> None:
    before, after = build(), build()
    use_target_statistics(after, lambda: [IMAGES[:4]])
    name = "vit.embeddings.projection.1.running_mean"
    moved = build()
    use_target_statistics(moved, lambda: [IMAGES[:4]], prior=0)
    share = (after.state_dict()[name] - before.state_dict()[name]) / moved.state_dict()[name]
    torch.testing.assert_close(share, torch.full_like(share, 4 / (4 + PRIOR)))


def test_mixed_statistics_are_those_of_training_and_target_images_together() -> None:
    model = build()
    layer = model.vit.embeddings.projection[1]
    channels = model.vit.embeddings.projection[0](IMAGES[:8]).detach()
    layer.running_mean += 2.0
    use_target_statistics(model, lambda: [IMAGES[:8]], prior=8)
    mean, variance = channels.mean((0, 2, 3)), channels.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(layer.running_mean, (mean + 2.0) / 2)
    torch.testing.assert_close(layer.running_var, (variance + 1) / 2 + (mean - 2.0) ** 2 / 4)


def test_a_model_without_batch_norm_is_refused() -> None:
    with pytest.raises(CelluScanError, match="has no batch norm"):
        use_target_statistics(build("linear"), lambda: [IMAGES])


def test_no_image_is_refused() -> None:
    with pytest.raises(CelluScanError, match="no image is left"):
        use_target_statistics(build(), list)
