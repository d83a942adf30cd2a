"""Exports to other libraries: equal logits, folders that those libraries load, clear refusals."""

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from torchvision.models import VisionTransformer
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTForImageClassification

from celluscan_hf import modeling
from celluscan_hf.modeling.checkpoints import read_checkpoint
from celluscan_hf.modeling.command import FORMATS
from celluscan_hf.modeling.conversion import from_model
from celluscan_hf.modeling.exporting import (
    EXPORTS,
    export_native,
    export_timm,
    export_torchvision,
    to_timm,
    to_torchvision,
    to_transformers,
)
from celluscan_hf.modeling.key_mapping import WeightsError
from celluscan_hf.modeling.processor import build_image_processor

from .conftest import images, tiny_model

CLOSE = {"rtol": 0.0, "atol": 1e-5}
COARSE = 1e-2
MEAN, STD = (0.7, 0.6, 0.65), (0.2, 0.21, 0.22)
NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="the extra timm is not installed")
TO = {"torchvision": to_torchvision, "transformers": to_transformers, "timm": to_timm}
SIZES = {"hidden_size": 40, "num_attention_heads": 5, "intermediate_size": 77, "num_hidden_layers": 3}
DINOV2 = {"layer_scale_init": 0.5}
OURS: dict[str, dict[str, Any]] = {
    "torchvision, sizes": SIZES,
    "torchvision, epsilon": {"layer_norm_eps": COARSE},
    "torchvision, no qkv bias": {"qkv_bias": False},
    "transformers, sizes": SIZES,
    "transformers, epsilon": {"layer_norm_eps": COARSE},
    "transformers, no qkv bias": {"qkv_bias": False},
    "transformers, tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "transformers, quick gelu": {"hidden_act": "quick_gelu"},
    "timm, quick gelu": {"hidden_act": "quick_gelu"},
    "timm, tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "timm, sizes": SIZES,
    "timm, epsilon": {"layer_norm_eps": COARSE},
    "timm, no qkv bias": {"qkv_bias": False},
    "timm, mean pooling": {"pooling": "mean"},
    "transformers, DINOv2": DINOV2 | {"pooling": "cls_mean"},
    "transformers, DINOv2, class token": DINOV2,
    "transformers, DINOv2, patches": DINOV2 | {"pooling": "mean"},
    "transformers, DINOv2, width of the MLP": DINOV2 | {"intermediate_size": 96},
    "transformers, DINOv2, gated": DINOV2 | {"mlp": "swiglu", "pooling": "cls_mean", "intermediate_size": 88},
    "transformers, DINOv2, gated, width of the MLP": DINOV2 | {"mlp": "swiglu", "intermediate_size": 64},
    "transformers, DINOv2, registers": DINOV2 | {"num_register_tokens": 3},
    "timm, DINOv2": DINOV2,
    "timm, DINOv2, gated": DINOV2 | {"mlp": "swiglu"},
    "timm, DINOv2, registers": DINOV2 | {"num_register_tokens": 3, "pooling": "mean"},
    "timm, registers": {"num_register_tokens": 3},
}
FOLDED = {  # a head that reads less than theirs has zeros for the rest; timm adds the class token's position to it
    *(name for name, fields in OURS.items() if "DINOv2" in name and fields.get("pooling") != "cls_mean"),
    "timm, registers",
} - {"timm, DINOv2", "timm, DINOv2, gated"}
CARRIED = ("num_attention_heads", "intermediate_size", "layer_norm_eps", "hidden_act", "pooling", "qkv_bias")


def named(names: Any) -> list[Any]:
    return [pytest.param(name, marks=NEEDS_TIMM if name.startswith("timm") else ()) for name in names]


def native(name: str, model: Any) -> Any:
    return TO[name.partition(",")[0]](model)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        outputs = model(images())
    return getattr(outputs, "logits", outputs)


@pytest.fixture
def written(tmp_path) -> Any:
    """Exports the tiny model, or a changed one, with an image processor; the model and the folder."""

    def write(library: str, **changes: Any) -> tuple[Any, Path]:
        model = tiny_model(**changes)
        EXPORTS[library](model, tmp_path / library, build_image_processor(32, MEAN, STD))
        return model, tmp_path / library

    return write


@pytest.mark.parametrize("name", named(OURS))
def test_their_model_has_our_logits_and_converts_back_bit_equal(name):
    ours = tiny_model(**OURS[name])
    theirs = native(name, ours)
    assert_close(logits(theirs), logits(ours), **CLOSE)
    if name == "torchvision, no qkv bias":  # comes back as a bias of zeros
        return
    back = from_model(theirs).build()
    if name in FOLDED:
        assert_close(logits(back), logits(ours), **CLOSE)
        return
    assert_close(back.state_dict(), ours.state_dict(), rtol=0, atol=0)
    assert [getattr(back.config, field) for field in CARRIED] == [getattr(ours.config, field) for field in CARRIED]


@pytest.mark.parametrize("library", named(EXPORTS))
def test_weights_normalisation_and_labels_come_back_from_files(library, written):
    ours, folder = written(library)
    checkpoint = read_checkpoint(folder, **({"num_attention_heads": 4} if library == "torchvision" else {}))
    assert_close(checkpoint.build().state_dict(), ours.state_dict(), rtol=0, atol=0)
    assert (checkpoint.image_mean, checkpoint.image_std) == (MEAN, STD)
    if library != "torchvision":  # has no place for labels
        assert checkpoint.build().config.id2label == ours.config.id2label
    if library != "timm":  # has its own processor
        processor = AutoImageProcessor.from_pretrained(folder)
        assert processor.to_dict() == build_image_processor(32, MEAN, STD).to_dict()
    code = {path.name for path in Path(modeling.__file__).parent.glob("*_celluscan.py")}
    assert {path.name for path in folder.glob("*.py")} == (code if library == "celluscan" else set())


def test_a_native_config_is_a_plain_vit(written):
    ours, folder = written("transformers")
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("vit", ["ViTForImageClassification"])
    assert "auto_map" not in config
    assert not {"pooling", "patch_stem", "drop_path_rate"} & set(config)
    assert config["id2label"] == {str(index): name for index, name in ours.config.id2label.items()}


def test_a_native_folder_loads_with_the_auto_class(written):
    ours, folder = written("transformers", layer_norm_eps=COARSE)
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert type(model) is ViTForImageClassification
    assert_close(logits(model.eval()), logits(ours), **CLOSE)


def test_a_native_folder_without_a_processor_has_none(tmp_path):
    export_native(tiny_model(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


def test_a_torchvision_file_loads_strictly(written):
    ours, folder = written("torchvision")
    model = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64, num_classes=14
    )
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    assert_close(logits(model.eval()), logits(ours), **CLOSE)


@NEEDS_TIMM
@pytest.mark.parametrize("changes", [SIZES | {"qkv_bias": False}, {"pooling": "mean"}], ids=str)
def test_a_timm_folder_loads_with_timm_and_the_auto_class(changes, written):
    import timm

    ours, folder = written("timm", **changes)
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert_close(logits(model), logits(ours), **CLOSE)
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    assert_close(logits(model), logits(ours), **CLOSE)
    assert model.config.id2label == ours.config.id2label


@NEEDS_TIMM
def test_a_timm_folder_has_mean_std_size_and_labels_and_nothing_of_timms_own_weights(written):
    ours, folder = written("timm")
    config = json.loads((folder / "config.json").read_text())
    assert config["label_names"] == list(ours.config.id2label.values())
    assert config["num_classes"] == 14
    described = config["pretrained_cfg"]
    assert (described["mean"], described["std"]) == (list(MEAN), list(STD))
    assert described["input_size"] == [3, 32, 32]
    assert "augreg" not in str(described.get("tag"))
    assert "license" not in described


@NEEDS_TIMM
@pytest.mark.parametrize(("size", "levels"), [((64, 64), 2), ((90, 60), 6)])
def test_timm_prepares_an_image_as_we_do(size, levels, written, cell_image):
    from timm.data import create_transform, resolve_data_config

    _, folder = written("timm")
    config = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    image = cell_image(0, size)
    theirs = create_transform(**resolve_data_config(pretrained_cfg=config))(image)
    ours = build_image_processor(32, MEAN, STD)(image, return_tensors="pt").pixel_values[0]
    assert (theirs - ours).abs().mean() < levels / 255 / min(STD)


CONVOLUTION = {"patch_stem": "convolution"}
STANDARDIZED = {"input_norm": "image"}
VIEWS = {"views": 4}
CROPS = {"crops": [1.0, 0.5]}
REFUSED = {
    "torchvision: patch_stem": CONVOLUTION,
    "torchvision: input_norm": STANDARDIZED,
    "torchvision: views": VIEWS,
    "torchvision: crops": CROPS,
    "torchvision: pooling": {"pooling": "mean"},
    "torchvision: layer_scale_init": DINOV2,
    "torchvision: mlp": {"mlp": "swiglu"},
    "torchvision: num_register_tokens": {"num_register_tokens": 4},
    "transformers: mlp": {"mlp": "swiglu"},
    "transformers: num_register_tokens": {"num_register_tokens": 4},
    "timm: pooling": {"pooling": "cls_mean"},
    "torchvision: hidden_act": {"hidden_act": "quick_gelu"},
    "torchvision: num_channels": {"num_channels": 1},
    "transformers: patch_stem": CONVOLUTION,
    "transformers: input_norm": STANDARDIZED,
    "transformers: views": VIEWS,
    "transformers: crops": CROPS,
    "transformers: pooling": {"pooling": "mean"},
    "timm: patch_stem": CONVOLUTION,
    "timm: input_norm": STANDARDIZED,
    "timm: views": VIEWS,
    "timm: crops": CROPS,
    "timm: hidden_act": {"hidden_act": "relu"},
}


@pytest.mark.parametrize("case", named(REFUSED))
def test_an_unsupported_part_is_refused_by_name(case, tmp_path):
    library, _, field = case.partition(": ")
    (value,) = REFUSED[case].values()
    with pytest.raises(WeightsError, match=f"{library}.*{re.escape(f'{field}={value!r}')}"):
        EXPORTS[library](tiny_model(**REFUSED[case]), tmp_path / "new", None)
    assert not (tmp_path / "new").exists()


def test_a_width_of_the_mlp_that_dinov2_cannot_express_is_refused(tmp_path):
    for fields in ({"intermediate_size": 50}, {"intermediate_size": 56, "mlp": "swiglu"}):
        with pytest.raises(WeightsError, match=f"intermediate_size={fields['intermediate_size']} with hidden_size=32"):
            export_native(tiny_model(**DINOV2, **fields), tmp_path / "new")


@pytest.mark.parametrize("export", [export_torchvision, pytest.param(export_timm, marks=NEEDS_TIMM)])
def test_a_file_that_cannot_hold_the_epsilon_is_not_written(export, tmp_path):
    with pytest.raises(WeightsError, match=r"layer_norm_eps.*1e-06.*0\.01"):
        export(tiny_model(layer_norm_eps=COARSE), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("library", named(EXPORTS))
def test_a_file_in_the_way_is_reported_and_kept(library, tmp_path):
    (tmp_path / "vit").write_text("kept")
    with pytest.raises(FileExistsError, match="vit"):
        EXPORTS[library](tiny_model(), tmp_path / "vit", None)
    assert (tmp_path / "vit").read_text() == "kept"


def test_timm_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(WeightsError, match=r"pip install .*timm"):
        to_timm(tiny_model())


def test_the_command_offers_every_format():
    assert tuple(EXPORTS) == FORMATS
