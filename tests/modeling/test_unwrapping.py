"""State dicts saved by trainers are unwrapped, with one line in the log; custom heads are used."""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from celluscan_hf.modeling.checkpoints import read_checkpoint
from celluscan_hf.modeling.conversion import from_weights
from celluscan_hf.modeling.exporting import to_timm, to_torchvision, to_transformers
from celluscan_hf.modeling.key_mapping import HALF, IMAGENET_MEAN, WeightsError

from .conftest import tiny_model

NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="the extra timm is not installed")
TO = {"torchvision": to_torchvision, "transformers": to_transformers, "timm": to_timm}
LIBRARIES = ["torchvision", "transformers", pytest.param("timm", marks=NEEDS_TIMM)]
Weights = dict[str, Any]


def theirs(library: str = "torchvision", **changes: Any) -> Weights:
    return dict(TO[library](tiny_model(**changes)).state_dict())


def below(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def others(weights: Weights) -> Weights:
    """Another model's weights, of the same shapes."""
    return {name: tensor + 1 for name, tensor in weights.items()}


def check(content: Weights, note: str, caplog: Any, **options: Any) -> Any:
    """The content gives the tiny model, and the note is logged."""
    checkpoint = from_weights(content, num_attention_heads=4, **options)
    assert_close(checkpoint.build().state_dict(), tiny_model().state_dict(), rtol=0, atol=0)
    assert note in caplog.text
    return checkpoint


def refusal(content: Weights, **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        from_weights(content, num_attention_heads=4, **options)
    return str(caught.value)


PREFIXES = ["module.", "_orig_mod.", "model.", "backbone.", "teacher.", "module._orig_mod.model.", "model.net.encoder."]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_prefix_is_removed(library, caplog):
    for prefix in PREFIXES:
        check(below(prefix, theirs(library)), f"weights: removed the prefix '{prefix}'", caplog)


def test_a_dictionary_around_is_unwrapped(caplog):
    content = {"epoch": 3, "best": 0.9, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: {}}}}
    for key in ("state_dict", "model", "ema"):
        check(content | {key: theirs()}, f"weights: used '{key}'", caplog)


def test_dictionaries_and_prefixes_combine(caplog):
    content = {"checkpoint": 1, "model": {"state_dict": below("module._orig_mod.model.", theirs())}}
    check(content, "weights: used 'model.state_dict', removed the prefix 'module._orig_mod.model.'", caplog)


def test_wrappers_within_names_are_removed(caplog):
    names = {"encoder.layers.": "encoder.layers._fsdp_wrapped_module.", "self_": "_checkpoint_wrapped_module.self_"}
    content = theirs()
    for plain, wrapped in names.items():
        content = {name.replace(plain, wrapped): tensor for name, tensor in content.items()}
    check(content, "removed '_checkpoint_wrapped_module.' within names, removed '_fsdp_wrapped_module.'", caplog)


def test_what_torch_compile_and_data_parallel_leave_is_removed(caplog):
    model = nn.DataParallel(torch.compile(to_torchvision(tiny_model())))
    check(dict(model.state_dict()), "removed the prefix 'module._orig_mod.'", caplog)


def test_plain_weights_log_nothing(caplog):
    check(theirs(), "", caplog, image_mean=HALF, image_std=HALF)
    assert not caplog.records


@pytest.mark.parametrize("averaged", ["model_ema", "teacher"])
def test_of_several_the_averaged_weights_are_used_and_logged(averaged, caplog):
    content = {"model": others(theirs()), averaged: below("module.", theirs())}
    check(content, f"used '{averaged}', removed the prefix 'module.', not model (a key would choose another)", caplog)


def test_the_counter_of_averaged_weights_is_ignored(caplog):
    model = torch.optim.swa_utils.AveragedModel(to_torchvision(tiny_model()))
    checkpoint = check({"model_ema": dict(model.state_dict())}, "used 'model_ema'", caplog)
    assert checkpoint.ignored_keys == ("n_averaged",)


@pytest.mark.parametrize("flat", [False, True])
def test_another_of_several_can_be_chosen(flat, caplog):
    content = {"student": theirs(), "teacher": others(theirs())}
    if flat:
        content = below("student.", content["student"]) | below("teacher.", content["teacher"])
    check(content, "'student" if flat else "used 'student', not teacher", caplog, key="student")


FLAT = [
    ("model.", "model_ema.module."),
    ("", "ema_model."),
    ("model.net.", "model.ema."),
]


@pytest.mark.parametrize(("plain", "averaged"), FLAT)
def test_averaged_weights_may_be_in_the_same_dictionary(plain, averaged, caplog):
    content = below(plain, others(theirs())) | below(averaged, theirs())
    check({"state_dict": content}, f"used 'state_dict', removed the prefix '{averaged}', not state_dict", caplog)


def test_a_key_that_is_not_there_lists_those_that_are():
    assert "key 'student': expected a part of one of: state_dict" in refusal({"state_dict": theirs()}, key="student")


def test_several_that_are_equal_ask_for_a_key():
    content = {"model": theirs(), "net": others(theirs())}
    assert "got several, choose one by a key that no other has: model, net" in refusal(content)


def test_an_unknown_prefix_is_named_and_can_be_used(caplog):
    content = below("feature_extractor.", theirs())
    assert "under an unknown name, 'feature_extractor': to use it, give the key 'feature_extractor'" in refusal(content)
    check(content, "removed the prefix 'feature_extractor.'", caplog, key="feature_extractor")


@NEEDS_TIMM
def test_a_dino_checkpoint_is_used_without_its_projection_head(caplog):
    weights = {name: tensor for name, tensor in theirs("timm").items() if not name.startswith("head.")}
    projection = {"head.mlp.0.weight": torch.ones(8, 32), "head.last_layer.weight_g": torch.ones(9, 1)}
    content = {
        "student": below("module.", below("backbone.", others(weights)) | projection),
        "teacher": below("backbone.", weights) | projection,
        "args": argparse.Namespace(arch="vit_base"),
    }
    checkpoint = from_weights(content, num_attention_heads=4)
    assert "used 'teacher', removed the prefix 'backbone.', not student.module.backbone" in caplog.text
    assert checkpoint.ignored_keys == tuple(projection)
    assert_close(checkpoint.build().vit.state_dict(), tiny_model().vit.state_dict(), rtol=0, atol=0)


def test_a_loss_beside_is_ignored_and_listed(caplog):
    content = {"state_dict": below("model.", theirs()) | {"criterion.weight": torch.ones(14)}}
    assert check(content, "used 'state_dict'", caplog).ignored_keys == ("criterion.weight",)


def test_other_tensors_beside_are_refused_by_name():
    assert "1 tensors beside the ViT are not part of it: neck.weight" in refusal(
        below("backbone.", theirs()) | {"neck.weight": torch.ones(3)}
    )


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, {"state_dict": {}}, {"model": {"conv1.weight": torch.ones(1)}}])
def test_without_a_vit_the_content_is_listed(content):
    assert "not a ViT of torchvision, transformers or timm" in refusal(content)


def test_our_own_weights_are_unwrapped_in_their_folder(tmp_path, caplog):
    tiny_model().save_pretrained(tmp_path)
    save_file(below("_orig_mod.", tiny_model().state_dict()), tmp_path / "model.safetensors")
    assert_close(read_checkpoint(tmp_path).build().state_dict(), tiny_model().state_dict(), rtol=0, atol=0)
    assert "removed the prefix '_orig_mod.'" in caplog.text


def with_head(library: str, names: dict[str, str], beside: str = "") -> Weights:
    """Weights whose head is renamed: names of weight and bias by `names`, the rest below the prefix `beside`."""
    usual = {"torchvision": "heads.head.", "transformers": "classifier.", "timm": "head."}[library]
    weights = theirs(library)
    head = {names[kind]: weights.pop(usual + kind) for kind in ("weight", "bias")}
    return below(beside, weights) | head


HEADS = [
    ("torchvision", "heads."),
    ("torchvision", "heads.0."),
    pytest.param("timm", "head.1.", marks=NEEDS_TIMM),
    pytest.param("timm", "fc.", marks=NEEDS_TIMM),
    ("transformers", "classifier.1."),
    ("transformers", "classifier."),
]


@pytest.mark.parametrize(("library", "stem"), HEADS)
def test_a_custom_head_is_used(library, stem, caplog):
    for beside in ("backbone.", "module.model.", *([""] if stem != "classifier." else [])):
        content = with_head(library, {kind: stem + kind for kind in ("weight", "bias")}, beside)
        check(content, f"used '{stem.removesuffix('.')}' as the head", caplog)
        caplog.clear()


def test_a_pooler_that_the_head_may_have_read_is_logged(caplog):
    head = {"weight": "classifier.weight", "bias": "classifier.bias"}
    content = {name.replace("vit.", "backbone."): tensor for name, tensor in with_head("transformers", head).items()}
    pooler = {f"backbone.pooler.dense.{kind}": torch.ones(32) for kind in ("weight", "bias")}
    checkpoint = check(content | pooler, "used 'classifier' as the head without the pooler", caplog)
    assert checkpoint.ignored_keys == ("pooler.dense.weight", "pooler.dense.bias")


MODULES: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(32, 14),
    "flatten first": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(32, 14)),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_head_that_torchvision_users_set_gives_their_logits(name):
    model, pixels = to_torchvision(tiny_model()), torch.randn(2, 3, 32, 32)
    model.heads = MODULES[name]()
    ours = from_weights(model.state_dict(), num_attention_heads=4).build()
    assert_close(ours(pixels).logits, model.eval()(pixels), rtol=0, atol=1e-5)


SEVERAL: dict[str, Callable[[], nn.Module]] = {
    "two linear layers": lambda: nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 14)),
    "a norm": lambda: nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 14)),
    "batch norm": lambda: nn.Sequential(nn.Linear(32, 14), nn.BatchNorm1d(14)),
    "no bias": lambda: nn.Linear(32, 14, bias=False),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_a_head_of_other_layers_is_refused_by_name(name):
    model = to_torchvision(tiny_model())
    model.heads = SEVERAL[name]()
    error = refusal(dict(model.state_dict()))
    assert "the head must be one linear layer with a bias, got heads." in error


def test_two_heads_are_refused_by_name():
    error = refusal(below("backbone.", theirs()) | {"fc.weight": torch.ones(14, 32), "fc.bias": torch.ones(14)})
    assert "got heads.head.weight (14, 32), heads.head.bias (14,), fc.weight" in error


@pytest.mark.parametrize("other", ["heads.head.", "model.heads.head."])
def test_two_heads_of_one_name_are_refused(other):
    head = below(other, {"weight": torch.ones(14, 32), "bias": torch.ones(14)})
    assert "the same name once unwrapped: " in refusal(below("backbone.", theirs()) | head)


@pytest.mark.parametrize("library", LIBRARIES[:2])
def test_a_guessed_normalization_is_logged_with_the_option(library, caplog):
    from_weights(theirs(library), num_attention_heads=4)
    mean = IMAGENET_MEAN if library == "torchvision" else HALF
    assert f"normalization is a guess: mean {mean}" in caplog.text
    assert "give --normalization (in Python, image_mean and image_std)" in caplog.text
