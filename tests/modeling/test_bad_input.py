"""Bad input is refused with what was expected and what came."""

import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification, CelluScanModel

from .conftest import TINY, images, labels, tiny_model

EXPECTED = r"\(batch, 3, 32, 32\)"


def spoilt(value: float) -> torch.Tensor:
    """Images of which one pixel is `value`."""
    pixels = images()
    pixels[2, 1, 5, 7] = value
    return pixels


@pytest.mark.parametrize(
    ("pixel_values", "message"),
    [
        (torch.zeros(2, 1, 32, 32), rf"{EXPECTED}, got \(2, 1, 32, 32\)"),
        (torch.zeros(2, 32, 32, 3), rf"{EXPECTED}, got \(2, 32, 32, 3\)"),
        (torch.zeros(3, 32, 32), rf"{EXPECTED}, got \(3, 32, 32\)"),
        (torch.zeros(2, 3, 40, 32), rf"{EXPECTED}, got \(2, 3, 40, 32\).*interpolate_pos_encoding=True"),
        (torch.zeros(0, 3, 32, 32), rf"{EXPECTED} with at least one image, got none: \(0, 3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), "must be floating point.*, got torch.uint8"),
        (spoilt(float("nan")), "must be finite, got NaN or infinity"),
        (spoilt(float("inf")), "must be finite, got NaN or infinity"),
        (spoilt(float("nan")).half(), "must be finite, got NaN or infinity"),
    ],
    ids=["one channel", "channels last", "one image", "size", "none", "uint8", "nan", "inf", "half"],
)
def test_pixels_that_do_not_fit_are_refused(pixel_values, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(pixel_values)


def test_infinities_that_cancel_out_are_refused():
    pixels = spoilt(float("inf"))
    pixels[0, 0, 0, 0] = float("-inf")
    with pytest.raises(ValueError, match="must be finite"):
        tiny_model()(pixels)


@pytest.mark.parametrize(("height", "width"), [(4, 32), (40, 35), (0, 32)])
def test_an_image_that_is_not_divided_into_patches_is_refused(height, width):
    with pytest.raises(ValueError, match=rf"multiples of patch_size \(8\), got \(4, 3, {height}, {width}\)"):
        tiny_model()(images(4, height, width), interpolate_pos_encoding=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.tensor([0, 1, -1, 3]), r"0 to 13 for 14 classes, got \[-1\]"),
        (torch.tensor([0, 1, 14, 3]), r"0 to 13 for 14 classes, got \[14\]"),
        (torch.tensor([0, 1, -100, 3]), r"0 to 13 for 14 classes, got \[-100\]"),
        (torch.tensor([0.0, 1.0, 2.0, 3.0]), r"of the shape \(4,\), got torch.float32 of \(4,\)"),
        (labels() > 5, r"of the shape \(4,\), got torch.bool of \(4,\)"),
        (labels()[:, None], r"of the shape \(4,\), got torch.int64 of \(4, 1\)"),
        (labels(3), r"of the shape \(4,\), got torch.int64 of \(3,\)"),
    ],
    ids=["-1", "14", "-100", "float", "bool", "column", "too few"],
)
def test_labels_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(images(), labels=given)


def test_labels_and_pixels_must_be_tensors():
    with pytest.raises(ValueError, match="labels must be a tensor of class indices, got <class 'list'>"):
        tiny_model()(images(), labels=[0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"pixel_values must be a tensor, .*ndarray"):
        tiny_model()(images().numpy())


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    ViTForImageClassification(ViTConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises((ValueError, OSError), match='"celluscan_vit", got "vit"'):
        CelluScanForImageClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("model_class", [CelluScanModel, CelluScanForImageClassification])
def test_a_pickle_is_never_opened(model_class, tmp_path):
    model = tiny_model(model_class)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises((ValueError, OSError), match="safetensors"):
        model_class.from_pretrained(tmp_path)


def test_asking_for_a_pickle_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"model.safetensors only, got use_safetensors=False"):
        CelluScanForImageClassification.from_pretrained(tmp_path, use_safetensors=False)
