"""How far a model is too sure on another laboratory, measured on validation cells that are made to look like from one.

A temperature fitted on validation is right for the laboratory that the model knows. On images of another microscope the
same model is right less often and as sure. Strong augmentation imitates that, and gives a second temperature, which the
answer uses for images that are out of distribution.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from ..augmentation.batches import Augmentation
from ..augmentation.view import View
from ..evaluation.cells import Cell
from ..inference.prediction import ReadImage

# Wider than any recipe trains with, as a laboratory may be. Chosen on two laboratories for models trained on PBC alone:
# see README.md of this package.
STRONG = Augmentation(
    rotate="any",
    background_randomization=1.0,
    zoom=(0.35, 2.0),
    stain=(0.4, 2.2),
    white_balance=(0.65, 1.5),
    gamma=(0.4, 2.5),
    contrast=(0.3, 2.2),
    saturation=(0.0, 2.2),
    grayscale=0.1,
    blur=0.5,
)


def as_from_elsewhere(cells: Sequence[Cell]) -> list[Cell]:
    """Return the same cells, whose images are changed as they are read; the same every time."""
    return [replace(cell, read=partial(_changed, cell.read, number)) for number, cell in enumerate(cells)]


def _changed(read: ReadImage, number: int) -> Image.Image:
    image = read().convert("RGB")
    side = min(image.size)
    view = View(side, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    pixels = functional.pil_to_tensor(functional.center_crop(image, [side, side]))
    changed = STRONG(pixels[None], [number], view)[0]
    picture: Image.Image = functional.to_pil_image((changed.clamp(0, 1) * 255).round().to(torch.uint8))
    return picture
