"""Out-of-distribution images, to measure how many of them a model detects.

Synthetic cells; red cells cut from smear fields of BCCD; cells in other stains (hue turned, grey, inverted); noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from celluscan_hf import taxonomy

from ..curation.decoding import crop, decode
from ..sources.bccd import red_cells
from ..sources.drawing import draw_cell
from ..sources.tree import FolderTree

_HUES = 256  # values of a full turn in Pillow's HSV


def turn_hue(cell: Image.Image, degrees: float) -> Image.Image:
    """Turn the hue of a cell, as another stain would."""
    hue, saturation, value = cell.convert("HSV").split()
    shift = round(degrees / 360 * _HUES)
    return Image.merge("HSV", (hue.point(lambda old: (old + shift) % _HUES), saturation, value)).convert("RGB")


STAINS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "hue turned by 30 degrees": lambda cell: turn_hue(cell, 30),
    "hue turned by 120 degrees": lambda cell: turn_hue(cell, 120),
    "hue turned by 240 degrees": lambda cell: turn_hue(cell, 240),
    "grey": lambda cell: cell.convert("L").convert("RGB"),
    "inverted": lambda cell: ImageOps.invert(cell.convert("RGB")),
}


def synthetic_cells(per_class: int, seed: int = 0) -> Iterator[Image.Image]:
    """Draw `per_class` synthetic cells of every class."""
    for label, name in enumerate(taxonomy.NAMES):
        for number in range(per_class):
            yield draw_cell(name, np.random.default_rng([seed, label, number]))


def noise(count: int, side: int = 128, seed: int = 0) -> Iterator[Image.Image]:
    """Draw noise images, half of them uniform, half around a colour."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        if number % 2:
            pixels = rng.normal(rng.uniform(40, 220, 3), rng.uniform(5, 60), (side, side, 3)).clip(0, 255)
        else:
            pixels = rng.integers(0, 256, (side, side, 3))
        yield Image.fromarray(pixels.astype(np.uint8))


def random_crops(photographs: Sequence[Image.Image], per_image: int, seed: int = 0) -> Iterator[Image.Image]:
    """Cut `per_image` random squares out of every photograph, a quarter to all of its shorter side."""
    rng = np.random.default_rng(seed)
    for photograph in photographs:
        for _ in range(per_image):
            side = int(rng.integers(min(photograph.size) // 4, min(photograph.size) + 1))
            x, y = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
            yield photograph.crop((x, y, x + side, y + side))


def bccd_red_cells(fields: Path, per_field: int = 4) -> Iterator[Image.Image]:
    """Cut at most `per_field` red cells out of every field of BCCD, from windows that hold no other kind of cell."""
    tree = FolderTree(fields)
    for member, windows in red_cells(tree):
        image = decode(tree.read(member)).image
        for window in windows[:per_field]:
            yield crop(image, window)
