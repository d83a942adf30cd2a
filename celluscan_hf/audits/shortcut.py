"""How much of the class stands around the cell, and how much of that a trained model takes.

What a forest tells from the surroundings alone is a property of the data (`dataset.shortcuts`). What a model takes of
it is seen in two ways. Where the cell is covered by a disc of the mean colour of the data, a model that looks at the
cell alone falls to chance. Where the surroundings are repainted at random and the cell stays, it says what it said.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional

from ..curation.splits import SPLITS
from ..dataset import shortcuts
from ..dataset.inspection import FileTask, inspect
from ..dataset.reading import CellDataset
from ..dataset.statistics import seen_of
from ..dataset.workers import Workers, progress
from ..evaluation import plots
from ..evaluation.cells import cells_of_split
from ..evaluation.predictions import columns_of
from ..inference.loading import load_classifier
from ..inference.prediction import ReadImage, probabilities
from ..training import surroundings
from ..training.augmentation import uniform
from . import derived

COVERED = 0.72  # diameter of the disc as a share of the picture's side


def audit(data: CellDataset, model: str | None, seed: int, num_proc: int) -> dict[str, Any]:
    """What tells the class of a test cell without the cell.

    Returns:
        `surroundings`: as `dataset.shortcuts.audit`; and of a model `untouched`, `covered` and `repainted`: its
        balanced accuracy on such test pictures, that of chance, and the recall of each class.
    """
    figures: dict[str, Any] = {"surroundings": _surroundings(data, seed, num_proc)}
    return figures | (_of_model(data, model, seed) if model else {})


def _surroundings(data: CellDataset, seed: int, num_proc: int) -> dict[str, Any]:
    files = [file for split in (SPLITS[0], SPLITS[2]) for file in data.files(derived.CONFIG, split)]
    with Workers(num_proc) as workers, progress("looking", len(files), "file") as advance:
        reports = []
        for report in workers.run(inspect, (FileTask(file, data.image_size) for file in files)):
            reports.append(report)
            advance(1)
    reports.sort(key=lambda report: report.path)
    return shortcuts.audit(seen_of(reports, SPLITS[0]), seen_of(reports, SPLITS[2]), seed, num_proc)


def _of_model(data: CellDataset, name: str, seed: int) -> dict[str, Any]:
    model, processor = load_classifier(name)
    columns, cells = columns_of(model), cells_of_split(str(data.folder), SPLITS[2]).kept
    labels = np.array([cell.label for cell in cells])
    mean, _ = data.channel_statistics
    red, green, blue = (round(255 * level) for level in mean)
    changes: dict[str, Callable[[Image.Image, int], Image.Image]] = {
        "untouched": lambda image, number: image,
        "covered": lambda image, number: cover(image, (red, green, blue)),
        "repainted": lambda image, number: repaint(image, number, seed),
    }
    found = {}
    for kind, change in changes.items():
        images = (partial(_changed, change, cell.read, number) for number, cell in enumerate(cells))
        with progress(kind, len(cells), "cell") as advance:
            told = []
            for answer in probabilities(images, model, processor):
                told.append(np.asarray(answer)[columns].argmax())
                advance(1)
        found[kind] = shortcuts.recalled(labels, np.array(told))
    return {"model": name} | found


def _changed(change: Callable[[Image.Image, int], Image.Image], read: ReadImage, number: int) -> Image.Image:
    return change(read(), number)


def repaint(image: Image.Image, number: int, seed: int) -> Image.Image:
    """A picture whose surroundings have another colour and contrast, drawn from the seed and the picture's number."""
    chance = uniform(torch.tensor([number]), surroundings.DRAWS, seed)
    painted = surroundings.repainted(functional.pil_to_tensor(image)[None], chance, share=1.0)[0]
    made: Image.Image = functional.to_pil_image(painted.round().to(torch.uint8))
    return made


def cover(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """A picture with a disc over its middle, of `COVERED` of its side."""
    covered, (width, height) = image.copy(), image.size
    radius = COVERED * min(width, height) / 2
    box = (width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius)
    ImageDraw.Draw(covered).ellipse(box, fill=colour)
    return covered


def draw(figures: dict[str, Any], path: Path) -> None:
    """Balanced accuracy from each part of the surroundings beside chance."""
    rows = shortcuts.table_rows(figures["surroundings"])
    figure = Figure(figsize=(7.2, 3.4), dpi=plots.RESOLUTION, layout="constrained")
    axes = figure.subplots()
    names, values, chances = zip(*rows[::-1], strict=True)
    axes.barh(names, [float(value) for value in values], color=plots.BLUE, height=0.6)
    axes.axvline(float(chances[0]), color=plots.VERMILION, linestyle="--", label="chance")
    for position, value in enumerate(values):
        axes.text(float(value) + 0.005, position, value, va="center")
    axes.set_xlabel("balanced accuracy on test, without the cell")
    axes.set_xlim(0, 1.15 * max(map(float, values)))
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    plots.save(figure, path)
