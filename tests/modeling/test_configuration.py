"""The configuration: ViT-B/16 by default, every field has its effect, invalid settings are refused by value."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from celluscan_hf import taxonomy
from celluscan_hf.modeling import configuration_celluscan
from celluscan_hf.modeling.configuration_celluscan import LABELS, CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification, CelluScanModel

from .conftest import tiny_config

VIT_B16 = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "mlp": "plain",
    "layer_scale_init": None,
    "num_register_tokens": 0,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.0,
    "drop_path_rate": 0.0,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "qkv_bias": True,
    "pooling": "cls",
    "patch_stem": "linear",
    "input_norm": "none",
    "views": 1,
    "crops": [],
}
OTHERS = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "hidden_act": "relu",
    "mlp": "swiglu",
    "layer_scale_init": 0.1,
    "num_register_tokens": 4,
    "hidden_dropout_prob": 0.2,
    "attention_probs_dropout_prob": 0.3,
    "drop_path_rate": 0.4,
    "initializer_range": 0.01,
    "layer_norm_eps": 1e-5,
    "image_size": 48,
    "patch_size": 4,
    "num_channels": 1,
    "qkv_bias": False,
    "pooling": "mean",
    "patch_stem": "convolution",
    "input_norm": "image",
    "views": 8,
    "crops": [1.0, 0.5],
}
AUTO_MAP = {
    "AutoConfig": "configuration_celluscan.CelluScanConfig",
    "AutoModel": "modeling_celluscan.CelluScanModel",
    "AutoModelForImageClassification": "modeling_celluscan.CelluScanForImageClassification",
}


def head(**changes) -> CelluScanForImageClassification:
    """A model on the meta device, for its shapes."""
    with torch.device("meta"):
        return CelluScanForImageClassification(tiny_config(**changes))


def test_defaults_are_vit_b16():
    config = CelluScanConfig()
    assert {field: getattr(config, field) for field in VIT_B16} == VIT_B16


def test_no_field_is_left_out_of_these_tests():
    library = {field.name for field in dataclasses.fields(CelluScanConfig.__mro__[1])}
    own = {field.name for field in dataclasses.fields(CelluScanConfig)} - library
    assert own == set(VIT_B16) == set(OTHERS)


def test_labels_are_the_taxonomy():
    assert taxonomy.NAMES == LABELS
    assert CelluScanConfig().id2label == taxonomy.ID2LABEL
    assert CelluScanConfig().label2id == taxonomy.LABEL2ID


def modules(model: nn.Module, kind: type[nn.Module]) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]


@pytest.mark.parametrize(
    ("field", "value", "measure", "expected"),
    [
        ("hidden_size", 64, lambda m: m.classifier.linear.in_features, 64),
        ("num_hidden_layers", 5, lambda m: len(m.vit.layers), 5),
        ("num_attention_heads", 8, lambda m: m.vit.layers[1].attention.head_dim, 4),
        ("intermediate_size", 96, lambda m: m.vit.layers[1].mlp.fc2.weight.shape, (32, 96)),
        ("mlp", "swiglu", lambda m: m.vit.layers[1].mlp.fc1.weight.shape, (128, 32)),
        ("layer_scale_init", 0.1, lambda m: m.vit.layers[1].layer_scale2.factors.shape, (32,)),
        ("num_register_tokens", 4, lambda m: m.vit.embeddings.register_tokens.shape, (1, 4, 32)),
        ("pooling", "cls_mean", lambda m: m.classifier.linear.in_features, 64),
        ("hidden_act", "relu", lambda m: type(m.vit.layers[1].mlp.activation), nn.ReLU),
        ("hidden_dropout_prob", 0.3, lambda m: {d.p for d in modules(m, nn.Dropout)}, {0.3}),
        ("layer_norm_eps", 1e-3, lambda m: {n.eps for n in modules(m, nn.LayerNorm)}, {1e-3}),
        ("image_size", 64, lambda m: m.vit.embeddings.position_embeddings.shape, (1, 65, 32)),
        ("patch_size", 16, lambda m: m.vit.embeddings.position_embeddings.shape, (1, 5, 32)),
        ("patch_size", 16, lambda m: m.vit.embeddings.projection.weight.shape, (32, 3, 16, 16)),
        ("num_channels", 1, lambda m: m.vit.embeddings.projection.weight.shape, (32, 1, 8, 8)),
        ("qkv_bias", False, lambda m: {block.attention.qkv.bias for block in m.vit.layers}, {None}),
        ("patch_stem", "linear", lambda m: len(modules(m, nn.Conv2d)), 1),
        ("patch_stem", "convolution", lambda m: [c.out_channels for c in modules(m, nn.Conv2d)], [8, 16, 32, 32]),
        ("drop_path_rate", 0.2, lambda m: [block.drop_path.probability for block in m.vit.layers], [0.0, 0.2]),
        ("num_labels", 5, lambda m: m.classifier.linear.out_features, 5),
    ],
)
def test_field_shapes_the_model(field, value, measure, expected):
    assert measure(head(**{field: value})) == expected


def test_initializer_range_is_the_std_of_new_weights():
    for std in (0.02, 0.2):
        state = CelluScanForImageClassification(tiny_config(initializer_range=std)).state_dict()
        for name in ("vit.embeddings.position_embeddings", "vit.layers.0.attention.qkv.weight"):
            assert state[name].std().item() == pytest.approx(std, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_attention_heads": 5}, r"hidden_size \(32\).*num_attention_heads \(5\)"),
        ({"patch_size": 7}, r"image_size \(32\).*patch_size \(7\)"),
        ({"patch_stem": "convolution", "image_size": 36, "patch_size": 12}, "power of two as patch_size, got 12"),
        ({"patch_stem": "convolution", "patch_size": 1}, "power of two as patch_size, got 1"),
        ({"patch_stem": "convolution", "hidden_size": 34}, r"hidden_size \(34\).*patch_size \(8\)"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be at least 0 and below 1, got 1.0"),
        ({"drop_path_rate": float("nan")}, "drop_path_rate must be at least 0 and below 1, got nan"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be at least 1, got 0"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"pooling": "max"}, "'pooling' expected one of .*'cls', 'mean'.*, got max"),
        ({"hidden_size": "32"}, "'hidden_size' expected int, got str"),
        ({"qkv_bias": 1}, "'qkv_bias' expected bool, got int"),
        ({"problem_type": "regression"}, "'problem_type' expected one of .*, got regression"),
        ({"id2label": {}}, "at least two classes, got {}"),
        ({"num_labels": 0}, "at least two classes"),
        ({"hidden_act": "nope"}, 'hidden_act must be one of .*, got "nope"'),
        ({"layer_norm_eps": -1e-6}, "layer_norm_eps must be above 0, got -1e-06"),
        ({"initializer_range": 0.0}, "initializer_range must be above 0, got 0.0"),
        ({"id2label": {0: "a", 2: "b"}}, r"from 0 to 1, got \[0, 2\]"),
        ({"id2label": {"a": "x", "b": "y"}}, "ids of id2label must be whole numbers from 0, got 'a' for 'x'"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 5}, r"num_labels \(5\) must be .* in id2label \(2\): {0: 'a'"),
        ({"id2label": {0: "a", 1: "b"}, "num_labels": 0}, r"num_labels \(0\) must be .* in id2label \(2\): {0: 'a'"),
    ],
)
def test_invalid_settings_are_refused_with_their_values(changes, message):
    with pytest.raises(StrictDataclassError, match=message):
        tiny_config(**changes)


INVALID_LATER = [
    ({"image_size": 36}, r"image_size \(36\).*patch_size \(8\)"),
    ({"num_attention_heads": 5}, r"hidden_size \(32\).*num_attention_heads \(5\)"),
    ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
    ({"layer_norm_eps": -1.0}, r"layer_norm_eps must be above 0, got -1.0"),
    ({"drop_path_rate": 1.0}, r"drop_path_rate must be at least 0 and below 1, got 1.0"),
    ({"patch_stem": "convolution", "patch_size": 32, "hidden_size": 40}, r"hidden_size \(40\).*patch_size \(32\)"),
]


def test_invalid_settings_given_while_loading_are_refused(tmp_path):
    CelluScanForImageClassification(tiny_config()).save_pretrained(tmp_path)
    for model_class, (changes, message) in zip(
        (AutoModel, AutoModelForImageClassification), INVALID_LATER, strict=False
    ):
        with pytest.raises(ValueError, match=message):
            model_class.from_pretrained(tmp_path, **changes)


@pytest.mark.parametrize(("changes", "message"), [*INVALID_LATER, ({"id2label": {0: "a"}}, "at least two classes")])
def test_invalid_settings_set_later_are_refused(changes, message):
    config = tiny_config()
    for field, value in changes.items():
        setattr(config, field, value)
    with pytest.raises(ValueError, match=message):
        CelluScanModel(config)


def test_a_model_that_asks_for_attentions_can_be_saved_and_loaded(tmp_path):
    config = tiny_config(output_attentions=True, attn_implementation="eager")
    CelluScanForImageClassification(config).save_pretrained(tmp_path)
    assert CelluScanForImageClassification.from_pretrained(tmp_path).config.output_attentions


def test_num_labels_alone_numbers_the_classes():
    config = tiny_config(num_labels=3)
    assert config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    assert config.label2id == {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


FIVE = {0: "c0", 1: "c1", 2: "c2", 3: "c3", 4: "c4"}
BY_NAME = {name: index for index, name in FIVE.items()}
SAME_CLASSES = [
    {"label2id": BY_NAME},
    {"label2id": {name: str(index) for name, index in BY_NAME.items()}},
    {"label2id": None, "id2label": FIVE, "num_labels": None},
    {"label2id": BY_NAME, "id2label": {str(index): name for index, name in FIVE.items()}, "num_labels": 5},
]
CONTRADICTIONS = [
    ({"label2id": BY_NAME, "num_labels": 3}, r"num_labels \(3\) must be .* in label2id \(5\)"),
    ({"label2id": {"a": 0, "b": 1}, "id2label": {0: "b", 1: "a"}}, r"label2id must be the inverse.*'a': 0.*0: 'b'"),
    ({"label2id": {"a": 0}, "id2label": {0: "a", 1: "b"}}, "label2id must be the inverse"),
    ({"label2id": {"a": 0, "b": 0}}, "label2id has two classes with the id 0: 'a' and 'b'"),
    ({"label2id": {"a": 0, "b": 2}}, r"from 0 to 1, got \[0, 2\]"),
    ({"label2id": {"a": "x", "b": "1"}}, "ids of label2id must be whole numbers from 0, got 'x' for 'a'"),
    ({"label2id": {}}, "at least two classes, got {}"),
    ({"label2id": ["a", "b"]}, "label2id"),
    ({"num_labels": 1}, "at least two classes, got .*; regression is not supported"),
    ({"num_labels": "5"}, "num_labels must be a whole number, got '5'"),
]


@pytest.fixture(params=["new", "auto"])
def configured(request, tmp_path) -> Callable[..., CelluScanConfig]:
    """A config with these arguments, new or from a file with the 14 classes."""
    tiny_config().save_pretrained(tmp_path)
    return partial(AutoConfig.from_pretrained, tmp_path) if request.param == "auto" else tiny_config


def test_classes_may_be_given_either_way(configured):
    for classes in SAME_CLASSES:
        config = configured(**classes)
        assert (config.id2label, config.label2id, config.num_labels) == (FIVE, BY_NAME, 5)


@pytest.mark.parametrize(("classes", "message"), CONTRADICTIONS)
def test_classes_that_contradict_each_other_are_refused(classes, message, configured):
    with pytest.raises(StrictDataclassError, match=message):
        configured(**classes)


def test_a_name_that_occurs_twice_may_have_either_id():
    names = {0: "crane", 1: "cock", 2: "crane"}
    for index in (0, 2):
        assert tiny_config(id2label=names, label2id={"crane": index, "cock": 1}).id2label == names


def test_names_set_later_are_saved_both_ways(tmp_path):
    config = tiny_config()
    config.id2label = FIVE
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["label2id"] == BY_NAME


def test_a_file_whose_label2id_is_outdated_is_read(tmp_path):
    tiny_config(id2label=FIVE).save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"label2id": {"LABEL_0": 0, "LABEL_1": 1}}))
    assert AutoConfig.from_pretrained(tmp_path).label2id == BY_NAME


def test_every_field_survives_saving(tmp_path):
    config = CelluScanConfig(**OTHERS, id2label={0: "blast", 1: "other"})
    config.save_pretrained(tmp_path)
    again = CelluScanConfig.from_pretrained(tmp_path)
    assert {field: getattr(again, field) for field in OTHERS} == OTHERS
    assert again.id2label == {0: "blast", 1: "other"} and again.num_labels == 2
    assert again.to_dict() == config.to_dict()


@pytest.mark.parametrize("saved", [tiny_config(), CelluScanModel(tiny_config())], ids=["config", "model"])
def test_a_saved_config_or_model_names_its_code_and_ships_it(saved, tmp_path):
    saved.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["auto_map"] == AUTO_MAP
    assert config["custom_pipelines"]["wbc-classification"]["impl"] == "pipeline_celluscan.WhiteBloodCellPipeline"
    for name in ("configuration", "modeling", "pipeline", "reliability"):
        source = Path(configuration_celluscan.__file__).with_name(f"{name}_celluscan.py")
        assert (tmp_path / source.name).read_bytes() == source.read_bytes()


def test_a_new_head_may_be_requested_by_number_or_names(tmp_path):
    CelluScanForImageClassification(tiny_config()).save_pretrained(tmp_path)
    load = partial(AutoModelForImageClassification.from_pretrained, tmp_path, ignore_mismatched_sizes=True)
    names = {"id2label": {0: "x", 1: "y"}, "label2id": {"x": 0, "y": 1}}
    model = load(num_labels=2, **names)
    assert model.classifier.linear.out_features == 2
    assert {field: getattr(model.config, field) for field in names} == names
    model = load(num_labels=5)
    assert model.classifier.linear.out_features == 5
    assert model.config.id2label == {index: f"LABEL_{index}" for index in range(5)}
    assert model.config.label2id == {f"LABEL_{index}": index for index in range(5)}


def test_as_many_classes_as_the_file_has_keep_its_names(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    assert CelluScanConfig.from_pretrained(tmp_path, num_labels=14).id2label == dict(enumerate(LABELS))


def test_two_classes_without_names_stay_two(tmp_path):
    model = CelluScanForImageClassification(tiny_config(num_labels=2))
    model.save_pretrained(tmp_path)
    again = CelluScanForImageClassification.from_pretrained(tmp_path)
    assert again.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
    assert torch.equal(again.classifier.linear.weight, model.classifier.linear.weight)


@pytest.mark.parametrize("crops", [[1.2, 0.64], [1.0, 0.64, 0.8], [1.0, 1.0], [1.0, 0.0]])
def test_crops_are_shares_the_largest_first(crops: list[float]) -> None:
    with pytest.raises(StrictDataclassError, match=r"crops must be shares of at most 1\.0, the largest first"):
        CelluScanConfig(crops=crops)


def test_a_picture_is_as_large_as_its_smallest_crop_asks() -> None:
    assert CelluScanConfig(image_size=96, crops=[1.0, 0.8, 0.64]).picture_size == 150
    assert CelluScanConfig(image_size=96, crops=[0.8, 0.64]).picture_size == 120
    assert CelluScanConfig(image_size=96).picture_size == 96
