"""Leave one source or acquisition out of training, and evaluate on it.

No cell of a left-out group is used in training. The same model is evaluated on the test cells of what it did learn
from: on all of them, and on those of the left-out classes, so that the comparison is over the same classes.
Classes that only the left-out part has cannot be predicted; they are counted, not evaluated.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from .. import taxonomy
from ..curation.splits import SPLITS
from ..dataset.reading import CellDataset
from ..errors import CelluScanError
from ..evaluation import plots
from ..evaluation.folder import PREDICTIONS
from ..evaluation.measure import measure
from ..evaluation.predictions import Predictions
from ..evaluation.wbc_metrics.wbc_metrics import RESAMPLES, TINY
from ..reliability.calibrate import ModelOutputs
from ..reliability.examine import recalibration_gain
from . import derived
from .experiment import evaluate_on, summary, train_as_recipe, train_recipe, training_seconds

MIN_CELLS = 10  # a value with fewer is not left out by default
SIZES, DRAWS = (16, 32, 64), 20  # of recalibration: numbers of labelled cells, and draws of each
TRAININGS = ("plain", "background_randomization", "recipe")
PARTS = {
    "learned": "trained on, all classes",
    "same_classes": "trained on, the left-out classes",
    "left_out": "left out",
}


@dataclass(frozen=True)
class LeftOutSettings:
    """Settings of the audit.

    - `by`: the column whose values are left out one after another, `source` or `acquisition`.
    - `only`: the values to leave out; by default all that have `MIN_CELLS` cells and leave as many to train on.
    - `background_randomization`: share of a second training with `--background_randomization`; 0 for none.
    - `as_recipe`: train exactly as the recipe says instead, for its own number of epochs.
    """

    output: Path
    recipe: str
    by: str
    only: tuple[str, ...]
    steps: int
    background_randomization: float
    seed: int
    as_recipe: bool = False

    @property
    def trainings(self) -> dict[str, tuple[str, ...]]:
        """Each training and its options of `celluscan train`."""
        plain, randomized, recipe = TRAININGS
        if self.as_recipe:
            return {recipe: ()}
        options: dict[str, tuple[str, ...]] = {
            plain: (),
            randomized: ("--background_randomization", str(self.background_randomization)),
        }
        return options if self.background_randomization else {plain: ()}


def audit(data: CellDataset, settings: LeftOutSettings) -> dict[str, Any]:
    """Leave each value out.

    Returns:
        {value: {"train_images", "unseen" {class: cells that were not evaluated, since train has none}, and for each
        training the metrics of `PARTS`, "recalibrated" (`examine.recalibration_gain` on the left-out cells), and
        "training_seconds"}}.
    """
    rows = pa.concat_tables([derived.originals(data, split) for split in SPLITS])
    return {value: _run(value, data, settings) for value in values(rows, settings)}


def values(rows: pa.Table, settings: LeftOutSettings) -> list[str]:
    """Values to leave out, from the rows of all splits.

    Raises:
        CelluScanError: A requested value has too few cells of classes that others have, or leaves too few.
    """
    column, labels = np.array(rows[settings.by].to_pylist(), object), rows["label"].to_numpy()
    counts = {
        value: int(np.isin(labels[column == value], labels[column != value]).sum()) for value in sorted(set(column))
    }
    fit = [value for value, count in counts.items() if min(count, int((column != value).sum())) >= MIN_CELLS]
    chosen = list(settings.only) or fit
    if unfit := [value for value in chosen if value not in fit]:
        listed = ", ".join(f"{value} ({count})" for value, count in counts.items())
        raise CelluScanError(
            f"{settings.by} {unfit[0]!r} cannot be left out: expected one with {MIN_CELLS} cells or more of classes "
            f"that the others have, of {listed}"
        )
    if not chosen:
        raise CelluScanError(
            f"nothing can be left out: expected two values of {settings.by} that share classes, with {MIN_CELLS} cells "
            f"or more of these, got {', '.join(counts)}"
        )
    return chosen


def _run(value: str, data: CellDataset, settings: LeftOutSettings) -> dict[str, Any]:
    folder = settings.output / "".join(letter if letter.isalnum() else "-" for letter in value)
    kept, held = without(data, settings.by, value)
    learned = set(kept[SPLITS[0]]["label"].to_pylist())
    evaluated = held.filter(pa.array([label in learned for label in held["label"].to_pylist()]))
    unseen = Counter(taxonomy.NAMES[label] for label in held["label"].to_pylist() if label not in learned)
    parts = kept | {SPLITS[2]: pa.concat_tables([kept[SPLITS[2]], evaluated])}
    facts = {"by": settings.by, "left_out": value}
    derived_data = derived.derive(folder / "data", data, facts, settings.seed, lambda: parts)
    left_out_ids = set(evaluated["image_id"].to_pylist())
    metrics: dict[str, Any] = {"train_images": kept[SPLITS[0]].num_rows, "unseen": dict(unseen)}
    for name, options in settings.trainings.items():
        run = folder / name / "run"
        if settings.as_recipe:
            model = train_as_recipe(settings.recipe, derived_data, run, settings.seed)
        else:
            model = train_recipe(
                settings.recipe, derived_data, run, settings.steps, settings.seed, *options, calibrate=True
            )
        evaluate_on(model, {"test": derived_data}, folder / name)
        predictions = Predictions.read(folder / name / "test" / PREDICTIONS)
        is_left_out = [image_id in left_out_ids for image_id in predictions.image_ids]
        metrics[name] = _metrics(predictions, is_left_out) | {"training_seconds": training_seconds(model)}
    return metrics


def _metrics(predictions: Predictions, is_left_out: Sequence[bool]) -> dict[str, Any]:
    learned, left_out = predictions.where([not flag for flag in is_left_out]), predictions.where(is_left_out)
    same_classes = learned.where(np.isin(learned.labels, left_out.labels).tolist())
    tests = dict(zip(PARTS, (learned, same_classes, left_out), strict=True))
    metrics: dict[str, Any] = {name: _summary(cells) for name, cells in tests.items()}
    logits = np.log(left_out.probabilities.clip(TINY))
    outputs = ModelOutputs(logits, np.empty((len(left_out), 0), np.float32), left_out.labels)
    return metrics | {"recalibrated": recalibration_gain(outputs, left_out.groups, SIZES, DRAWS)}


def _summary(cells: Predictions) -> dict[str, Any]:
    metrics = measure(cells, RESAMPLES)
    return summary(metrics) | {name: metrics[name] for name in ("groups", "related", "five_classes")}


def without(data: CellDataset, by: str, value: str) -> tuple[dict[str, pa.Table], pa.Table]:
    """Split the originals: those without a value and its groups, by split; and those with the value, of all splits."""
    rows = {split: derived.originals(data, split) for split in SPLITS}
    everything = pa.concat_tables(list(rows.values()))
    held = everything.filter(pa.array([other == value for other in everything[by].to_pylist()]))
    held_groups = set(held["group_id"].to_pylist())
    kept = {
        split: table.filter(pa.array([group not in held_groups for group in table["group_id"].to_pylist()]))
        for split, table in rows.items()
    }
    return kept, held


def draw(metrics: dict[str, Any], path: Path) -> None:
    """Draw balanced accuracy over the same classes on learned and left-out parts, with intervals."""
    runs = [(value, name) for value, trainings in metrics.items() for name in TRAININGS if name in trainings]
    figure = Figure(figsize=(8.0, 1.6 + 0.6 * len(runs)), dpi=plots.RESOLUTION, layout="constrained")
    axes = figure.subplots()
    for offset, (part, colour) in enumerate(zip(list(PARTS)[1:], (plots.BLUE, plots.VERMILION), strict=True)):
        for place, (value, name) in enumerate(runs):
            scores: Mapping[str, Any] = metrics[value][name][part]
            low, high = scores["ci95"]["balanced_accuracy"]
            at = place + 0.16 * (2 * offset - 1)
            axes.plot([low, high], [at, at], color=colour, linewidth=2)
            axes.plot(scores["balanced_accuracy"], at, "o", color=colour, label=PARTS[part] if not place else None)
    axes.set_yticks(range(len(runs)), [f"without {value},\n{name}" for value, name in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("balanced accuracy, with 95 % interval")
    axes.grid(axis="x", color="#E0E0E0")
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    plots.save(figure, path)
