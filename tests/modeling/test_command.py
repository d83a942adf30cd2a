"""The command that converts weights: a good path, its refusals, its options."""

import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from torch.testing import assert_close
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    ViTModel,
)

from celluscan_hf.cli import main
from celluscan_hf.modeling.configuration_celluscan import LABELS
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@pytest.fixture
def convert() -> Callable[..., int]:
    """Runs the command with these arguments; its exit status."""
    return lambda *arguments: main(["convert", *map(str, arguments)])


def vit(model_class: type[ViTModel | ViTForImageClassification] = ViTForImageClassification) -> Any:
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, image_size=32, patch_size=8, layer_norm_eps=1e-2, id2label={0: "a", 1: "b", 2: "c"})
    return model_class(config).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))).logits


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder with a ViT of transformers and its image processor."""
    vit().save_pretrained(tmp_path / "vit")
    ViTImageProcessor(image_mean=[0.7, 0.6, 0.5], image_std=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_a_vit_of_transformers_becomes_ours(convert, source, tmp_path):
    assert convert(source, tmp_path / "ours") == 0
    model = CelluScanForImageClassification.from_pretrained(tmp_path / "ours").eval()
    assert_close(logits(model), logits(vit()), rtol=0, atol=1e-5)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_what_was_written_is_told(convert, source, tmp_path, capsys):
    convert(source, tmp_path / "ours")
    printed = capsys.readouterr().out
    for part in (str(tmp_path / "ours"), "celluscan", "3 classes", "layer_norm_eps 0.01", "image_mean [0.7, 0.6, 0.5]"):
        assert part in printed


def test_ours_becomes_a_vit_of_transformers_again(convert, source, tmp_path):
    assert convert(source, tmp_path / "ours") == 0
    assert convert(tmp_path / "ours", tmp_path / "native", "--format", "transformers") == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "native").eval()
    assert type(model) is ViTForImageClassification
    assert_close(model.state_dict(), vit().state_dict(), rtol=0, atol=0)
    processor = json.loads((tmp_path / "native" / "preprocessor_config.json").read_text())
    assert (processor["image_mean"], processor["image_std"]) == ([0.7, 0.6, 0.5], [0.1, 0.2, 0.3])


def test_the_labels_of_celluscan_bring_a_new_head(convert, source, tmp_path):
    assert convert(source, tmp_path / "ours", "--celluscan-labels") == 0
    config = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(LABELS)


def test_ignored_tensors_are_named(convert, tmp_path, capsys):
    vit(ViTModel).save_pretrained(tmp_path / "vit")
    assert convert(tmp_path / "vit", tmp_path / "ours") == 0
    assert "ignored: pooler.dense.weight" in capsys.readouterr().out


def test_an_empty_folder_may_be_written_to(convert, source, tmp_path):
    (tmp_path / "ours").mkdir()
    assert convert(source, tmp_path / "ours") == 0


def test_a_folder_that_holds_something_is_left_alone(convert, source, tmp_path, capsys):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "precious").write_text("kept")
    assert convert(source, tmp_path / "ours") == 2
    assert "exists and is not empty" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "ours").iterdir()] == ["precious"]


def test_a_file_in_the_way_is_left_alone(convert, source, tmp_path, capsys):
    (tmp_path / "ours").write_text("kept")
    assert convert(source, tmp_path / "ours") == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "ours").read_text() == "kept"


@pytest.mark.parametrize("form", ["celluscan", "transformers", "torchvision"])
def test_a_folder_below_a_file_is_one_line(convert, source, tmp_path, capsys, form):
    (tmp_path / "picture.jpg").write_text("kept")
    assert convert(source, tmp_path / "picture.jpg" / "sub", "--format", form, "--layer-norm-eps", "1e-6") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert str(tmp_path / "picture.jpg" / "sub") in printed


def test_weights_that_can_not_be_written_whole_are_one_line(convert, source, tmp_path, capsys, monkeypatch):
    def cut(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("celluscan_hf.modeling.exporting.save_file", cut)
    assert convert(source, tmp_path / "tv", "--format", "torchvision", "--layer-norm-eps", "1e-6") == 2
    assert capsys.readouterr().err == "error: I/O error: No space left on device (os error 28)\n"


def test_a_missing_source_is_one_line_and_no_folder(convert, tmp_path, capsys):
    assert convert(tmp_path / "nothing.safetensors", tmp_path / "ours") == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert str(tmp_path / "nothing.safetensors") in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "ours").exists()


def test_heads_and_epsilon_of_a_bare_file_can_be_given(convert, tmp_path):
    torch.save(vit().state_dict(), tmp_path / "weights.pth")
    given = ["--num-attention-heads", "4", "--layer-norm-eps", "0.01"]
    assert convert(tmp_path / "weights.pth", tmp_path / "ours", *given) == 0
    model = CelluScanForImageClassification.from_pretrained(tmp_path / "ours").eval()
    assert_close(logits(model), logits(vit()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "mean"), [("imagenet", [0.485, 0.456, 0.406]), ("inception", [0.5, 0.5, 0.5])])
def test_the_normalization_of_a_bare_file_can_be_given(convert, tmp_path, caplog, name, mean):
    torch.save(vit().state_dict(), tmp_path / "weights.pth")
    given = ["--num-attention-heads", "4", "--normalization", name]
    assert convert(tmp_path / "weights.pth", tmp_path / "ours", *given) == 0
    assert json.loads((tmp_path / "ours" / "preprocessor_config.json").read_text())["image_mean"] == mean
    assert "guess" not in caplog.text


def test_a_normalization_that_is_guessed_is_told(convert, tmp_path, caplog):
    torch.save(vit().state_dict(), tmp_path / "weights.pth")
    assert convert(tmp_path / "weights.pth", tmp_path / "ours", "--num-attention-heads", "4") == 0
    assert "give --normalization" in caplog.text


def test_the_weights_of_a_student_can_be_chosen(convert, tmp_path):
    weights = {name: tensor + 1 for name, tensor in vit().state_dict().items()}
    torch.save({"student": vit().state_dict(), "teacher": weights}, tmp_path / "last.ckpt")
    given = ["--num-attention-heads", "4", "--layer-norm-eps", "0.01", "--key", "student"]
    assert convert(tmp_path / "last.ckpt", tmp_path / "ours", *given) == 0
    model = CelluScanForImageClassification.from_pretrained(tmp_path / "ours").eval()
    assert_close(logits(model), logits(vit()), rtol=0, atol=1e-5)


def test_heads_that_do_not_divide_the_width_are_one_line(convert, source, tmp_path, capsys):
    assert convert(source, tmp_path / "ours", "--num-attention-heads", "5") == 2
    assert "num_attention_heads" in capsys.readouterr().err


def test_an_epsilon_that_torchvision_cannot_hold_asks_for_the_option(convert, source, tmp_path, capsys):
    assert convert(source, tmp_path / "tv", "--format", "torchvision") == 2
    assert "--layer-norm-eps 1e-06" in capsys.readouterr().err
    assert convert(source, tmp_path / "tv", "--format", "torchvision", "--layer-norm-eps", "1e-6") == 0
    assert (tmp_path / "tv" / "model.safetensors").is_file()


@pytest.mark.parametrize("form", ["celluscan", "transformers"])
def test_a_crop_of_the_origin_is_kept(convert, tmp_path, form):
    vit().save_pretrained(tmp_path / "run")
    before = build_image_processor(32, [0.7, 0.6, 0.5], [0.1, 0.2, 0.3], resized=50)
    before.save_pretrained(tmp_path / "run")
    assert convert(tmp_path / "run", tmp_path / "out", "--format", form) == 0
    image = Image.effect_noise((70, 60), 90).convert("RGB")
    after = AutoImageProcessor.from_pretrained(tmp_path / "out")
    prepared = [processor(images=image, return_tensors="pt")["pixel_values"] for processor in (before, after)]
    assert_close(prepared[1], prepared[0], rtol=0, atol=0)


def test_a_crop_that_does_not_give_the_models_size_is_refused(convert, tmp_path, capsys):
    vit().save_pretrained(tmp_path / "run")
    build_image_processor(24, [0.7, 0.6, 0.5], [0.1, 0.2, 0.3], resized=50).save_pretrained(tmp_path / "run")
    assert convert(tmp_path / "run", tmp_path / "out") == 2
    assert "expected squares that are cut to 32 pixels" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.parametrize("resized", [32, 50, 47])
def test_timm_is_told_what_is_cut_off(convert, tmp_path, resized):
    vit().save_pretrained(tmp_path / "run")
    build_image_processor(32, [0.7, 0.6, 0.5], [0.1, 0.2, 0.3], resized=resized).save_pretrained(tmp_path / "run")
    assert convert(tmp_path / "run", tmp_path / "out", "--format", "timm", "--layer-norm-eps", 1e-6) == 0
    pretrained_cfg = json.loads((tmp_path / "out" / "config.json").read_text())["pretrained_cfg"]
    assert math.floor(32 / pretrained_cfg["crop_pct"]) == resized


@pytest.mark.parametrize("source", ["tv", "tv/model.safetensors"])
def test_mean_deviation_and_crop_come_back_through_torchvision(convert, tmp_path, capsys, source):
    vit().save_pretrained(tmp_path / "run")
    before = build_image_processor(32, [0.7, 0.6, 0.5], [0.1, 0.2, 0.3], resized=50)
    before.save_pretrained(tmp_path / "run")
    assert convert(tmp_path / "run", tmp_path / "tv", "--format", "torchvision", "--layer-norm-eps", "1e-6") == 0
    assert convert(tmp_path / source, tmp_path / "back", "--num-attention-heads", "4") == 0
    assert AutoImageProcessor.from_pretrained(tmp_path / "back").to_dict() == before.to_dict()
    assert "image_mean [0.7, 0.6, 0.5], image_std [0.1, 0.2, 0.3]" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["celluscan", "transformers"])
def test_a_model_of_one_channel_gets_no_processor_that_makes_three(convert, tmp_path, capsys, form):
    config = ViTConfig(**SIZES, image_size=32, patch_size=8, num_channels=1)
    ViTForImageClassification(config).save_pretrained(tmp_path / "grey")
    assert convert(tmp_path / "grey", tmp_path / "out", "--format", form) == 0
    assert not (tmp_path / "out" / "preprocessor_config.json").exists()
    assert "no image processor is written: ours makes 3 channels, this model takes 1" in capsys.readouterr().out
