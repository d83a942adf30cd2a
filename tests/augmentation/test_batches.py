import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from celluscan_hf.augmentation.batches import Augmentation
from celluscan_hf.augmentation.colors import change_density, color_matrix, density_map
from celluscan_hf.augmentation.draws import uniform
from celluscan_hf.augmentation.view import View
from celluscan_hf.errors import CelluScanError
from celluscan_hf.modeling.processor import build_image_processor

MEAN, STD = (0.87, 0.75, 0.72), (0.16, 0.19, 0.08)
VIEW = View(side=32, crop_pct=0.8, mean=MEAN, std=STD)
PLAIN = dataclasses.replace(VIEW, mean=(0, 0, 0), std=(1, 1, 1))
STILL = Augmentation()
MILD = Augmentation(rotate="dihedral", shift=0.1, color_jitter=0.2, background_randomization=0.5, seed=3)
STRONG = dataclasses.replace(
    MILD,
    rotate="any",
    augmented_share=0.5,
    zoom=(0.4, 1.0),
    stain=(0.65, 1.35),
    white_balance=(0.85, 1.15),
    gamma=(0.67, 1.5),
    contrast=(0.6, 1.4),
    saturation=(0.0, 1.4),
    grayscale=0.1,
    blur=0.3,
)


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


@pytest.mark.parametrize("augmentation", [MILD, STRONG], ids=["mild", "strong"])
def test_the_same_draw_gives_the_same_image_in_any_batch(pixels: torch.Tensor, augmentation: Augmentation) -> None:
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
    augmented = dataclasses.replace(STILL, rotate="dihedral")(image.expand(400, -1, -1, -1), range(400), square)
    distances = (augmented[:, None] - symmetries[None]).abs().amax((2, 3, 4))
    assert distances.min(1).values.max() < 1e-5
    counts = torch.bincount(distances.argmin(1), minlength=8)
    assert counts.min() > 25


def test_a_shift_reaches_its_bound_on_every_side_and_not_further() -> None:
    image = torch.zeros(1, 3, 40, 40, dtype=torch.uint8)
    rows = torch.arange(40, dtype=torch.uint8)
    image[0, 0], image[0, 1] = rows[:, None], rows[None, :]
    values = dataclasses.replace(STILL, shift=0.1)(image.expand(500, -1, -1, -1), range(500), PLAIN) * 255
    for channel in (0, 1):  # 3 pixels each way around the margin of 4
        assert set(values[:, channel, 0, 0].round().int().tolist()) == {1, 2, 3, 4, 5, 6, 7}
    assert len(values[:, :2, 0, 0].round().unique(dim=0)) == 49  # either way independent of the other


def test_a_jitter_reaches_its_bounds_and_not_further() -> None:
    grey = torch.full((1, 3, 40, 40), 100, dtype=torch.uint8)  # which brightness alone changes
    values = dataclasses.replace(STILL, color_jitter=0.2)(grey.expand(500, -1, -1, -1), range(500), PLAIN) * 2.55
    assert 0.799 < values.min() < 0.81
    assert 1.19 < values.max() < 1.201


def test_colours_change_as_torchvision_changes_them(pixels: torch.Tensor) -> None:
    soft = (pixels[:4].float() * 0.3 + 90).to(torch.uint8)  # nothing to clamp
    plain = dataclasses.replace(VIEW, side=40, crop_pct=1.0, mean=(0, 0, 0), std=(1, 1, 1))
    expected = v2.functional.adjust_saturation(soft.float() / 255, 1.2)
    expected = v2.functional.adjust_contrast(expected, 0.9)
    expected = v2.functional.adjust_brightness(expected, 1.1)
    mine = torch.empty(soft.shape)
    plain.normalize(soft.float(), *color_matrix(soft.float(), torch.tensor([[1.1, 0.9, 1.2]] * 4), torch.eye(3)), mine)
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


def test_a_share_of_the_images_looks_as_if_from_another_laboratory(pixels: torch.Tensor) -> None:
    mild = dataclasses.replace(STRONG, augmented_share=0.0)
    changed = (STRONG(pixels, range(64), VIEW) - mild(pixels, range(64), VIEW)).abs().amax((1, 2, 3)) > 1e-3
    assert 20 < changed.sum() < 44


def test_an_image_at_home_is_never_shown_as_from_another_laboratory(pixels: torch.Tensor) -> None:
    everything = dataclasses.replace(STRONG, augmented_share=1.0)
    at_home = torch.arange(64) < 10
    values = everything(pixels, range(64), VIEW, at_home)
    mild = dataclasses.replace(STRONG, augmented_share=0.0)(pixels, range(64), VIEW)
    assert torch.allclose(values[:10], mild[:10], atol=1e-5)
    assert torch.allclose(values[10:], everything(pixels, range(64), VIEW)[10:], atol=1e-5)


def test_any_angle_of_rotation_is_drawn() -> None:
    ramp = torch.arange(40, dtype=torch.uint8).expand(1, 3, 40, 40) * 6  # brighter to the right
    augmentation = dataclasses.replace(STILL, rotate="any")
    values = augmentation(ramp.expand(400, -1, -1, -1), range(400), PLAIN)[:, 0]
    right = (values[:, :, 20:].mean((1, 2)) - values[:, :, :12].mean((1, 2))).numpy()
    down = (values[:, 20:].mean((1, 2)) - values[:, :12].mean((1, 2))).numpy()
    angles = np.degrees(np.arctan2(down, right))
    assert np.histogram(angles, 8, (-180, 180))[0].min() > 25
    assert np.allclose(np.hypot(right, down), np.median(np.hypot(right, down)), rtol=0.1)  # nothing else changes


def test_zoom_shows_the_share_of_the_side_that_was_asked_for() -> None:
    ramp = torch.arange(40, dtype=torch.uint8).expand(1, 3, 40, 40) * 6
    zoomed = dataclasses.replace(STILL, zoom=(0.4, 1.0))(ramp.expand(500, -1, -1, -1), range(500), PLAIN)
    seen = (zoomed[:, 0, 0, -1] - zoomed[:, 0, 0, 0]) * 255 / 6 / 40 * 32 / 31  # of the side
    assert 0.39 < seen.min() < 0.42
    assert 0.95 < seen.max() < 1.01
    assert abs((seen < 0.4**0.5).float().mean() - 0.5) < 0.07  # log-uniform


def test_other_light_and_gamma_change_colours_as_a_camera_would() -> None:
    grey = torch.full((300, 3, 40, 40), 100, dtype=torch.uint8)
    lamp = dataclasses.replace(STILL, white_balance=(0.8, 1.25))(grey, range(300), PLAIN)[:, :, 0, 0] * 255
    assert 79 < lamp.min() < 83
    assert 120 < lamp.max() < 126
    assert np.abs(np.corrcoef(lamp.T.numpy()) - np.eye(3)).max() < 0.2  # each channel by itself
    brighter = dataclasses.replace(STILL, white_balance=(1.0, 1.25))(grey, range(300), PLAIN)
    assert brighter.min() * 255 > 99.5
    power = dataclasses.replace(STILL, gamma=(0.5, 2.0))(grey, range(300), PLAIN)[:, 0, 0, 0]
    assert abs(power.min() - (101 / 256) ** 2) < 0.02
    assert abs(power.max() - (101 / 256) ** 0.5) < 0.02


def test_stain_changes_what_is_stained_more_than_what_is_not() -> None:
    images = torch.full((300, 3, 40, 40), 250, dtype=torch.uint8)
    images[:, :, 10:30, 10:30] = torch.tensor([90, 60, 140], dtype=torch.uint8)[:, None, None]
    values = dataclasses.replace(STILL, stain=(0.65, 1.35))(images, range(300), PLAIN) * 255
    stained, field = values[:, :, 16, 16].std(0), values[:, :, 0, 0].std(0)
    assert (stained > 1.5 * field).all()
    assert stained.min() > 10


def test_without_stain_to_change_the_map_of_densities_is_none() -> None:
    one = torch.ones(5, 3)
    mix, offset = density_map(one, 0 * one, one, one[:, 0])
    images = torch.randint(0, 256, (5, 3, 8, 8)).float()
    assert (change_density(images, mix, offset) - images).abs().max() < 1e-2


def test_grayscale_takes_all_colour_and_a_mix_of_channels_none_of_the_grey(pixels: torch.Tensor) -> None:
    grey = dataclasses.replace(STILL, grayscale=1.0)(pixels, range(64), PLAIN)
    assert (grey - grey.mean(1, keepdim=True)).abs().max() < 1e-5
    channels = STRONG._channels({"channels": torch.rand(64, 6)}, torch.ones(64, dtype=torch.bool))
    assert (channels.sum(2) - 1).abs().max() < 1e-6
    assert 0.2 < (channels - torch.eye(3)).abs().max() < 0.24


def test_channels_are_mixed_before_contrast_and_saturation(pixels: torch.Tensor) -> None:
    images, channels = pixels[:4].float(), torch.eye(3) + torch.tensor([[-0.1, 0.1, 0], [0, 0, 0], [0.05, 0, -0.05]])
    factors = torch.tensor([[1.1, 0.9, 1.2]] * 4)
    mix, offset = color_matrix(images, factors, channels.expand(4, 3, 3))
    mixed = torch.einsum("ij,bjhw->bihw", channels, images)
    expected, expected_offset = color_matrix(mixed, factors, torch.eye(3).expand(4, 3, 3))
    assert torch.allclose(mix @ images.flatten(2), expected @ mixed.flatten(2), atol=1e-2)
    assert torch.allclose(offset, expected_offset, atol=1e-5)


def test_blur_takes_detail_and_leaves_what_is_even(pixels: torch.Tensor) -> None:
    blurred = dataclasses.replace(STILL, blur=1.0)(pixels, range(64), PLAIN)
    assert blurred.std() < 0.5 * PLAIN(pixels).std()
    even = torch.full((2, 3, 40, 40), 77, dtype=torch.uint8)
    assert (dataclasses.replace(STILL, blur=1.0)(even, range(2), PLAIN) * 255 - 77).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("option", "values", "expected"),
    [
        ("zoom", (1.0, 0.4), r"--zoom 1.0 0.4: expected two factors, from 0.1 to 2, the smaller one first"),
        ("stain", (0.5,), r"--stain 0.5: expected two factors"),
        ("gamma", (0.0, 1.0), r"--gamma 0.0 1.0: expected two factors, from 0.2 to 5"),
        ("rotate", "90", r"--rotate 90: expected one of none, dihedral, any"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(option: str, values: object, expected: str) -> None:
    with pytest.raises(CelluScanError, match=expected):
        dataclasses.replace(STILL, **{option: values}).check(VIEW)
