"""Background randomization, so that a model cannot learn the class from the slide or the camera.

The cell is segmented by its stain: nuclei, granules and platelets are violet, so green is weak relative to red and
blue. The most violet pixels near the centre are dilated by about the width of a cytoplasm; the rest is background.
"""

from functools import lru_cache

import torch
from torch.nn import functional

_SIDE = 72  # pixels: larger images are segmented at about this size
_SHARE = 0.45  # between the median (0) and the strongest (1) violet of the image: threshold for stained pixels
_STEEP = 30.0  # slope of the sigmoid at a threshold
_REACH = 0.36  # standard deviation of the centre weight, as a share of the side
_DILATION = 0.16  # radius as a share of the side: the width of a cytoplasm
_SOFT = 0.03  # width of the mask's soft edge, as a share of the side
_EMPTY = 0.85  # quantile of green above which a pixel counts as empty background
_FIELD = 0.09  # colour distance from empty background that still counts as background
_LIGHT = (0.72, 1.0)  # range of the new background's brightness; 1 is white
_TINT = 0.12  # largest deviation of a channel from that brightness
_CONTRAST = (0.0, 1.2)  # range of the factor on the background's structure; 0 leaves a uniform colour
DRAWS = 6  # random numbers per image


def randomize_background(pixels: torch.Tensor, chance: torch.Tensor, share: float) -> torch.Tensor:
    """Give the background of a `share` of the images another colour and contrast.

    Args:
        pixels: (B, 3, H, W), square; uint8, or float32 in [0, 255], which is changed in place.
        chance: (B, `DRAWS`) random numbers in [0, 1).
        share: Share of images to change, 0 to 1.

    Returns:
        (B, 3, H, W) float32 in [0, 255].
    """
    images = pixels.float()
    chosen = (chance[:, 0] < share).nonzero()[:, 0]  # (b)
    if not len(chosen):
        return images
    image, chance = images[chosen], chance[chosen]
    outside = 1 - cell_mask(image, white=255)  # (b, 1, H, W)
    area = outside.sum(dim=(2, 3)).clamp_min(1e-3)
    mean = (image.flatten(2) @ outside.flatten(2).mT)[..., 0] / area  # (b, 3)
    light = _LIGHT[0] + (_LIGHT[1] - _LIGHT[0]) * chance[:, 1:2]
    colour = 255 * (light + _TINT * (2 * chance[:, 2:5] - 1)).clamp(0, 1)  # (b, 3)
    contrast = (_CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * chance[:, 5])[:, None]
    offset = (colour - contrast * mean)[..., None, None]
    field = torch.addcmul(offset, image, contrast[..., None, None]).clamp_(0, 255)
    images[chosen] = image.lerp_(field, outside)
    return images


def cell_mask(image: torch.Tensor, white: float = 1.0) -> torch.Tensor:
    """Segment the cell in square images (B, 3, H, W) in [0, `white`]: a soft mask (B, 1, H, W) in [0, 1]."""
    side = image.shape[-1]
    if side >= 2 * _SIDE:
        small = functional.avg_pool2d(image, side // _SIDE)
        return functional.interpolate(cell_mask(small, white), size=side, mode="bilinear")
    image = image / white
    violet = (image[:, 0] + image[:, 2]) / 2 - image[:, 1]  # (B, H, W)
    flat = violet.flatten(1)
    median, strongest = flat.median(dim=1).values, _quantile(flat, 0.99)
    threshold = median + _SHARE * (strongest - median)
    stained = torch.sigmoid(_STEEP * (violet - threshold[:, None, None])) * _centre_weight(side, image.device)
    radius = round(_DILATION * side)
    dilated = _dilate(_dilate(stained, radius, axis=1), radius, axis=2)[:, None]
    inside = (2 * dilated).clamp(0, 1) * torch.sigmoid(_STEEP * 2 * (_distance_from_field(image) - _FIELD))
    edge = 2 * max(1, round(_SOFT * side / 2)) + 1
    return functional.avg_pool2d(inside, edge, 1, edge // 2, count_include_pad=False)


def _dilate(values: torch.Tensor, radius: int, axis: int) -> torch.Tensor:
    """Take the maximum of non-negative values (B, H, W) within `radius` along an axis.

    Each step joins two windows of half the width, so it takes as many steps as the window width has bits.
    """
    window, width = 2 * radius + 1, 1
    padding = (radius, radius, 0, 0) if axis == 2 else (0, 0, radius, radius)
    values = functional.pad(values, padding)
    while width < window:
        step = min(width, window - width)
        rest = values.shape[axis] - step
        values = torch.maximum(values.narrow(axis, 0, rest), values.narrow(axis, step, rest))
        width += step
    return values


def _distance_from_field(image: torch.Tensor) -> torch.Tensor:
    """Colour distance of each pixel from the empty background, where green is strongest: (B, 1, H, W)."""
    green = image[:, 1].flatten(1)
    empty = (green >= _quantile(green, _EMPTY)[:, None]).float()  # (B, H W)
    field = (image.flatten(2) @ empty[..., None])[..., 0] / empty.sum(dim=1, keepdim=True)  # (B, 3)
    return (image - field[..., None, None]).abs().amax(dim=1, keepdim=True)


def _quantile(values: torch.Tensor, share: float) -> torch.Tensor:
    """Quantile of each row (B, n), the nearest value of it: (B,). `torch.quantile` would sort."""
    return values.kthvalue(1 + round(share * (values.shape[1] - 1)), dim=1).values


@lru_cache(maxsize=64)
def _centre_weight(side: int, device: torch.device) -> torch.Tensor:
    """Gaussian weight, 1 at the centre and lower towards the corners: (side, side)."""
    offset = (torch.arange(side, device=device) - (side - 1) / 2) / (_REACH * side)
    return torch.exp(-0.5 * (offset[:, None] ** 2 + offset**2))
