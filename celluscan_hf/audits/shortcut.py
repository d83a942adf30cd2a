"""How much of the class stands around the cell, and how much of that a trained model takes.

What a forest tells from the surroundings alone is a property of the data (`dataset.shortcuts`). What a model takes of
it is seen when the cell is covered: a disc of the mean colour of the data over the middle of each picture leaves
nothing of the cell, and a model that looks at the cell alone falls to chance.
"""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from .. import taxonomy
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
from ..inference.prediction import probabilities
from . import derived

COVERED = 0.72  # diameter of the disc as a share of the picture's side


def audit(data: CellDataset, model: str | None, seed: int, num_proc: int) -> dict[str, Any]:
    """What tells the class of a test cell without the cell.

    Returns:
        `surroundings`: as `dataset.shortcuts.audit`; and of a model `covered`: its balanced accuracy on test pictures
        whose cell is covered, that of chance, and the recall of each class.
    """
    figures: dict[str, Any] = {"surroundings": _surroundings(data, seed, num_proc)}
    return figures | ({"covered": _covered(data, model)} if model else {})


def _surroundings(data: CellDataset, seed: int, num_proc: int) -> dict[str, Any]:
    files = [file for split in (SPLITS[0], SPLITS[2]) for file in data.files(derived.CONFIG, split)]
    with Workers(num_proc) as workers, progress("looking", len(files), "file") as advance:
        reports = []
        for report in workers.run(inspect, (FileTask(file, data.image_size) for file in files)):
            reports.append(report)
            advance(1)
    reports.sort(key=lambda report: report.path)
    return shortcuts.audit(seen_of(reports, SPLITS[0]), seen_of(reports, SPLITS[2]), seed, num_proc)


def _covered(data: CellDataset, name: str) -> dict[str, Any]:
    model, processor = load_classifier(name)
    columns, cells = columns_of(model), cells_of_split(str(data.folder), SPLITS[2]).kept
    mean, _ = data.channel_statistics
    red, green, blue = (round(255 * level) for level in mean)
    images = (lambda read=cell.read: cover(read(), (red, green, blue)) for cell in cells)
    told = [np.asarray(found)[columns].argmax() for found in probabilities(images, model, processor)]
    labels = np.array([cell.label for cell in cells])
    recalls = {taxonomy.NAMES[label]: float((np.array(told)[labels == label] == label).mean()) for label in set(labels)}
    return {
        "model": name,
        "balanced_accuracy": round(float(np.mean(list(recalls.values()))), 4),
        "chance": round(1 / len(recalls), 4),
        "recall": {name: round(recalls[name], 4) for name in taxonomy.NAMES if recalls.get(name)},
    }


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
    axes.legend(loc="lower right")
    plots.save(figure, path)
