"""How much of the class stands around the cell, and how much of that a trained model takes.

What a forest tells from the surroundings alone is a property of the data (`dataset.shortcuts`), and of what a training
shows of it: with repainted surroundings little is left. What a model takes is seen in three ways. Where the cell is
covered by a disc of the mean colour of the data, a model that looks at the cell alone falls to chance. Where the
surroundings are repainted at random and the cell stays, it says what it said. And from what its classifier reads, the
source or acquisition of a cell can be told only as far as the model has kept it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional

from .. import taxonomy
from ..curation.splits import SPLITS
from ..curation.squares import content_box
from ..dataset import shortcuts
from ..dataset.inspection import FileTask, inspect
from ..dataset.reading import CellDataset
from ..dataset.statistics import seen_of
from ..dataset.workers import Workers, progress
from ..errors import CelluScanError
from ..evaluation import plots
from ..evaluation.cells import cells_of_split
from ..evaluation.predictions import columns_of
from ..inference.loading import load_classifier
from ..inference.prediction import ReadImage, probabilities
from ..reliability.examine import looked_at
from ..training import surroundings
from ..training.augmentation import uniform
from . import derived

ORIGINS = ("source", "acquisition")
_LEAST = 10  # train cells that a source or acquisition needs to be told
_BATCH = 64  # pictures that are repainted at a time
COVERED = 0.72  # diameter of the disc as a share of the picture's side


def audit(data: CellDataset, model: str | None, seed: int, num_proc: int) -> dict[str, Any]:
    """What tells the class of a test cell without the cell.

    Returns:
        `surroundings`: as `dataset.shortcuts.audit`; `surroundings_repainted`: the same of ring and background where
        every stored picture is repainted, by what `scripts/train.py --surroundings 1` does. Of a model `untouched`,
        `covered` and `repainted`: its balanced accuracy on such test pictures, that of chance, and the recall of each
        class; and `told_from_features`, which see.
    """
    for split in (SPLITS[0], SPLITS[2]):
        if len(set(data.split(derived.CONFIG, split)["label"])) < 2:
            raise CelluScanError(f"{split} of {data.name} has fewer than two classes: nothing to tell apart")
    figures = {
        "surroundings": _surroundings(data, seed, num_proc),
        "surroundings_repainted": _surroundings_repainted(data, seed, num_proc),
    }
    if not model:
        return figures
    return figures | _of_model(data, model, seed) | {"told_from_features": _told_from_features(data, model, seed)}


def _surroundings(data: CellDataset, seed: int, num_proc: int) -> dict[str, Any]:
    files = [file for split in (SPLITS[0], SPLITS[2]) for file in data.files(derived.CONFIG, split)]
    with Workers(num_proc) as workers, progress("looking", len(files), "file") as advance:
        reports = []
        for report in workers.run(inspect, (FileTask(file, data.image_size) for file in files)):
            reports.append(report)
            advance(1)
    reports.sort(key=lambda report: report.path)
    return shortcuts.audit(seen_of(reports, SPLITS[0]), seen_of(reports, SPLITS[2]), seed, num_proc)


def _surroundings_repainted(data: CellDataset, seed: int, num_proc: int) -> dict[str, Any]:
    learned, judged = (
        _seen_repainted(data, split, number, seed) for number, split in enumerate((SPLITS[0], SPLITS[2]))
    )
    found = shortcuts.audit(learned, judged, seed, num_proc)
    return {name: found[name] for name in ("ring", "background") if name in found}


def _seen_repainted(data: CellDataset, split: str, number: int, seed: int) -> shortcuts.Seen:
    rows = derived.originals(data, split)
    chance = uniform(torch.arange(rows.num_rows), surroundings.DRAWS, seed + number)  # not the same draws in test
    rings: list[shortcuts.Features] = []
    with progress(f"repainting {split}", rows.num_rows, "image") as advance:
        for start in range(0, rows.num_rows, _BATCH):
            images = [derived.decoded(row) for row in rows.slice(start, _BATCH).to_pylist()]
            pixels = torch.stack([functional.pil_to_tensor(image) for image in images])
            painted = surroundings.repainted(pixels, chance[start : start + _BATCH], share=1.0).round().to(torch.uint8)
            for one, width, height in zip(painted, *_sizes(rows.slice(start, _BATCH)), strict=True):
                square: Image.Image = functional.to_pil_image(one)
                rings.append(shortcuts.ring(square.crop(content_box(width, height, data.image_size))))
            advance(len(images))
    return shortcuts.Seen(rows.drop_columns(["image"]), np.stack(rings))


def _sizes(rows: pa.Table) -> tuple[list[int], list[int]]:
    return rows["width"].to_pylist(), rows["height"].to_pylist()


def _told_from_features(data: CellDataset, name: str, seed: int) -> dict[str, Any]:
    model, processor = load_classifier(name)
    seen = []
    for split in (SPLITS[0], SPLITS[2]):
        cells = cells_of_split(str(data.folder), split).kept
        with progress(f"features of {split}", len(cells), "cell") as advance:
            found = looked_at((_counted(cell.read, advance) for cell in cells), model, processor)
        seen.append((np.stack([one.features for one in found if one.features is not None]), _rows(data, split)))
    return told_from_features(*seen[0], *seen[1], seed)


def _counted(read: ReadImage, advance: Callable[[int], object]) -> ReadImage:
    advance(1)
    return read


def _rows(data: CellDataset, split: str) -> dict[str, NDArray[Any]]:
    rows = data.split(derived.CONFIG, split)
    return {name: np.array(rows[name], object) for name in ("label", *ORIGINS)}


def told_from_features(
    train: NDArray[np.float32],
    train_rows: Mapping[str, NDArray[Any]],
    test: NDArray[np.float32],
    test_rows: Mapping[str, NDArray[Any]],
    seed: int,
) -> dict[str, Any]:
    """How well a linear probe tells the source and the acquisition of a test cell from features (n, D) of a model.

    Only classes that come from each of the values that are told apart are asked for, and every pair of class and value
    weighs alike, in fitting and in judging: else the class alone would give a part of the answer.

    Returns:
        For each of `ORIGINS` with two values or more that have cells enough: `balanced_accuracy`, `chance`, `recall`
        of each value (mean over classes), `classes`, `n` test cells of each value.
    """
    found = {}
    for origin in ORIGINS:
        values = [value for value, count in Counter(train_rows[origin]).items() if count >= _LEAST]
        there = [set(rows["label"][rows[origin] == value]) for rows in (train_rows, test_rows) for value in values]
        shared = set.intersection(*there) if len(values) > 1 else set()
        if not shared:
            continue
        learned, judged = (
            np.isin(rows["label"], list(shared)) & np.isin(rows[origin], values) for rows in (train_rows, test_rows)
        )
        told = _probe(train[learned], train_rows["label"][learned], train_rows[origin][learned], test[judged], seed)
        recall = _recall(test_rows["label"][judged], test_rows[origin][judged], told)
        found[origin] = {
            "balanced_accuracy": round(float(np.mean(list(recall.values()))), 4),
            "chance": round(1 / len(recall), 4),
            "recall": recall,
            "classes": sorted(taxonomy.NAMES[label] for label in shared),
            "n": dict(Counter(test_rows[origin][judged])),
        }
    return found


def _recall(labels: NDArray[Any], origins: NDArray[Any], told: NDArray[Any]) -> dict[str, float]:
    """Of each origin the mean over classes of the share that was told right."""
    return {
        value: round(
            float(np.mean([(told == value)[(origins == value) & (labels == one)].mean() for one in set(labels)])), 4
        )
        for value in sorted(set(origins))
    }


def _probe(
    train: NDArray[np.float32], labels: NDArray[Any], origins: NDArray[Any], test: NDArray[np.float32], seed: int
) -> NDArray[Any]:
    from sklearn.linear_model import LogisticRegression  # takes a second
    from sklearn.preprocessing import StandardScaler

    pairs = list(zip(labels, origins, strict=True))
    counts = Counter(pairs)
    weights = np.array([len(pairs) / len(counts) / counts[pair] for pair in pairs])
    scaler = StandardScaler().fit(train)
    linear = LogisticRegression(C=0.1, max_iter=1000, random_state=seed)
    linear.fit(scaler.transform(train), origins.astype(str), sample_weight=weights)
    told: NDArray[Any] = linear.predict(scaler.transform(test))
    return told


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


def told_without_the_cell(figures: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What was seen beside the cell, its balanced accuracy and that of chance."""
    repainted = shortcuts.table_rows(figures["surroundings_repainted"])
    return shortcuts.table_rows(figures["surroundings"]) + [
        (f"{name}, repainted", told, chance) for name, told, chance in repainted
    ]


def draw(figures: dict[str, Any], path: Path) -> None:
    """Balanced accuracy from each part of the surroundings beside chance."""
    rows = told_without_the_cell(figures)
    figure = Figure(figsize=(7.6, 4.0), dpi=plots.RESOLUTION, layout="constrained")
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
