"""The forward pass: parameters, outputs, attention, positions, number formats, compilers."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import ViTConfig
from transformers.models.vit.modeling_vit import ViTEmbeddings

from celluscan_hf.inference.attention import record_attention
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import (
    CelluScanForImageClassification,
    CelluScanModel,
    eager_attention_forward,
    standardize_colors,
)

from .conftest import NO_DROPOUT, TINY, gradients, images, labels, tiny_model

CLOSE = {"rtol": 0.0, "atol": 1e-5}
NAMES_OF_TORCH = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "layernorm": "norm",
    "attention.qkv.": "self_attn.in_proj_",
    "attention.proj": "self_attn.out_proj",
    "mlp.fc1": "linear1",
    "mlp.fc2": "linear2",
}


def vit_parameters(width: int, depth: int, mlp: int, patch: int, image: int, classes: int) -> int:
    """The parameters of a Vision Transformer, counted by hand."""
    patches = 3 * patch**2 * width + width
    class_token_and_positions = width + (1 + (image // patch) ** 2) * width
    attention = width * 3 * width + 3 * width + width * width + width
    block = 2 * width + attention + 2 * width + width * mlp + mlp + mlp * width + width
    return patches + class_token_and_positions + depth * block + 2 * width + width * classes + classes


def test_vit_b16_has_as_many_parameters_as_counted_by_hand():
    with torch.device("meta"):
        model = CelluScanForImageClassification(CelluScanConfig())
    assert model.num_parameters() == vit_parameters(768, 12, 3072, 16, 224, 14) == 85_809_422


def test_modules_have_the_names_of_the_seed():
    names = {name: type(module).__name__ for name, module in tiny_model().named_modules()}
    assert names["vit.embeddings"] == "PatchEmbedding"
    assert names["vit.layers.1"] == "TransformerBlock"
    assert names["vit.layers.1.attention"] == "MultiHeadSelfAttention"
    assert names["classifier"] == "ViTClassifier"


def test_names_in_a_checkpoint_stay_the_same():
    block = ["layernorm_before", "attention.qkv", "attention.proj", "layernorm_after", "mlp.fc1", "mlp.fc2"]
    modules = ["vit.embeddings.projection", *(f"vit.layers.0.{name}" for name in block), "vit.layernorm"]
    expected = [f"{module}.{kind}" for module in [*modules, "classifier.linear"] for kind in ("weight", "bias")]
    tables = ["vit.embeddings.cls_token", "vit.embeddings.position_embeddings"]
    assert set(tiny_model(num_hidden_layers=1).state_dict()) == {*tables, *expected}


@pytest.mark.parametrize(("pooling", "patch_stem"), [("cls", "linear"), ("mean", "convolution")])
def test_outputs_have_their_shapes(pooling, patch_stem):
    model = tiny_model(pooling=pooling, patch_stem=patch_stem)
    base = model.vit(images(3))
    assert model(images(3)).logits.shape == (3, 14)
    assert base.last_hidden_state.shape == (3, 17, 32) and base.pooler_output.shape == (3, 32)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_eager_attention_equals_sdpa(pooling):
    eager, sdpa = (tiny_model(attention=name, pooling=pooling, **NO_DROPOUT) for name in ("eager", "sdpa"))
    assert_close(eager(images()).logits, sdpa(images()).logits, **CLOSE)
    batch = {"pixel_values": images(), "labels": labels()}
    assert_close(gradients(eager, **batch), gradients(sdpa, **batch), **CLOSE)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_flex_attention_equals_sdpa(fresh_compiler):
    flex, sdpa = (tiny_model(CelluScanModel, attention=name) for name in ("flex_attention", "sdpa"))
    # on the CPU flex attention has no backward pass, and compiling its kernel takes half a minute
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        assert_close(flex(images()).last_hidden_state, sdpa(images()).last_hidden_state, **CLOSE)


def encoder_of_torch(model: CelluScanForImageClassification) -> nn.TransformerEncoder:
    """PyTorch's own pre-norm encoder, with the weights of `model`."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", 1e-6, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(32, 1e-6), enable_nested_tensor=False)
    state = {name: value for name, value in model.vit.state_dict().items() if not name.startswith("embeddings")}
    for ours, theirs in NAMES_OF_TORCH.items():
        state = {name.replace(ours, theirs): value for name, value in state.items()}
    encoder.load_state_dict(state)
    return encoder.eval()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_those_of_the_encoder_of_torch(attention):
    model = tiny_model(attention=attention)
    embeddings, linear = model.vit.embeddings, model.classifier.linear
    patches = nn.functional.unfold(images(), kernel_size=8, stride=8).transpose(1, 2)
    patches = patches @ embeddings.projection.weight.flatten(1).T + embeddings.projection.bias
    tokens = torch.cat((embeddings.cls_token.repeat(4, 1, 1), patches), dim=1) + embeddings.position_embeddings
    encoded = encoder_of_torch(model)(tokens)
    assert_close(model.vit(images()).last_hidden_state, encoded, **CLOSE)
    assert_close(model(images()).logits, encoded[:, 0] @ linear.weight.T + linear.bias, **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_first_tokens_see_the_last_patch(attention):
    model = tiny_model(CelluScanModel, attention=attention)
    changed = images()
    changed[:, :, -8:, -8:] += 1
    difference = model(images()).last_hidden_state - model(changed).last_hidden_state
    assert (difference[:, :2].abs().amax(dim=2) > 1e-3).all()


@pytest.mark.parametrize("patch_stem", ["linear", "convolution"])
def test_a_saved_model_gives_exactly_the_same_logits(patch_stem, tmp_path):
    model = tiny_model(patch_stem=patch_stem)
    model.train()(images(16))
    model.eval().save_pretrained(tmp_path)
    again = CelluScanForImageClassification.from_pretrained(tmp_path)
    assert torch.equal(again(images()).logits, model(images()).logits)


def test_a_head_can_be_loaded_as_base_and_gives_the_same_tokens(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    base = CelluScanModel.from_pretrained(tmp_path)
    assert torch.equal(base(images()).last_hidden_state, model.vit(images()).last_hidden_state)


def test_return_dict_false_gives_a_tuple():
    model = tiny_model()
    outputs = model(images(), return_dict=False)
    loss, logits = model(images(), labels=labels(), return_dict=False)
    assert isinstance(outputs, tuple) and len(outputs) == 1
    assert torch.equal(tiny_model(return_dict=False)(images())[0], outputs[0])
    assert loss.dim() == 0 and torch.equal(logits, outputs[0])
    assert len(model.vit(images(), return_dict=False)) == 2


def test_hidden_states_are_the_embeddings_and_each_block():
    model = tiny_model(num_hidden_layers=3)
    states = model(images(), output_hidden_states=True).hidden_states
    assert [tuple(state.shape) for state in states] == [(4, 17, 32)] * 4
    assert torch.equal(states[0], model.vit.embeddings(images()))
    assert_close(model.vit.layernorm(states[-1]), model.vit(images()).last_hidden_state)


def test_attentions_are_shares_that_sum_to_one():
    attentions = tiny_model(attention="eager")(images(), output_attentions=True).attentions
    assert [tuple(weights.shape) for weights in attentions] == [(4, 4, 17, 17)] * 2
    for weights in attentions:
        assert weights.min() >= 0
        assert_close(weights.sum(dim=-1), torch.ones(4, 4, 17), **CLOSE)


def test_a_config_may_ask_for_hidden_states_and_attentions_of_every_token():
    outputs_wanted = {"output_hidden_states": True, "output_attentions": True}
    both = tiny_model(attention="eager", **outputs_wanted)(images())
    for field, shape in {"hidden_states": (4, 17, 32), "attentions": (4, 4, 17, 17)}.items():
        alone = getattr(tiny_model(attention="eager", **{f"output_{field}": True})(images()), field)
        assert [tuple(states[-1].shape) for states in (alone, getattr(both, field))] == [shape, shape]


@pytest.mark.parametrize(("pooling", "attention"), [("cls", "eager"), ("cls", "sdpa"), ("mean", "sdpa")])
def test_asking_for_hidden_states_does_not_change_the_logits(pooling, attention):
    model = tiny_model(attention=attention, pooling=pooling)
    every_token = model(images(), output_hidden_states=True).logits
    assert_close(model(images()).logits, every_token, **CLOSE)


def test_pooled_only_computes_the_class_token_alone():
    model = tiny_model(CelluScanModel)
    short, full = model(images(), pooled_only=True), model(images())
    assert short.last_hidden_state.shape == (4, 1, 32)
    assert_close(short.pooler_output, full.pooler_output, **CLOSE)
    assert torch.equal(full.pooler_output, full.last_hidden_state[:, 0])


def test_mean_pooling_leaves_the_class_token_out():
    outputs = tiny_model(CelluScanModel, pooling="mean")(images(), pooled_only=True)
    patches = outputs.last_hidden_state.split((1, 16), dim=1)[1]
    assert_close(outputs.pooler_output, patches.sum(dim=1) / 16)


@pytest.mark.parametrize(
    ("height", "width", "patch_stem"),
    [(16, 16, "linear"), (32, 40, "linear"), (40, 32, "linear"), (24, 56, "convolution")],
)
def test_images_of_other_sizes_are_accepted(height, width, patch_stem):
    model = tiny_model(patch_stem=patch_stem)
    outputs = model(images(2, height, width), interpolate_pos_encoding=True, output_hidden_states=True)
    assert outputs.logits.isfinite().all()
    assert outputs.hidden_states[0].shape == (2, 1 + height * width // 64, 32)


def test_interpolation_keeps_rows_rows_and_columns_columns():
    embeddings = tiny_model().vit.embeddings
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    embeddings.position_embeddings.data[:, 1:, 0] = row.flatten()
    embeddings.position_embeddings.data[:, 1:, 1] = column.flatten()
    grid = embeddings.interpolated_positions(6, 9)[0, 1:].view(6, 9, 32)
    assert_close(grid[..., 0], grid[:, :1, 0].expand(6, 9), **CLOSE)
    assert_close(grid[..., 1], grid[:1, :, 1].expand(6, 9), **CLOSE)
    assert (grid[:, 0, 0].diff() > 0).all() and (grid[0, :, 1].diff() > 0).all()


@pytest.mark.parametrize(("rows", "columns"), [(6, 9), (4, 7)])
def test_interpolated_positions_are_those_of_the_library(rows, columns):
    ours, theirs = tiny_model().vit.embeddings, ViTEmbeddings(ViTConfig(**TINY))
    theirs.position_embeddings = ours.position_embeddings
    tokens = torch.zeros(1, 1 + rows * columns, 32)
    expected = theirs.interpolate_pos_encoding(tokens, 8 * rows, 8 * columns)
    assert_close(ours.interpolated_positions(rows, columns), expected, **CLOSE)


@pytest.mark.parametrize(("dtype", "attention"), [(torch.bfloat16, "eager"), (torch.float16, "sdpa")])
def test_half_precision_stays_close(dtype, attention):
    expected = tiny_model()(images()).logits
    logits = tiny_model(attention=attention).to(dtype)(images().to(dtype)).logits
    assert logits.dtype == dtype
    assert (logits - expected).abs().max() < 0.05 * expected.std()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_attention_are_computed_in_full_precision(dtype):
    query, key, value = torch.randn(3, 2, 4, 197, 8).to(dtype)
    _, weights = eager_attention_forward(nn.Identity(), query, key, value, attention_mask=None, scaling=1.0)
    expected = (query @ key.transpose(2, 3)).float().softmax(dim=-1).to(dtype)
    assert torch.equal(weights, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_interpolated_in_full_precision(dtype):
    halved = tiny_model().to(dtype)
    expected = copy.deepcopy(halved).float().vit.embeddings.interpolated_positions(6, 9).to(dtype)
    assert torch.equal(halved.vit.embeddings.interpolated_positions(6, 9), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_take_the_dtype_of_the_model(dtype):
    model = tiny_model().to(torch.bfloat16)
    assert torch.equal(model(images().to(dtype)).logits, model(images().to(torch.bfloat16)).logits)


class Quantised(nn.Module):
    """A projection whose weight is kept in 8 bits."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.scale = projection.weight.abs().max().item() / 127
        self.weight = nn.Parameter((projection.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = projection.bias

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(pixel_values.dtype) * self.scale
        return nn.functional.conv2d(pixel_values, weight, self.bias, stride=8)


def test_pixels_take_the_dtype_of_the_norms_if_weights_are_quantized():
    model, pixel_values = tiny_model().to(torch.bfloat16), images()
    expected = model(pixel_values).logits
    model.vit.embeddings.projection = Quantised(model.vit.embeddings.projection)
    assert (model(pixel_values).logits - expected).abs().max() < 0.1 * expected.std()


def test_the_library_knows_what_the_model_supports():
    flags = ("_supports_sdpa", "_supports_flash_attn", "_supports_flex_attn", "_supports_attention_backend")
    for model_class in (CelluScanModel, CelluScanForImageClassification):
        assert all(getattr(model_class, flag) is True for flag in (*flags, "_can_compile_fullgraph"))
    names = {type(module).__name__ for module in tiny_model().modules()}
    assert set(CelluScanForImageClassification._no_split_modules) <= names


@pytest.mark.parametrize(("share", "places"), [(2, {"cpu", "disk"}), (5, {"disk"})])
def test_a_model_too_large_for_memory_is_split_between_modules(share, places, tmp_path):
    model = tiny_model(num_hidden_layers=6)
    model.save_pretrained(tmp_path)
    limits = {"max_memory": {"cpu": model.get_memory_footprint() // share}, "offload_folder": tmp_path / "disk"}
    spread = CelluScanForImageClassification.from_pretrained(tmp_path, device_map="auto", **limits)
    parts = {"vit.embeddings", *(f"vit.layers.{index}" for index in range(6)), "vit.layernorm", "classifier"}
    assert set(spread.hf_device_map) in (parts, {""}) and set(spread.hf_device_map.values()) == places
    assert_close(spread(images()).logits, model(images()).logits, **CLOSE)


@pytest.mark.slow
def test_compiled_logits_are_the_same(fresh_compiler):
    model = tiny_model()
    with torch.no_grad():
        assert_close(torch.compile(model, fullgraph=True)(images()).logits, model(images()).logits, **CLOSE)


def test_a_compiled_model_returns_inner_states_after_an_uncompiled_call(fresh_compiler):
    model, options = tiny_model(attention="eager"), {"output_hidden_states": True, "output_attentions": True}
    expected = model(images(), **options)
    outputs = torch.compile(model, fullgraph=True, backend="eager")(images(), **options)
    for name in ("hidden_states", "attentions"):
        assert_close(outputs[name], expected[name], **CLOSE)


def test_values_are_not_checked_in_a_compiled_graph(fresh_compiler):
    pixel_values, ignored = images(), torch.tensor([0, 1, -100, 3])
    pixel_values[0, 0, 0, 0] = float("nan")
    outputs = torch.compile(tiny_model(), fullgraph=True, backend="eager")(pixel_values, labels=ignored)
    assert outputs.logits[0].isnan().all() and outputs.logits[1:].isfinite().all()


def test_an_exported_graph_takes_any_number_of_images():
    model = tiny_model()
    batch = {"pixel_values": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(model, (images(),), dynamic_shapes=batch).module()
    for count in (1, 2, 7):
        assert_close(exported(images(count)).logits, model(images(count)).logits, **CLOSE)


def test_fsdp_shards_block_by_block_and_gives_the_same_logits(tmp_path):
    from torch.distributed import destroy_process_group, init_process_group
    from torch.distributed.fsdp import fully_shard

    init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    try:
        model, unsharded = tiny_model(), tiny_model()
        for module in model.modules():
            if type(module).__name__ in model._no_split_modules:
                fully_shard(module)
        fully_shard(model)
        outputs = model(images(), labels=labels())
        outputs.loss.backward()
        assert_close(outputs.logits, unsharded(images()).logits, rtol=0, atol=1e-5)
        assert all(parameter.grad is not None for parameter in model.parameters())
    finally:
        destroy_process_group()


FLIPS = (lambda x: x, lambda x: x.flip(3), lambda x: x.flip(2), lambda x: x.flip((2, 3)))


def test_an_image_under_another_lamp_or_contrast_gets_the_same_logits():
    model = tiny_model(input_norm="image")
    lamp = torch.tensor([0.3, -0.2, 0.5])[:, None, None]
    assert_close(model(1.7 * images() + lamp).logits, model(images()).logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(tiny_model()(1.7 * images() + lamp).logits, tiny_model()(images()).logits, atol=1e-3)


def test_standardized_colours_have_the_background_at_zero_and_unit_variance():
    image = torch.full((1, 3, 32, 32), 0.9)
    image[:, :, 8:16, 8:16] = torch.tensor([0.4, 0.2, 0.6])[:, None, None]
    standardized = standardize_colors(image)
    assert (standardized[:, :, 20:, 20:] == 0).all()
    assert abs(standardized.std() - 1) < 1e-5
    assert standardize_colors(torch.full((2, 3, 8, 8), 0.3)).isfinite().all()  # nothing to divide by


@pytest.mark.parametrize("views", [2, 4, 8])
def test_the_answer_is_that_of_the_mean_over_symmetric_copies(views):
    model, plain = tiny_model(views=views), tiny_model()
    copies = [flip(image) for image in (images(), images().mT) for flip in FLIPS][:views]
    features = torch.stack([plain.vit(copy).pooler_output for copy in copies]).mean(dim=0)
    assert_close(model(images()).logits, plain.classifier(features), rtol=0, atol=1e-5)


def test_with_eight_views_a_turned_or_mirrored_image_gets_the_same_logits():
    model = tiny_model(views=8)
    for turned in (images().rot90(1, (2, 3)), images().flip(3), images().mT):
        assert_close(model(turned).logits, model(images()).logits, rtol=0, atol=1e-5)


def test_states_and_attention_are_those_of_the_image_as_it_is():
    wanted = {"output_hidden_states": True, "output_attentions": True}
    ours, plain = (tiny_model(views=views, attention="eager")(images(), **wanted) for views in (4, 1))
    for name in ("hidden_states", "attentions"):
        for mine, expected in zip(ours[name], plain[name], strict=True):
            assert_close(mine, expected, rtol=0, atol=1e-5)


def test_in_training_there_is_one_view():
    model, plain = (tiny_model(views=views, hidden_dropout_prob=0.0).train() for views in (8, 1))
    assert_close(model(images()).logits, plain(images()).logits, rtol=0, atol=1e-5)


def test_images_that_are_not_square_cannot_be_transposed():
    wide = torch.randn(1, 3, 32, 64)
    assert tiny_model(views=4)(wide, interpolate_pos_encoding=True).logits.shape == (1, 14)
    with pytest.raises(ValueError, match="views=8 needs square images, got 32 x 64"):
        tiny_model(views=8)(wide, interpolate_pos_encoding=True)


CROPS = [0.9, 0.72, 0.45]  # the second is 0.8 of the first, the third half of it


def pictures() -> torch.Tensor:
    return images(height=64, width=64)


def test_the_answer_is_that_of_the_mean_over_crops() -> None:
    model, plain = tiny_model(crops=CROPS, views=2), tiny_model()
    shrink = partial(torch.nn.functional.interpolate, size=(32, 32), mode="bilinear", antialias=True)
    whole, most, middle = shrink(pictures()), shrink(pictures()[:, :, 6:57, 6:57]), pictures()[:, :, 16:48, 16:48]
    seen = [flipped for image in (whole, most, middle) for flipped in (image, image.flip(3))]
    features = torch.stack([plain.vit(image).pooler_output for image in seen]).mean(dim=0)
    assert_close(model(pictures()).logits, plain.classifier(features), rtol=0, atol=1e-5)


def test_an_image_that_was_cropped_before_is_seen_as_it_is() -> None:
    assert_close(tiny_model(crops=CROPS)(images()).logits, tiny_model()(images()).logits, rtol=0, atol=1e-5)


def test_a_picture_of_another_size_is_refused_with_the_one_expected() -> None:
    with pytest.raises(ValueError, match=r"\(batch, 3, 64, 64\), got \(4, 3, 50, 50\)"):
        tiny_model(crops=CROPS)(images(height=50, width=50))


def test_attention_is_that_of_the_whole_picture() -> None:
    model, plain = (tiny_model(attention="eager", crops=crops) for crops in (CROPS, []))
    shrunk = torch.nn.functional.interpolate(pictures(), size=(32, 32), mode="bilinear", antialias=True)
    seen, expected = model(pictures(), output_attentions=True), plain(shrunk, output_attentions=True)
    for mine, theirs in zip(seen.attentions, expected.attentions, strict=True):
        assert_close(mine, theirs, rtol=0, atol=1e-5)
    record = record_attention(model, pictures())
    assert record.grid == (4, 4)
    assert record.rollout().shape == (4, 4, 4)
