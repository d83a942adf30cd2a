"""The model under function transforms, graph capture, PEFT and Opacus works as the library's own ViT does."""

from typing import Any

import pytest
import torch
from torch.func import functional_call, grad, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification, CelluScanModel

from .conftest import gradients, images, labels, tiny_model

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
STEMS = ["linear", "convolution"]


def state(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Parameters, detached, and buffers, as `torch.func` takes them."""
    return {name: value.detach() for name, value in model.named_parameters()}, dict(model.named_buffers())


def loss_of_one(model: Any) -> Any:
    """The loss of one image as a function of the parameters."""
    _, buffers = state(model)

    def loss(parameters: dict[str, torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        inputs = {"pixel_values": image[None], "labels": label[None]}
        return functional_call(model, (parameters, buffers), (), inputs).loss

    return loss


def one_by_one(model: Any) -> dict[str, torch.Tensor]:
    """The gradients of each image alone, stacked."""
    alone = [
        gradients(model, pixel_values=images()[[index]], labels=labels()[[index]]) for index in range(len(images()))
    ]
    model.zero_grad(set_to_none=True)
    return {name: torch.stack([each[name] for each in alone]) for name in alone[0]}


@pytest.mark.parametrize(("patch_stem", "attention"), [("linear", "sdpa"), ("convolution", "eager")])
def test_vmap_over_images_gives_the_logits_of_the_batch(patch_stem, attention):
    model = tiny_model(patch_stem=patch_stem, attention=attention, input_norm="image")
    logits = vmap(lambda image: model(pixel_values=image[None]).logits[0])(images())
    assert_close(logits, model(images()).logits, **CLOSE)


@pytest.mark.parametrize("patch_stem", STEMS)
def test_gradients_per_image_are_those_of_each_image_alone(patch_stem):
    model = tiny_model(patch_stem=patch_stem)
    parameters, _ = state(model)
    gradients = vmap(grad(loss_of_one(model)), in_dims=(None, 0, 0))(parameters, images(), labels())
    assert_close(gradients, one_by_one(model), **CLOSE)


def test_a_jacobian_of_the_logits_is_their_gradient():
    model, image = tiny_model(), images(1).requires_grad_()
    gradients = jacrev(lambda pixels: model(pixel_values=pixels).logits[0, 3])(image)
    assert_close(gradients, torch.autograd.grad(model(image).logits[0, 3], image)[0], **CLOSE)


@pytest.mark.parametrize("mode", ["real", "symbolic"])
def test_a_traced_graph_gives_the_same_loss(mode):
    model = tiny_model()

    def loss(parameters: Any, pixels: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        return functional_call(model, parameters, (), {"pixel_values": pixels, "labels": classes}).loss

    traced = make_fx(loss, tracing_mode=mode)(state(model)[0], images(), labels())
    assert_close(traced(state(model)[0], images(), labels()), model(images(), labels=labels()).loss, **CLOSE)


def test_outside_of_transforms_values_are_still_checked():
    model = tiny_model()
    assert vmap(lambda image: model(image[None]).logits)(images()).shape == (4, 1, 14)
    with pytest.raises(ValueError, match="must be finite"):
        model(images() * float("nan"))


UNUSED = ["position_ids", "inputs_embeds", "input_ids", "num_queries", "head_mask", "bool_masked_pos", "use_cache"]


@pytest.mark.parametrize("model_class", [CelluScanModel, CelluScanForImageClassification])
def test_keywords_of_other_models_and_of_blocks_change_nothing(model_class):
    model = tiny_model(model_class)
    expected = model(images())[0]
    for name in ("attention_mask", *UNUSED):
        assert torch.equal(model(pixel_values=images(), **{name: None})[0], expected), name
    assert torch.equal(model(images(), num_queries=1)[0], expected)


@pytest.mark.parametrize(("pooled_only", "tokens"), [(None, 1), (True, 1), (False, 17)])
def test_a_hook_on_the_last_block_of_a_classifier_sees_the_requested_tokens(pooled_only, tokens):
    model, shapes = tiny_model(), []
    model.vit.layers[-1].register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    assert_close(model(images(), pooled_only=pooled_only).logits, tiny_model()(images()).logits, **CLOSE)
    assert shapes == [(4, tokens, 32)]


@pytest.mark.parametrize(("four_dimensions", "attention"), [(False, "eager"), (False, "sdpa"), (True, "sdpa")])
def test_a_masked_patch_is_ignored(four_dimensions, attention):
    model, changed = tiny_model(attention=attention), images()
    changed[:, :, :8, 8:16] = 0  # the second patch, token 2
    mask = torch.ones(4, 17)
    mask[:, 2] = 0
    if four_dimensions:
        mask = torch.where(mask[:, None, None].expand(4, 1, 17, 17) > 0, 0.0, float("-inf"))
    assert (model(images()).logits - model(changed).logits).abs().max() > 1e-2
    masked = [model(pixels, attention_mask=mask).logits for pixels in (images(), changed)]
    assert_close(*masked, **CLOSE)
    assert (masked[0] - model(images()).logits).abs().max() > 1e-2


def test_a_mask_that_hides_nothing_changes_nothing():
    model = tiny_model()
    assert_close(model(images(), attention_mask=torch.ones(4, 17)).logits, model(images()).logits, **CLOSE)


@pytest.mark.parametrize(
    ("model_class", "patch_stem"), [(CelluScanModel, "linear"), (CelluScanForImageClassification, "convolution")]
)
def test_lora_trains_as_a_feature_extractor(patch_stem, model_class):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["qkv", "proj"], r=2)
    model = peft.get_peft_model(tiny_model(model_class, patch_stem=patch_stem), settings)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    assert trained
    model(pixel_values=images())[0].square().mean().backward()
    assert all(value.grad is not None for value in trained.values())


def private(model: Any) -> Any:
    opacus = pytest.importorskip("opacus")
    return opacus.GradSampleModule(model, loss_reduction="mean")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_opacus_gives_gradients_per_image(pooling):
    expected = one_by_one(tiny_model(pooling=pooling))
    model = private(tiny_model(pooling=pooling, hidden_dropout_prob=0.0).train())
    model(pixel_values=images(), labels=labels()).loss.backward()
    gradients = {name: parameter.grad_sample for name, parameter in model._module.named_parameters()}
    assert_close(gradients, expected, **CLOSE)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_opacus_takes_a_convolution_stem_once_batch_norms_are_group_norms():
    validators = pytest.importorskip("opacus.validators")
    model = tiny_model(patch_stem="convolution", hidden_dropout_prob=0.0).train()
    assert "BatchNorm" in str(validators.ModuleValidator.validate(model)[0])
    fixed = private(validators.ModuleValidator.fix(model))
    fixed(pixel_values=images(), labels=labels()).loss.backward()
    assert all(len(parameter.grad_sample) == 4 for parameter in fixed._module.parameters())
