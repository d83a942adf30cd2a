"""The image processor: any image becomes a normalised square, prepared like the dataset."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoImageProcessor, LlavaImageProcessor, pipeline

from celluscan_hf.curation import squares
from celluscan_hf.curation.decoding import decode
from celluscan_hf.modeling.processor import build_image_processor

from .conftest import tiny_model

MEAN, STD = (0.83, 0.71, 0.74), (0.16, 0.21, 0.17)
COLOUR = tuple(round(255 * value) for value in MEAN)
OBLONG = [(64, 40), (17, 16), (121, 301)]


def pixel_values(image: Image.Image, size: int = 32) -> torch.Tensor:
    return build_image_processor(size, MEAN, STD)(image, return_tensors="pt").pixel_values[0]


def grey_levels(values: torch.Tensor) -> torch.Tensor:
    """Normalised pixels back as 0–255 per channel: (height, width, 3)."""
    return (values.permute(1, 2, 0) * torch.tensor(STD) + torch.tensor(MEAN)) * 255


@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_padding_normalises_to_about_zero_around_the_image(size):
    values = pixel_values(Image.new("RGB", size, (0, 0, 0)))
    rows = values if size[0] > size[1] else values.transpose(1, 2)
    assert rows[:, :7].abs().max() < 0.03
    assert rows[:, -7:].abs().max() < 0.03
    assert_close(rows[:, 9:23], -torch.tensor(MEAN).div(torch.tensor(STD)).view(3, 1, 1).expand(3, 14, 32))


def test_a_square_image_is_not_padded(cell_image):
    resized = np.asarray(cell_image(0).resize((32, 32), Image.Resampling.BILINEAR), np.float32)
    assert (grey_levels(pixel_values(cell_image(0))) - torch.from_numpy(resized)).abs().max() <= 2


@pytest.mark.parametrize("size", OBLONG)
@pytest.mark.parametrize("target", [48, 224])
def test_pixels_are_those_of_the_dataset(size, target, cell_image):
    image = cell_image(1, size)
    expected = squares.pad(np.array(squares.square(image, target)), *size, COLOUR).astype(np.float32)
    assert (grey_levels(pixel_values(image, target)) - torch.from_numpy(expected)).abs().max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "L", "CMYK"])
def test_an_image_of_another_mode_becomes_rgb(mode, cell_image):
    image = cell_image(0, (50, 70)).convert(mode)
    assert_close(pixel_values(image), pixel_values(image.convert("RGB")), rtol=0, atol=1e-6)


def test_images_of_several_sizes_and_modes_make_one_batch(cell_image):
    images = [cell_image(0, (50, 70)), cell_image(1).convert("L"), cell_image(2, (30, 20))]
    batch = build_image_processor(32, MEAN, STD)(images, return_tensors="pt").pixel_values
    assert batch.shape == (3, 3, 32, 32)
    for image, values in zip(images, batch, strict=True):
        assert_close(values, pixel_values(image))


def opened(path: Path) -> torch.Tensor:
    """Grey levels of what `pipeline` makes of a file."""
    classify = pipeline(
        "image-classification", model=tiny_model(), image_processor=build_image_processor(32, MEAN, STD)
    )
    return grey_levels(classify.preprocess(str(path))["pixel_values"][0])


def test_a_pipeline_drops_the_alpha_channel_that_we_lay_over_white(tmp_path: Path):
    purple, hidden = (92, 44, 140), Image.new("L", (32, 32), 0)
    hidden.paste(255, (8, 8, 24, 24))
    image = Image.new("RGB", (32, 32), purple)
    image.putalpha(hidden)
    image.save(tmp_path / "cell.png")
    assert_close(opened(tmp_path / "cell.png")[0, 0], torch.tensor(purple).float(), rtol=0, atol=0.1)
    ours = decode((tmp_path / "cell.png").read_bytes()).image
    assert [ours.getpixel((0, 0)), ours.getpixel((16, 16))] == [(255, 255, 255), purple]


def test_a_pipeline_clips_16_bit_grey_of_which_we_take_the_upper_8(tmp_path: Path):
    Image.fromarray(np.full((32, 32), 40_000, np.uint16)).save(tmp_path / "cell.png")
    assert_close(opened(tmp_path / "cell.png")[0, 0], torch.full((3,), 255.0), rtol=0, atol=0.1)
    assert decode((tmp_path / "cell.png").read_bytes()).image.getpixel((0, 0)) == (40_000 >> 8,) * 3


def test_a_saved_processor_comes_back_the_same(cell_image, tmp_path: Path):
    processor = build_image_processor(32, MEAN, STD)
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, LlavaImageProcessor)
    assert loaded.to_dict() == processor.to_dict()
    image = cell_image(0, (50, 70))
    assert torch.equal(loaded(image, return_tensors="pt").pixel_values[0], pixel_values(image))


def test_the_pillow_backend_gives_almost_the_same(cell_image, tmp_path: Path):
    build_image_processor(32, MEAN, STD).save_pretrained(tmp_path)
    image = cell_image(0, (50, 70))
    values = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(image, return_tensors="pt").pixel_values[0]
    assert (grey_levels(values) - grey_levels(pixel_values(image))).abs().max() <= 2


@pytest.mark.parametrize("mean", [(0.5, 0.5), (0.5, 0.5, 1.5), (0.5, 0.5, -0.1), (0.5, 0.5, float("nan"))])
def test_a_mean_outside_0_to_1_is_refused(mean):
    with pytest.raises(ValueError, match=r"image_mean must be three values in \[0, 1\], got"):
        build_image_processor(32, mean, STD)


@pytest.mark.parametrize("std", [(0.2, 0.2), (0.2, 0.2, 0), (51, 51, 51), (0.2, 0.2, float("nan"))])
def test_a_std_outside_0_to_1_is_refused(std):
    with pytest.raises(ValueError, match="image_std must be three values above 0 and at most 1, got"):
        build_image_processor(32, MEAN, std)
