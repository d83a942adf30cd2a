"""What lies around a cell, repainted at random, so that a model cannot learn the class from the field or the camera.

The cell is found by its stain: nuclei, granules and platelets are violet, so green is weak beside red and blue. What is
most so in a picture, and near its middle, is widened by about the breadth of a cytoplasm; all else is surroundings.
"""

import torch
from torch.nn import functional

_SIDE = 72  # pixels: where a cell is shows as well in a small picture
_SHARE = 0.45  # of the way from the picture's median to its strongest violet: what counts as stained
_STEEP = 30.0  # how sharply
_REACH = 0.36  # standard deviation of the weight of the middle, as a share of the side
_WIDEN = 0.16  # of the side, on each side: the breadth of a cytoplasm
_SOFT = 0.03  # of the side: the width of the seam
_EMPTY = 0.85  # quantile of green from which a pixel is taken for empty field
_FIELD = 0.09  # distance in colour from it that is still field
_LIGHT = (0.72, 1.0)  # of the repainted field; white is 1
_TINT = 0.12  # by which a channel may leave the others
_CONTRAST = (0.0, 1.2)  # that is left to what lies in the field; 0 is a blank one
DRAWS = 6  # numbers from [0, 1) for each picture


def randomize_background(pixels: torch.Tensor, chance: torch.Tensor, share: float) -> torch.Tensor:
    """Pictures whose surroundings, in `share` of them, have another colour and contrast.

    Args:
        pixels: (B, 3, H, W) uint8, square.
        chance: (B, `DRAWS`) in [0, 1), which decides all of it.
        share: 0 to 1.

    Returns:
        (B, 3, H, W) float32 in [0, 255].
    """
    images = pixels.float() / 255
    chosen = (chance[:, 0] < share).nonzero()[:, 0]  # (b)
    if not len(chosen):
        return 255 * images
    image, chance = images[chosen], chance[chosen]
    outside = 1 - cell_mask(image)  # (b, 1, H, W)
    seen = outside.sum(dim=(2, 3)).clamp_min(1e-3)
    mean = ((image * outside).sum(dim=(2, 3)) / seen)[..., None, None]  # (b, 3, 1, 1)
    light = _LIGHT[0] + (_LIGHT[1] - _LIGHT[0]) * chance[:, 1:2]
    colour = (light + _TINT * (2 * chance[:, 2:5] - 1)).clamp(0, 1)[..., None, None]
    contrast = (_CONTRAST[0] + (_CONTRAST[1] - _CONTRAST[0]) * chance[:, 5])[:, None, None, None]
    field = (colour + contrast * (image - mean)).clamp(0, 1)
    images[chosen] = image + outside * (field - image)
    return 255 * images


def cell_mask(image: torch.Tensor) -> torch.Tensor:
    """Where the cell is, (B, 1, H, W) in [0, 1], of square pictures (B, 3, H, W) in [0, 1]."""
    side = image.shape[-1]
    if side > _SIDE:
        small = functional.interpolate(image, size=_SIDE, mode="area")
        return functional.interpolate(cell_mask(small), size=side, mode="bilinear")
    violet = (image[:, 0] + image[:, 2]) / 2 - image[:, 1]  # (B, H, W)
    flat = violet.flatten(1)
    middle, strongest = flat.median(dim=1).values, flat.quantile(0.99, dim=1)
    limit = middle + _SHARE * (strongest - middle)
    stained = torch.sigmoid(_STEEP * (violet - limit[:, None, None])) * _near_middle(side, image.device)
    reach = round(_WIDEN * side)
    wide = _widened(_widened(stained, reach, axis=1), reach, axis=2)[:, None]
    inside = (2 * wide).clamp(0, 1) * torch.sigmoid(_STEEP * 2 * (_from_field(image) - _FIELD))
    seam = 2 * max(1, round(_SOFT * side / 2)) + 1
    return functional.avg_pool2d(inside, seam, 1, seam // 2, count_include_pad=False)


def _widened(values: torch.Tensor, reach: int, axis: int) -> torch.Tensor:
    """The largest of each value (B, H, W) and of those up to `reach` away, none of them negative.

    As a maximum over a window, in as many steps as the window has bits: each joins two windows of half the width.
    """
    window, width = 2 * reach + 1, 1
    padding = (reach, reach, 0, 0) if axis == 2 else (0, 0, reach, reach)
    values = functional.pad(values, padding)
    while width < window:
        step = min(width, window - width)
        rest = values.shape[axis] - step
        values = torch.maximum(values.narrow(axis, 0, rest), values.narrow(axis, step, rest))
        width += step
    return values


def _from_field(image: torch.Tensor) -> torch.Tensor:
    """How far each pixel's colour is from that of the empty field, where green is strongest: (B, 1, H, W)."""
    green = image[:, 1].flatten(1)
    empty = (green >= green.quantile(_EMPTY, dim=1, keepdim=True)).float()  # (B, H W)
    field = (image.flatten(2) * empty[:, None]).sum(dim=2) / empty.sum(dim=1, keepdim=True)  # (B, 3)
    return (image - field[..., None, None]).abs().amax(dim=1, keepdim=True)


def _near_middle(side: int, device: torch.device) -> torch.Tensor:
    """A weight of 1 in the middle that falls towards the corners, (side, side)."""
    offset = (torch.arange(side, device=device) - (side - 1) / 2) / (_REACH * side)
    return torch.exp(-0.5 * (offset[:, None] ** 2 + offset**2))
