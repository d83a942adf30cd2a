"""Weights of torchvision, transformers and timm become ours: equal logits, every tensor is accounted for."""

import logging
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from torchvision.models import VisionTransformer, resnet18
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from celluscan_hf.modeling.configuration_celluscan import LABELS
from celluscan_hf.modeling.conversion import HEADS, from_model, from_weights
from celluscan_hf.modeling.exporting import to_timm, to_torchvision, to_transformers
from celluscan_hf.modeling.key_mapping import HALF, IMAGENET_MEAN, IMAGENET_STD, WeightsError

from .conftest import images, tiny_model

CLOSE = {"rtol": 0.0, "atol": 1e-5}
COARSE = 1e-2  # an epsilon whose loss is visible in the logits
NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="the extra timm is not installed")
TO = {"torchvision": to_torchvision, "transformers": to_transformers, "timm": to_timm}
LIBRARIES = ["torchvision", "transformers", pytest.param("timm", marks=NEEDS_TIMM)]
Weights = dict[str, torch.Tensor]


def randomised(model: nn.Module) -> Any:
    """Randomize all weights, so that each of them affects the logits."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model.eval()


def torchvision_vit(eps: float = 1e-6, **changes: Any) -> Any:
    sizes = dict(image_size=32, patch_size=8, num_layers=2, num_heads=3, hidden_dim=24, mlp_dim=56, num_classes=5)
    return randomised(VisionTransformer(**(sizes | changes), norm_layer=partial(nn.LayerNorm, eps=eps)))


def transformers_vit(model_class: type[nn.Module] = ViTForImageClassification, **changes: Any) -> Any:
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=56, num_labels=5)
    return randomised(model_class(ViTConfig(**(sizes | dict(image_size=32, patch_size=8) | changes))))


def timm_vit(**changes: Any) -> Any:
    import timm

    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.5, num_classes=5)
    return randomised(timm.create_model("vit_tiny_patch16_224", **(sizes | changes)))


def dinov2(model_class: type[nn.Module] = Dinov2ForImageClassification, **changes: Any) -> Any:
    sizes = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, num_labels=5, image_size=32, patch_size=8)
    registers = model_class is Dinov2WithRegistersForImageClassification
    config_class = Dinov2WithRegistersConfig if registers else Dinov2Config
    return randomised(model_class(config_class(**(sizes | changes))))


def timm_dinov2(name: str, **changes: Any) -> Any:
    import timm

    sizes = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    return randomised(timm.create_model(name, **(sizes | changes)))


THEIRS: dict[str, Callable[[], Any]] = {
    "torchvision": torchvision_vit,
    "torchvision, epsilon": partial(torchvision_vit, eps=COARSE),
    "torchvision, dropout": partial(torchvision_vit, dropout=0.2, attention_dropout=0.3),
    "transformers": transformers_vit,
    "transformers, epsilon": partial(transformers_vit, layer_norm_eps=COARSE),
    "transformers, no qkv bias": partial(transformers_vit, qkv_bias=False),
    "transformers, tanh": partial(transformers_vit, hidden_act="gelu_pytorch_tanh"),
    "transformers, quick gelu": partial(transformers_vit, hidden_act="quick_gelu"),
    "transformers, DINOv2": dinov2,
    "transformers, DINOv2, gated": partial(dinov2, use_swiglu_ffn=True),
    "transformers, DINOv2, registers": partial(dinov2, Dinov2WithRegistersForImageClassification),
    "transformers, DINOv2, both": partial(dinov2, Dinov2WithRegistersForImageClassification, use_swiglu_ffn=True),
    "timm, DINOv2": partial(timm_dinov2, "vit_small_patch14_dinov2"),
    "timm, DINOv2, gated": partial(timm_dinov2, "vit_giant_patch14_dinov2"),
    "timm, DINOv2, registers": partial(timm_dinov2, "vit_small_patch14_reg4_dinov2"),
    "timm, DINOv2, both": partial(timm_dinov2, "vit_giant_patch14_reg4_dinov2"),
    "timm": timm_vit,
    "timm, epsilon": partial(timm_vit, norm_layer=partial(nn.LayerNorm, eps=COARSE)),
    "timm, no qkv bias": partial(timm_vit, qkv_bias=False),
    "timm, tanh": partial(timm_vit, act_layer="gelu_tanh"),
    "timm, quick gelu": partial(timm_vit, act_layer="quick_gelu"),
    "timm, mean pooling": partial(timm_vit, global_pool="avg", fc_norm=False),
}


def named(names: Any) -> list[Any]:
    return [pytest.param(name, marks=NEEDS_TIMM if name.startswith("timm") else ()) for name in names]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(images())
    return getattr(outputs, "logits", outputs)


@pytest.mark.parametrize("name", named(THEIRS))
def test_our_model_gives_the_logits_of_theirs(name):
    theirs = THEIRS[name]()
    expected = logits(theirs)
    assert expected.std(dim=0).min() > 1e-3
    assert_close(logits(from_model(theirs).build()), expected, **CLOSE)


def test_a_lost_epsilon_would_be_visible():
    theirs = torchvision_vit(eps=COARSE)
    ignored = from_weights(theirs.state_dict(), num_attention_heads=3).build()
    assert (logits(ignored) - logits(theirs)).abs().max() > 1e-4


def test_a_model_without_a_head_gives_the_same_tokens_and_its_pooler_is_ignored():
    theirs = transformers_vit(ViTModel, layer_norm_eps=COARSE)
    checkpoint = from_model(theirs)
    with torch.no_grad():
        expected, tokens = theirs(images()), checkpoint.build().vit(images())
    assert_close(tokens.last_hidden_state, expected.last_hidden_state, **CLOSE)
    assert checkpoint.ignored_keys == ("pooler.dense.weight", "pooler.dense.bias")


def test_a_dinov2_without_a_head_gives_the_same_tokens_and_no_mask_token():
    theirs = dinov2(Dinov2Model)
    checkpoint = from_model(theirs)
    with torch.no_grad():
        expected, ours = theirs(images()), checkpoint.build().vit(images())
    assert_close(ours.last_hidden_state, expected.last_hidden_state, **CLOSE)
    assert_close(ours.pooler_output, expected.pooler_output, **CLOSE)
    assert checkpoint.ignored_keys == ("embeddings.mask_token",)
    assert (checkpoint.image_mean, checkpoint.image_std) == (IMAGENET_MEAN, IMAGENET_STD)


def authors_names(model: Any) -> Weights:
    """The weights of a DINOv2 of transformers, without its head, under the names of its authors."""
    renamed = {}
    for name, tensor in model.state_dict().items():
        ours = re.sub(r"^dinov2\w*\.(embeddings\.(?=cls|mask|reg))?", "", name)
        ours = ours.replace("embeddings.position_embeddings", "pos_embed").replace("encoder.layer.", "blocks.")
        ours = ours.replace("embeddings.patch_embeddings.projection", "patch_embed.proj")
        ours = re.sub(r"layer_scale(\d)\.lambda1", r"ls\1.gamma", ours).replace("attention.o_proj", "attn.proj")
        renamed[ours.replace("layernorm.", "norm.").replace("mlp.down_proj", "mlp.w3")] = tensor
    joined = {
        "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
        "mlp.w12": ("mlp.gate_proj", "mlp.up_proj"),
    }
    for theirs, parts in joined.items():
        for first in [name for name in renamed if parts[0] in name]:
            tensors = [renamed.pop(first.replace(parts[0], part)) for part in parts]
            renamed[first.replace(parts[0], theirs)] = torch.cat(tensors)
    return {name: tensor for name, tensor in renamed.items() if not name.startswith("classifier")}


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("model_class", [Dinov2ForImageClassification, Dinov2WithRegistersForImageClassification])
def test_a_file_of_the_authors_and_of_dinobloom_gives_the_same_features(model_class, gated):
    theirs = dinov2(model_class, use_swiglu_ffn=gated)
    names = authors_names(theirs)
    assert {"blocks.0.mlp.w12.weight" if gated else "blocks.0.mlp.fc1.weight", "pos_embed", "mask_token"} <= set(names)
    teacher = {f"backbone.{name}": tensor for name, tensor in names.items()}
    others = {"dino_head.mlp.0.weight": torch.zeros(2, 2), "ibot_head.last_layer.weight": torch.zeros(2)}
    with torch.no_grad():
        expected = theirs.base_model(images()).last_hidden_state
        for content in (names, {"teacher": teacher | others}):
            checkpoint = from_weights(content, num_attention_heads=3)
            tokens = checkpoint.build().vit(images()).last_hidden_state
            assert_close(tokens, expected, **CLOSE)
            assert (checkpoint.config.pooling, checkpoint.image_mean) == ("cls", IMAGENET_MEAN)


def test_what_does_not_fit_in_a_dinov2_is_named():
    names = authors_names(dinov2(Dinov2WithRegistersForImageClassification, use_swiglu_ffn=True))
    narrow = {"register_tokens": torch.zeros(1, 4, 12)}
    assert "register_tokens: expected the shape (1, 4, 24), got (1, 4, 12)" in message(names | narrow)
    plain = {name.replace("mlp.w12", "mlp.fc1"): tensor for name, tensor in names.items()}
    assert "blocks.0.mlp.fc2.weight" in message(plain)
    cut = {name: tensor for name, tensor in names.items() if not name.startswith("blocks.1.ls2")}
    assert "blocks.1.ls2.gamma" in message(cut)
    students = {"student": {f"backbone.{name}": tensor for name, tensor in names.items()}}
    assert from_weights(students, num_attention_heads=3).config.num_register_tokens == 4


def test_channels_and_image_size_are_derived_from_the_weights():
    config = from_model(transformers_vit(image_size=48, num_channels=1)).config
    assert (config.num_channels, config.image_size, config.patch_size) == (1, 48, 8)


NAME_SETS = {
    "torchvision module": "encoder.layers.encoder_layer_0.mlp.0.weight",
    "torchvision file": "encoder.layers.encoder_layer_0.mlp.linear_1.weight",
    "transformers in memory": "vit.layers.0.attention.q_proj.weight",
    "transformers in memory, no prefix": "layers.0.attention.q_proj.weight",
    "transformers on disk": "vit.encoder.layer.0.attention.attention.query.weight",
    "transformers on disk, no prefix": "encoder.layer.0.attention.attention.query.weight",
    "timm": "blocks.0.attn.qkv.weight",
}


@pytest.fixture
def weights_by(tmp_path) -> Callable[[str], Weights]:
    """The tiny model under one set of names; those on disk are written by the library itself."""

    def convert(name_set: str) -> Weights:
        library = name_set.split()[0]
        native = TO[library](tiny_model())
        weights = native.state_dict()
        if "on disk" in name_set:
            native.save_pretrained(tmp_path)
            weights = load_file(tmp_path / "model.safetensors")
        if "no prefix" in name_set:
            weights = {name.removeprefix("vit."): tensor for name, tensor in weights.items()}
        if "file" in name_set:
            weights = {
                name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
                for name, tensor in weights.items()
            }
        assert NAME_SETS[name_set] in weights
        return weights

    return convert


@pytest.mark.parametrize("name_set", named(NAME_SETS))
def test_bare_weights_of_every_name_set_become_ours_with_the_defaults_of_their_library(name_set, weights_by):
    checkpoint = from_weights(weights_by(name_set), num_attention_heads=4)
    assert_close(checkpoint.build().state_dict(), tiny_model().state_dict(), rtol=0, atol=0)
    imagenet = name_set.startswith("torchvision")
    assert checkpoint.image_mean == (IMAGENET_MEAN if imagenet else HALF)
    assert checkpoint.image_std == (IMAGENET_STD if imagenet else HALF)
    assert checkpoint.config.layer_norm_eps == (1e-12 if name_set.startswith("transformers") else 1e-6)


def test_torchvision_itself_loads_the_published_names_of_these_tests(weights_by):
    native = torchvision_vit(num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=14)
    native.load_state_dict(weights_by("torchvision file"), strict=True)
    assert_close(native.state_dict(), to_torchvision(tiny_model()).state_dict(), rtol=0, atol=0)


@NEEDS_TIMM
def test_heads_of_published_sizes_are_those_of_timm():
    import timm

    for size in ("tiny_patch16", "small_patch16", "base_patch16", "large_patch16", "huge_patch14", "gigantic_patch14"):
        with torch.device("meta"):
            model = timm.create_model(f"vit_{size}_224", depth=1)
        assert HEADS[model.embed_dim] == model.blocks[0].attn.num_heads, size


def message(weights: Weights) -> str:
    with pytest.raises(WeightsError) as caught:
        from_weights(weights, num_attention_heads=4)
    return str(caught.value)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_missing_tensor_is_named(library):
    weights = TO[library](tiny_model()).state_dict()
    for name in weights:
        rest = {other: tensor for other, tensor in weights.items() if other != name}
        assert name.removeprefix("vit.") in message(rest)


def wider(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)


@pytest.mark.parametrize("library", LIBRARIES)
def test_every_misshapen_tensor_is_refused_and_a_wider_one_named_with_both_shapes(library):
    weights = TO[library](tiny_model(num_hidden_layers=1)).state_dict()
    for name, tensor in weights.items():
        error = message(weights | {name: wider(tensor)})
        assert name.removeprefix("vit.") in error
        assert "expected" in error
        assert f"got {tuple(wider(tensor).shape)}" in error
        for shape in ((tensor.shape[0] + 1, *tensor.shape[1:]), ()):
            message(weights | {name: tensor.new_zeros(shape)})


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_extra_tensor_is_named(library):
    extra = {"layers.0.gate.weight": torch.zeros(1)}
    assert "layers.0.gate.weight" in message(TO[library](tiny_model()).state_dict() | extra)


def test_an_incomplete_block_is_named():
    extra = {"encoder.layers.encoder_layer_2.ln_1.weight": torch.ones(32)}
    assert "encoder.layers.encoder_layer_2.ln_1.bias" in message(to_torchvision(tiny_model()).state_dict() | extra)


def test_a_model_other_than_a_vit_is_refused():
    with torch.device("meta"), pytest.raises(WeightsError, match="not a ViT of torchvision, transformers or timm"):
        from_model(resnet18())


def test_an_unknown_hidden_size_asks_for_the_heads():
    with pytest.raises(WeightsError, match=r"give num_attention_heads.* 32"):
        from_weights(to_torchvision(tiny_model()).state_dict())


def test_a_position_table_other_than_a_square_is_refused():
    positions = {"encoder.pos_embedding": torch.zeros(1, 16, 32)}
    assert "got 16" in message(to_torchvision(tiny_model()).state_dict() | positions)


PARTS_OF_TIMM = {
    "blocks.0.attn.q_norm.weight": {"qk_norm": True},
    "norm.weight": {"global_pool": "avg"},
    "'max'": {"global_pool": "max", "fc_norm": False},
    "ReLU": {"act_layer": "relu"},
}


@NEEDS_TIMM
@pytest.mark.parametrize("name", PARTS_OF_TIMM)
def test_a_part_of_timm_that_ours_does_not_support_is_named(name):
    with pytest.raises(WeightsError, match=name):
        from_model(timm_vit(**PARTS_OF_TIMM[name]))


@NEEDS_TIMM
def test_blocks_of_timm_that_normalise_after_each_branch_are_refused():
    from timm.models.vision_transformer import ResPostBlock

    with pytest.raises(WeightsError, match=r"expected timm's Block, .*, got ResPostBlock"):
        from_model(timm_vit(block_fn=ResPostBlock, init_values=None))


@pytest.mark.parametrize("library", [LIBRARIES[0], LIBRARIES[2]])
def test_norms_whose_epsilons_differ_are_refused(library):
    theirs = torchvision_vit() if library == "torchvision" else timm_vit()
    name = "encoder.ln" if library == "torchvision" else "norm"
    theirs.get_submodule(name).eps = COARSE
    with pytest.raises(WeightsError, match=rf"layer_norm_eps: expected one .*, got 1e-06 in .*, 0\.01 in {name}"):
        from_model(theirs)


@NEEDS_TIMM
def test_a_mean_of_timm_that_holds_the_class_token_is_refused():
    with pytest.raises(WeightsError, match="pool_include_prefix"):
        from_model(timm_vit(global_pool="avg", fc_norm=False, pool_include_prefix=True))


@NEEDS_TIMM
def test_the_tanh_approximation_of_timms_gelu_is_recognised():
    theirs = timm_vit(act_layer=partial(nn.GELU, approximate="tanh"))
    assert from_model(theirs).config.hidden_act == "gelu_pytorch_tanh"


@pytest.mark.parametrize("library", LIBRARIES[1:])
def test_a_vit_for_oblong_images_is_refused(library):
    make = {
        "transformers": partial(transformers_vit, image_size=[16, 64]),
        "timm": partial(timm_vit, img_size=(16, 64)),
    }
    with pytest.raises(WeightsError, match="square"):
        from_model(make[library]())


@NEEDS_TIMM
def test_mean_and_std_of_a_timm_model_are_its_own():
    theirs = timm_vit(pretrained_cfg_overlay={"mean": (0.7, 0.6, 0.5), "std": (0.1, 0.2, 0.3)})
    checkpoint = from_model(theirs)
    assert (checkpoint.image_mean, checkpoint.image_std) == ((0.7, 0.6, 0.5), (0.1, 0.2, 0.3))


def test_repeated_labels_can_be_replaced():
    theirs = transformers_vit(id2label=dict(enumerate(["cock", "hen", "crane", "kite", "crane"])))
    assert from_model(theirs).build(dict(enumerate("abcde"))).config.id2label[4] == "e"


def test_dropout_is_carried():
    config = from_model(torchvision_vit(dropout=0.2, attention_dropout=0.3)).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.3)
    config = from_model(transformers_vit(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.3)).config
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (0.2, 0.3)


def native_with(names: str) -> Any:
    return transformers_vit(id2label=dict(enumerate(names)), label2id={name: index for index, name in enumerate(names)})


def test_the_rows_of_a_head_follow_its_classes_into_another_order(caplog):
    theirs = native_with("abcde")
    assert from_model(theirs).build().config.id2label == dict(enumerate("abcde"))
    model = from_model(theirs).build(dict(enumerate("bcdea")))
    assert_close(logits(model), logits(theirs).roll(-1, dims=1), **CLOSE)
    assert not caplog.records


def test_a_head_for_other_classes_is_new_and_they_are_logged(caplog):
    theirs = native_with("abcde")
    model = from_model(theirs).build(dict(enumerate("vwxyz")))
    assert not torch.equal(model.classifier.linear.weight, theirs.classifier.weight)
    assert "5 classes requested, 5 in the checkpoint: a, b, c, d, e" in caplog.text


def test_several_labels_for_one_image_are_refused():
    with pytest.raises(WeightsError, match=r"problem_type.*multi_label_classification"):
        from_model(transformers_vit(problem_type="multi_label_classification"))


def test_a_new_head_is_logged_and_everything_else_is_kept(caplog):
    theirs = transformers_vit()
    kept = from_model(theirs).build().vit.state_dict()
    model = from_model(theirs).build(dict(enumerate(LABELS)))
    head = model.classifier.linear
    assert_close(model.vit.state_dict(), kept, rtol=0, atol=0)
    assert 0.01 < head.weight.std() < 0.03
    assert not head.bias.any()
    assert not torch.isin(head.weight, theirs.classifier.weight).any()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "14 classes requested, 5 in the checkpoint" in caplog.text


def test_unnamed_classes_keep_their_head(caplog):
    theirs = transformers_vit()
    model = from_model(theirs).build(dict(enumerate("vwxyz")))
    assert_close(model.classifier.linear.state_dict(), theirs.classifier.state_dict(), rtol=0, atol=0)
    assert model.config.label2id == {name: index for index, name in enumerate("vwxyz")}
    assert not caplog.records
