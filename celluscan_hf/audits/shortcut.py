"""How much of the class stands around the cell, and how much of that a trained model takes.

What a forest tells from the surroundings alone is a property of the data (`dataset.shortcuts`), and of what a training
shows of it: the more pictures are repainted, the less is left. Models may see the middle of a picture only, so for each
the same is asked of the border of what it sees. What a model takes is seen in three ways. Where the cell is covered by
a disc of the mean colour of the data, a model that looks at the cell alone falls to chance. Where the surroundings are
repainted at random and the cell stays, it says what it said. And from what its classifier reads, the source or
acquisition of a cell can be told only as far as the model has kept it.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor, PreTrainedModel

from .. import taxonomy
from ..curation.splits import SPLITS
from ..curation.squares import content_box
from ..dataset import shortcuts
from ..dataset.inspection import FileTask, inspect
from ..dataset.reading import CellDataset
from ..dataset.statistics import load_context
from ..dataset.workers import Workers, progress
from ..errors import CelluScanError
from ..evaluation import plots
from ..evaluation.cells import Cell, load_cells_of_split
from ..evaluation.job import described_model
from ..evaluation.predictions import columns_of
from ..evaluation.wbc_metrics.wbc_metrics import Outcomes
from ..inference.loading import load_classifier
from ..inference.prediction import ReadImage, probabilities
from ..modeling.reliability_celluscan import head_of
from ..reliability.examine import outputs_of
from ..training import background
from ..training.augmentation import uniform
from . import derived

ORIGINS = ("source", "acquisition")
Change = Callable[[Image.Image, int], Image.Image]  # of a picture, with its number
_LEAST = 10  # train cells that a source or acquisition needs to be told
_BATCH = 64  # pictures that are repainted at a time
COVERED = 0.56  # diameter of the disc as a share of the picture's side; a cell takes up a third to a half
PICTURES = ("untouched", "covered", "repainted")  # what a model is shown
HEADS = (
    *("border of what it sees, told by a forest", "the same, repainted", "untouched", "cell covered", "repainted"),
    *(f"{origin}, from its features" for origin in ORIGINS),
)
REPAINTED = {"surroundings_half_repainted": 0.5, "surroundings_repainted": 1.0}  # share of train and test pictures


def audit(data: CellDataset, models: Sequence[str], seed: int, num_proc: int) -> dict[str, Any]:
    """What tells the class of a test cell without the cell.

    Returns:
        `background_randomization`: as `dataset.shortcuts.audit`; those of `REPAINTED`: the same of ring and background
        where the background of a share of the stored images is randomized as in training. `models`, by name:
        `weights`, their SHA-256; `view`, the share of a picture's side that it sees; `border`, as is and repainted, as
        the ring, but of that part; `untouched`, `covered` and `repainted`: its balanced accuracy on such test pictures,
        that of chance, the recall of each class, and macro-F1; `validation`, the same of validation pictures,
        untouched; and `acquisition_probe_accuracy`, which see.
    """
    for split in (SPLITS[0], SPLITS[2]):
        if len(set(data.split(derived.CONFIG, split)["label"])) < 2:
            raise CelluScanError(f"{split} of {data.name} has fewer than two classes: nothing to tell apart")
    loaded = {name: load_classifier(name) for name in models}  # that one is not there is said before the work
    figures: dict[str, Any] = {"background_randomization": _surroundings(data, seed, num_proc)}
    for name, share in REPAINTED.items():
        figures[name] = _background_accuracy(data, share, 1.0, seed, num_proc)
    if loaded:
        figures["models"] = {name: _of_model(data, *one, seed, num_proc) for name, one in loaded.items()}
    return figures


def _of_model(
    data: CellDataset, model: PreTrainedModel, processor: BaseImageProcessor, seed: int, num_proc: int
) -> dict[str, Any]:
    view = _view(processor)
    border = {
        kind: _background_accuracy(data, share, view, seed, num_proc, ("ring",))["ring"]
        for kind, share in {"as_is": 0.0, "repainted": 1.0}.items()
    }
    said = _said(data, model, processor, seed)
    features = _features_tell(data, model, processor, seed)
    weights = described_model(model.name_or_path, model, processor)["sha256"]
    return {"weights": weights, "view": view, "border": border, **said, "acquisition_probe_accuracy": features}


def _view(processor: BaseImageProcessor) -> float:
    """The share of a picture's side that a model sees, of its middle."""
    if not getattr(processor, "do_center_crop", False):
        return 1.0
    whole = processor.size.get("height") or processor.size.get("shortest_edge")
    share: float = round(processor.crop_size["height"] / whole, 4)
    return share


def _surroundings(data: CellDataset, seed: int, num_proc: int) -> dict[str, Any]:
    files = [file for split in (SPLITS[0], SPLITS[2]) for file in data.files(derived.CONFIG, split)]
    with Workers(num_proc) as workers, progress("looking", len(files), "file") as advance:
        reports = []
        for report in workers.run(inspect, (FileTask(file, data.image_size) for file in files)):
            reports.append(report)
            advance(1)
    reports.sort(key=lambda report: report.path)
    return shortcuts.audit(load_context(reports, SPLITS[0]), load_context(reports, SPLITS[2]), seed, num_proc)


def _background_accuracy(
    data: CellDataset,
    share: float,
    view: float,
    seed: int,
    num_proc: int,
    asked: Sequence[str] = ("ring", "background"),
) -> dict[str, Any]:
    """As `dataset.shortcuts.audit`, of the middle `view` of the pictures, of which a share is repainted."""
    learned, judged = (
        _seen(data, split, number, share, view, seed) for number, split in enumerate((SPLITS[0], SPLITS[2]))
    )
    return shortcuts.audit(learned, judged, seed, num_proc, asked)


def _seen(data: CellDataset, split: str, number: int, share: float, view: float, seed: int) -> shortcuts.CellContext:
    rows = derived.originals(data, split)
    side = round(view * data.image_size)
    chance = uniform(torch.arange(rows.num_rows), background.DRAWS, seed + number)  # not the same draws in test
    rings: list[shortcuts.Features] = []
    with progress(f"around cells of {split}", rows.num_rows, "image") as advance:
        for start in range(0, rows.num_rows, _BATCH):
            images = [derived.decoded(row) for row in rows.slice(start, _BATCH).to_pylist()]
            pixels = functional.center_crop(torch.stack([functional.pil_to_tensor(image) for image in images]), [side])
            painted = (
                background.randomize_background(pixels, chance[start : start + _BATCH], share).round().to(torch.uint8)
            )
            for one, width, height in zip(painted, *_sizes(rows.slice(start, _BATCH)), strict=True):
                square: Image.Image = functional.to_pil_image(one)
                content = content_box(width, height, side) if view == 1 else (0, 0, side, side)
                rings.append(shortcuts.ring(square.crop(content)))
            advance(len(images))
    return shortcuts.CellContext(rows.drop_columns(["image"]), np.stack(rings))


def _sizes(rows: pa.Table) -> tuple[list[int], list[int]]:
    return rows["width"].to_pylist(), rows["height"].to_pylist()


def _features_tell(
    data: CellDataset, model: PreTrainedModel, processor: BaseImageProcessor, seed: int
) -> dict[str, Any]:
    seen, width = [], head_of(model).in_features
    for split in (SPLITS[0], SPLITS[2]):
        cells = load_cells_of_split(str(data.folder), split).kept
        with progress(f"features of {split}", len(cells), "cell") as advance:
            found = outputs_of((_counted(cell.read, advance) for cell in cells), model, processor)
        seen.append((np.stack([one.features[:width] for one in found if one.features is not None]), _rows(data, split)))
    return acquisition_probe_accuracy(*seen[0], *seen[1], seed)


def _counted(read: ReadImage, advance: Callable[[int], object]) -> ReadImage:
    advance(1)
    return read


def _rows(data: CellDataset, split: str) -> dict[str, NDArray[Any]]:
    rows = data.split(derived.CONFIG, split)
    return {name: np.array(rows[name], object) for name in ("label", *ORIGINS)}


def acquisition_probe_accuracy(
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


def _said(data: CellDataset, model: PreTrainedModel, processor: BaseImageProcessor, seed: int) -> dict[str, Any]:
    mean, _ = data.channel_statistics
    red, green, blue = (round(255 * level) for level in mean)
    changes: dict[str, Change] = {
        "untouched": lambda image, number: image,
        "covered": lambda image, number: cover(image, (red, green, blue)),
        "repainted": lambda image, number: repaint(image, number, seed),
    }
    test, validation = (load_cells_of_split(str(data.folder), split).kept for split in (SPLITS[2], SPLITS[1]))
    found = {kind: _recalled(test, kind, change, model, processor) for kind, change in changes.items()}
    return found | {"validation": _recalled(validation, "validation", changes["untouched"], model, processor)}


def _recalled(
    cells: Sequence[Cell], kind: str, change: Change, model: PreTrainedModel, processor: BaseImageProcessor
) -> dict[str, Any]:
    columns, labels = columns_of(model), np.array([cell.label for cell in cells])
    images = (partial(_changed, change, cell.read, number) for number, cell in enumerate(cells))
    answers = []
    with progress(kind, len(cells), "cell") as advance:
        for answer in probabilities(images, model, processor):
            answers.append(np.asarray(answer)[columns].argmax())
            advance(1)
    told = np.array(answers)
    scalars = Outcomes(told, labels, len(taxonomy.NAMES)).scalars(np.ones((1, len(labels))))
    return shortcuts.recall_metrics(labels, told) | {"macro_f1": round(float(scalars["macro_f1"][0]), 4)}


def _changed(change: Change, read: ReadImage, number: int) -> Image.Image:
    return change(read(), number)


def repaint(image: Image.Image, number: int, seed: int) -> Image.Image:
    """A picture whose surroundings have another colour and contrast, drawn from the seed and the picture's number."""
    chance = uniform(torch.tensor([number]), background.DRAWS, seed)
    painted = background.randomize_background(functional.pil_to_tensor(image)[None], chance, share=1.0)[0]
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
    told = shortcuts.table_rows(figures["background_randomization"])
    for name, share in REPAINTED.items():
        found = shortcuts.table_rows(figures[name])
        told += [(f"{what}, {share:.0%} repainted", value, chance) for what, value, chance in found]
    return told


def told_by_models(figures: Mapping[str, Any]) -> list[list[str]]:
    """For each model: its name, and balanced accuracies by `HEADS`; "–" for what could not be asked."""
    rows = []
    for name, found in figures.get("models", {}).items():
        asked = [found["border"]["as_is"], found["border"]["repainted"], *(found[kind] for kind in PICTURES)]
        asked += [found["acquisition_probe_accuracy"].get(origin) for origin in ORIGINS]
        rows.append([name, *("–" if one is None else f"{one['balanced_accuracy']:.2f}" for one in asked)])
    return rows


def draw(figures: dict[str, Any], path: Path) -> None:
    """Balanced accuracy from each part of the surroundings beside chance, and of each model on changed pictures."""
    rows, models = told_without_the_cell(figures), figures.get("models", {})
    figure = Figure(
        figsize=(7.6, 4.0 + (1.2 + 0.75 * len(models) if models else 0)), dpi=plots.RESOLUTION, layout="constrained"
    )
    ratios = [len(rows), 2.4 * len(models)] if models else [1]
    beside, *by_models = figure.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
    names, values, chances = zip(*rows[::-1], strict=True)
    beside.barh(names, [float(value) for value in values], color=plots.BLUE, height=0.6)
    for position, value in enumerate(values):
        beside.text(float(value) + 0.005, position, value, va="center")
    beside.set_xlabel("balanced accuracy on test, told by a forest without the cell")
    beside.set_xlim(0, 1.15 * max(map(float, values)))
    for axes in by_models:
        _draw_models(axes, models)
    for axes in (beside, *by_models):
        axes.axvline(float(chances[0]), color=plots.VERMILION, linestyle="--", label="chance")
    beside.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    plots.save(figure, path)


def _draw_models(axes: Axes, models: Mapping[str, Any]) -> None:
    for offset, (kind, colour) in enumerate(zip(PICTURES, (plots.BLUE, plots.GREY, plots.VERMILION), strict=True)):
        places = [place + 0.27 * (offset - 1) for place in range(len(models))]
        told = [found[kind]["balanced_accuracy"] for found in models.values()]
        axes.barh(places, told, color=colour, height=0.25, label=kind)
        for place, value in zip(places, told, strict=True):
            axes.text(value + 0.005, place, f"{value:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(models)), list(models))
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("balanced accuracy of the models on test pictures")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(PICTURES), frameon=False)
