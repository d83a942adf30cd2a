"""Published sizes, random weights: logits of each library come in and go out again within 1e-5."""

from importlib.util import find_spec

import pytest
import torch
from torchvision.models import vit_b_16
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from celluscan_hf.modeling.conversion import from_model
from celluscan_hf.modeling.exporting import to_timm, to_torchvision, to_transformers

NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="the extra timm is not installed")


def timm_vit():
    import timm

    return timm.create_model("vit_base_patch16_224")


def transformers_vit():
    return ViTForImageClassification(ViTConfig(num_labels=1000))


def dinov2_base():
    return Dinov2ForImageClassification(Dinov2Config(image_size=224, num_labels=1000))


def dinov2_base_with_registers():
    return Dinov2WithRegistersForImageClassification(Dinov2WithRegistersConfig(image_size=224, num_labels=1000))


def timm_dinov2_small():
    import timm

    return timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=1000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "back"),
    [
        pytest.param(vit_b_16, to_torchvision, id="torchvision"),
        pytest.param(transformers_vit, to_transformers, id="transformers"),
        pytest.param(timm_vit, to_timm, id="timm", marks=NEEDS_TIMM),
        pytest.param(dinov2_base, to_transformers, id="DINOv2 ViT-B/14"),
        pytest.param(dinov2_base_with_registers, to_transformers, id="DINOv2 ViT-B/14 with registers"),
        pytest.param(timm_dinov2_small, to_timm, id="timm DINOv2 ViT-S/14", marks=NEEDS_TIMM),
    ],
)
@torch.no_grad()
def test_logits_are_kept_both_ways(make, back):
    torch.manual_seed(0)
    theirs = make().eval()
    for parameter in theirs.parameters():  # no bias stays zero, no norm one
        parameter.add_(torch.randn_like(parameter), alpha=0.02)
    images = torch.randn(2, 3, 224, 224)
    ours = from_model(theirs).build()
    expected, actual, returned = (
        getattr(out, "logits", out) for out in (m(images) for m in (theirs, ours, back(ours)))
    )
    differences = {"in": float((actual - expected).abs().max()), "out": float((returned - actual).abs().max())}
    print(f"largest difference of a logit: in {differences['in']:.1e}, out {differences['out']:.1e}")
    assert expected.abs().max() > 1
    assert max(differences.values()) < 1e-5
