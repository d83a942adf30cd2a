import numpy as np
import pytest
import torch

from celluscan_hf.augmentation.background import DRAWS, _dilate, cell_mask, randomize_background
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.taxonomy import NAMES


@pytest.fixture(scope="module")
def cells() -> torch.Tensor:
    """A synthetic cell of each class, (14, 3, 96, 96) uint8."""
    drawn = [np.asarray(draw_cell(name, np.random.default_rng(1), 96)) for name in NAMES]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).contiguous()


def chance(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, DRAWS, generator=torch.Generator().manual_seed(seed))


def test_the_cell_is_inside_and_the_field_outside(cells: torch.Tensor) -> None:
    image = cells.float() / 255
    mask = cell_mask(image)
    assert mask.shape == (14, 1, 96, 96)
    assert mask.min() >= 0
    assert mask.max() <= 1
    violet = (image[:, 0] + image[:, 2]) / 2 - image[:, 1]
    middle = torch.zeros(96, 96, dtype=torch.bool)
    middle[28:68, 28:68] = True
    for color, inside in zip(violet, mask[:, 0], strict=True):
        strongest = (color > color.quantile(0.98)) & middle  # of the nucleus, or a platelet
        assert inside[strongest].mean() > 0.8
    assert mask.mean(dim=(1, 2, 3)).max() < 0.8


def test_what_is_inside_stays_and_what_is_outside_gets_another_colour(cells: torch.Tensor) -> None:
    mask = cell_mask(cells.float() / 255)
    changed = randomize_background(cells, chance(14), 1.0)
    assert changed.min() >= 0
    assert changed.max() <= 255
    change = (changed - cells.float()).abs()
    assert change[(mask > 0.99).expand(-1, 3, -1, -1)].max() < 3
    assert change[(mask < 0.01).expand(-1, 3, -1, -1)].mean() > 10


def test_the_share_is_kept_and_the_others_are_left_alone(cells: torch.Tensor) -> None:
    many = cells[:1].expand(200, -1, -1, -1)
    changed = (randomize_background(many, chance(200), 0.3) - many.float()).abs().amax(dim=(1, 2, 3)) > 1
    assert 0.2 < changed.float().mean() < 0.4
    assert torch.equal(randomize_background(cells, chance(14), 0.0), cells.float())


def test_those_chosen_change_in_their_own_rows_and_no_others(cells: torch.Tensor) -> None:
    drawn = chance(14)
    some, every = randomize_background(cells, drawn, 0.5), randomize_background(cells, drawn, 1.0)
    for number, chosen in enumerate(drawn[:, 0] < 0.5):
        assert torch.allclose(some[number], every[number] if chosen else cells[number].float(), atol=1e-3)


def test_a_field_without_a_cell_and_a_plain_image_are_no_error() -> None:
    for image in (torch.full((1, 3, 40, 40), 230, dtype=torch.uint8), torch.zeros(1, 3, 40, 40, dtype=torch.uint8)):
        assert torch.isfinite(randomize_background(image, chance(1), 1.0)).all()


def test_a_large_image_has_the_mask_of_a_small_one(cells: torch.Tensor) -> None:
    small = torch.nn.functional.interpolate(cells.float() / 255, size=72, mode="area")
    large = torch.nn.functional.interpolate(small, size=216, mode="bilinear")
    mask = torch.nn.functional.interpolate(cell_mask(large), size=72, mode="area")
    assert (mask - cell_mask(small)).abs().mean() < 0.02


@pytest.mark.parametrize("radius", [0, 5])
def test_dilation_takes_the_maximum_within_the_radius(radius: int) -> None:
    values = torch.rand(3, 20, 20, generator=torch.Generator().manual_seed(0))
    window = 2 * radius + 1
    pooled = torch.nn.functional.max_pool2d(values, (1, window), 1, (0, radius))
    assert torch.equal(_dilate(values, radius, axis=2), pooled)
    assert torch.equal(_dilate(values.transpose(1, 2), radius, axis=1), pooled.transpose(1, 2))
