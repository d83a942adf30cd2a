"""Draw the image of celluscan_hf/training/README.md: one synthetic cell under sixteen draws of each augmentation.

`python scripts/augmentations.py` writes `results/augmentations.jpg`, with the ranges of the recipe `cpu-robust`.
`python scripts/augmentations.py CELL.jpg OUTPUT.jpg` does so for an image of your own.
"""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms.v2 import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # scripts/ holds an evaluate.py, which would hide the library

from celluscan_hf.augmentation.batches import RANGES, Augmentation  # noqa: E402
from celluscan_hf.augmentation.view import View  # noqa: E402
from celluscan_hf.evaluation.plots import RESOLUTION  # noqa: E402
from celluscan_hf.modeling.decoding_celluscan import decode  # noqa: E402
from celluscan_hf.sources.drawing import draw_cell  # noqa: E402
from celluscan_hf.training import recipes  # noqa: E402

RECIPE, SIDE, DRAWS = "cpu-robust", 96, 16
ALWAYS = ("rotate", "shift", "color_jitter", "background_randomization")
SHARES = ("background_randomization", "grayscale", "blur")  # drawn for every image here
NONE = View(SIDE, 1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def settings_of_one(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the setting of one augmentation, for every image."""
    return {name: 1.0 if name in SHARES else settings[name]}


def draws(cell: Image.Image) -> Figure:
    """Draw a row for each augmentation of the recipe by itself, and one for all together."""
    recipe = recipes.load(RECIPE)[-1]
    settings: dict[str, Any] = {item.name: recipe[item.name] for item in fields(Augmentation) if item.name in recipe}
    view = replace(NONE, crop_pct=recipe["crop_pct"])
    pixels = functional.pil_to_tensor(cell.convert("RGB").resize((view.resized, view.resized)))
    rows = {
        name.replace("_", " "): Augmentation(**settings_of_one(name, settings))
        for name in (*ALWAYS, *RANGES, "grayscale", "blur")
        if settings.get(name)
    }
    rows["all together"] = Augmentation(**settings | {"augmented_share": 1.0})
    figure = Figure(figsize=(DRAWS * 0.7, len(rows) * 0.72), layout="constrained")
    axes: Any = figure.subplots(len(rows), 1)
    for axis, (name, augmentation) in zip(axes, rows.items(), strict=True):
        images = augmentation(pixels.expand(DRAWS, -1, -1, -1), range(DRAWS), view).clamp(0, 1)
        axis.imshow(torch.cat(list(images), dim=2).permute(1, 2, 0).numpy())
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    return figure


if __name__ == "__main__":
    image, output = (*map(Path, sys.argv[1:]), None, None)[:2]
    cell = decode(image.read_bytes()).image if image else draw_cell("Eosinophil", np.random.default_rng(3), 256)
    path = output or ROOT / "results" / "augmentations.jpg"
    draws(cell).savefig(path, dpi=RESOLUTION, pil_kwargs={"quality": 80})
