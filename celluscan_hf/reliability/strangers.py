"""Pictures that are no cell a model can know, made from what is at hand: to see how many of them it notices.

Drawn cells; red cells cut from smear fields of BCCD; cells in other stains (hue turned, grey, inverted); noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .. import taxonomy
from ..curation.decoding import crop, decode
from ..sources.bccd import red_cells
from ..sources.drawing import draw_cell
from ..sources.tree import FolderTree

Picture = Image.Image
_HUES = 256  # of Pillow's HSV, for a full turn


def turned(cell: Picture, degrees: float) -> Picture:
    """A cell with its hue turned, as another stain would have it."""
    hue, saturation, value = cell.convert("HSV").split()
    shift = round(degrees / 360 * _HUES)
    return Image.merge("HSV", (hue.point(lambda old: (old + shift) % _HUES), saturation, value)).convert("RGB")


STAINS: Mapping[str, Callable[[Picture], Picture]] = {
    "hue turned by 30 degrees": lambda cell: turned(cell, 30),
    "hue turned by 120 degrees": lambda cell: turned(cell, 120),
    "hue turned by 240 degrees": lambda cell: turned(cell, 240),
    "grey": lambda cell: cell.convert("L").convert("RGB"),
    "inverted": lambda cell: ImageOps.invert(cell.convert("RGB")),
}


def drawn_cells(each: int, seed: int = 0) -> Iterator[Picture]:
    """`each` drawn cells of every class."""
    for label, name in enumerate(taxonomy.NAMES):
        for number in range(each):
            yield draw_cell(name, np.random.default_rng([seed, label, number]))


def noise(count: int, side: int = 128, seed: int = 0) -> Iterator[Picture]:
    """Half of even noise, half of noise about a colour."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        if number % 2:
            pixels = rng.normal(rng.uniform(40, 220, 3), rng.uniform(5, 60), (side, side, 3)).clip(0, 255)
        else:
            pixels = rng.integers(0, 256, (side, side, 3))
        yield Image.fromarray(pixels.astype(np.uint8))


def pieces(photographs: Sequence[Picture], each: int, seed: int = 0) -> Iterator[Picture]:
    """`each` random squares of every photograph, a quarter to all of its shorter side."""
    rng = np.random.default_rng(seed)
    for photograph in photographs:
        for _ in range(each):
            side = int(rng.integers(min(photograph.size) // 4, min(photograph.size) + 1))
            x, y = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
            yield photograph.crop((x, y, x + side, y + side))


def red_cells_of(fields: Path, each: int = 4) -> Iterator[Picture]:
    """At most `each` red cells of every field of BCCD, windows without any other cell than red ones."""
    tree = FolderTree(fields)
    for member, windows in red_cells(tree):
        image = decode(tree.read(member)).image
        for window in windows[:each]:
            yield crop(image, window)
