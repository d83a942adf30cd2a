import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from celluscan_hf.errors import CelluScanError
from celluscan_hf.modeling.processor import build_image_processor
from celluscan_hf.training.augmentation import Augmentation, View, color_matrix, uniform

MEAN, STD = (0.87, 0.75, 0.72), (0.16, 0.19, 0.08)
VIEW = View(side=32, crop_pct=0.8, mean=MEAN, std=STD)
STILL = Augmentation(dihedral=False, shift=0.0, color_jitter=0.0, background_randomization=0.0, seed=0)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_a_view_is_what_the_image_processor_gives(pixels: torch.Tensor) -> None:
    processor = build_image_processor(VIEW.side, MEAN, STD, VIEW.resized)
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in pixels]
    expected = processor(images=images, return_tensors="pt")["pixel_values"]
    assert (VIEW(pixels) - expected).abs().max() < 1e-5


def test_without_any_change_training_sees_what_evaluation_sees(pixels: torch.Tensor) -> None:
    assert (STILL(pixels, range(64), VIEW) - VIEW(pixels)).abs().max() < 1e-5


def test_the_same_draw_gives_the_same_image_in_any_batch(pixels: torch.Tensor) -> None:
    augmentation = Augmentation(dihedral=True, shift=0.1, color_jitter=0.2, background_randomization=0.5, seed=3)
    draws = range(1000, 1064)
    together = augmentation(pixels, draws, VIEW)
    alone = augmentation(pixels[40:41], draws[40:41], VIEW)
    assert torch.allclose(together[40:41], alone, atol=1e-5)
    assert not torch.allclose(together[40:41], augmentation(pixels[40:41], draws[41:42], VIEW), atol=0.1)
    other = dataclasses.replace(augmentation, seed=4)
    assert not torch.allclose(together, other(pixels, draws, VIEW), atol=0.1)


def test_the_number_of_threads_is_left_as_it_was(pixels: torch.Tensor) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        VIEW(pixels)
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError):
            VIEW(pixels[:, :2])  # a channel is missing
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_all_eight_symmetries_of_the_square_are_drawn_and_no_other() -> None:
    image = torch.arange(48, dtype=torch.uint8).reshape(1, 3, 4, 4)
    square = dataclasses.replace(VIEW, side=4, crop_pct=1.0)
    turned = torch.stack([image[0].rot90(k, (1, 2)) for k in range(4)])
    symmetries = square(torch.cat([turned, turned.flip(3)]))
    augmented = dataclasses.replace(STILL, dihedral=True)(image.expand(400, -1, -1, -1), range(400), square)
    distances = (augmented[:, None] - symmetries[None]).abs().amax((2, 3, 4))
    assert distances.min(1).values.max() < 1e-5
    counts = torch.bincount(distances.argmin(1), minlength=8)
    assert counts.min() > 25


def test_a_shift_reaches_its_bound_on_every_side_and_not_further() -> None:
    image = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    rows = torch.arange(40, dtype=torch.uint8)
    image[0, 0], image[0, 1] = rows[:, None], rows[None, :]
    plain = dataclasses.replace(VIEW, mean=(0, 0, 0), std=(1, 1, 1))
    values = dataclasses.replace(STILL, shift=0.1)(image.expand(500, -1, -1, -1), range(500), plain) * 255
    for channel in (0, 1):  # 3 pixels each way around the margin of 4
        assert set(values[:, channel, 0, 0].round().int().tolist()) == {1, 2, 3, 4, 5, 6, 7}
    assert len(values[:, :2, 0, 0].round().unique(dim=0)) == 49  # either way independent of the other


def test_a_jitter_reaches_its_bounds_and_not_further() -> None:
    grey = torch.full((1, 3, 40, 40), 100, dtype=torch.uint8)  # which brightness alone changes
    plain = dataclasses.replace(VIEW, mean=(0, 0, 0), std=(1, 1, 1))
    values = dataclasses.replace(STILL, color_jitter=0.2)(grey.expand(500, -1, -1, -1), range(500), plain) * 2.55
    assert 0.799 < values.min() < 0.81
    assert 1.19 < values.max() < 1.201


def test_colours_change_as_torchvision_changes_them(pixels: torch.Tensor) -> None:
    soft = (pixels[:4].float() * 0.3 + 90).to(torch.uint8)  # nothing to clamp
    plain = dataclasses.replace(VIEW, side=40, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    expected = v2.functional.adjust_saturation(soft.float() / 255, 1.2)
    expected = v2.functional.adjust_contrast(expected, 0.9)
    expected = v2.functional.adjust_brightness(expected, 1.1)
    mine = plain.normalize(soft, *color_matrix(soft, torch.tensor([[1.1, 0.9, 1.2]] * 4)))
    assert (mine - expected).abs().max() < 2e-3


def test_uniform_numbers_are_even_and_independent() -> None:
    numbers = uniform(torch.arange(20000), 6, seed=5)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.stack([np.histogram(column, 10, (0, 1))[0] for column in numbers.T.numpy()])
    assert np.abs(counts - 2000).max() < 200
    assert np.abs(np.corrcoef(numbers.T.numpy()) - np.eye(6)).max() < 0.03
    assert (numbers != uniform(torch.arange(20000), 6, seed=6)).float().mean() > 0.99


def test_a_shift_beyond_the_image_is_refused_with_the_largest() -> None:
    with pytest.raises(CelluScanError, match=r"--shift 0.2: expected 0 to 0.125"):
        dataclasses.replace(STILL, shift=0.2).check(VIEW)
