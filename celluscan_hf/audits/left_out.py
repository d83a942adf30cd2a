"""What a model is worth where it has never been: trained without one source, or one acquisition, and judged on it.

Nothing of what is left out is seen in training, its groups included. The same model is judged on the test cells of what
it did learn from: on all of them, and on those of the classes that were left out, since a part with easier classes
would flatter. Classes that only the left-out part has cannot be told and are not asked for; how many those are is said.
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
from .experiment import judged, summary, trained, training_seconds

LEAST = 10  # cells; what has fewer is not left out by itself
SIZES, DRAWS = (16, 32, 64), 20  # of recalibration: cells with labels, and how often they are drawn
TRAININGS = ("plain", "background_randomization")
PARTS = {
    "learned": "learned from, all classes",
    "learned_alike": "learned from, the classes of what was left out",
    "left_out": "left out",
}


@dataclass(frozen=True)
class LeftOutSettings:
    """Settings of the audit.

    - `by`: the column whose values are left out one after another, `source` or `acquisition`.
    - `only`: the values that are left out; by default all that have `LEAST` cells and leave as many to learn from.
    - `background_randomization`: beside the plain training, one with this `--background_randomization`; 0 for none.
    """

    output: Path
    recipe: str
    by: str
    only: tuple[str, ...]
    steps: int
    background_randomization: float
    seed: int

    @property
    def trainings(self) -> dict[str, tuple[str, ...]]:
        """Each training and its options of `scripts/train.py`."""
        plain, randomized = TRAININGS
        options: dict[str, tuple[str, ...]] = {
            plain: (),
            randomized: ("--background_randomization", str(self.background_randomization)),
        }
        return options if self.background_randomization else {plain: ()}


def audit(data: CellDataset, settings: LeftOutSettings) -> dict[str, Any]:
    """Leave each value out.

    Returns:
        {value: {"train_images", "unseen" {class: cells that were not asked for, since train has none}, and for each
        training figures of `PARTS`, "recalibrated", as `examine.recalibration_gain`, on the left out, and
        "training_seconds"}}.
    """
    rows = pa.concat_tables([derived.originals(data, split) for split in SPLITS])
    return {value: _run(value, data, settings) for value in values(rows, settings)}


def values(rows: pa.Table, settings: LeftOutSettings) -> list[str]:
    """What is left out, of the rows of all splits.

    Raises:
        CelluScanError: A value that was asked for has too few cells of classes that others have, or leaves too few.
    """
    found, labels = np.array(rows[settings.by].to_pylist(), object), rows["label"].to_numpy()
    asked = {value: int(np.isin(labels[found == value], labels[found != value]).sum()) for value in sorted(set(found))}
    fit = [value for value, count in asked.items() if min(count, int((found != value).sum())) >= LEAST]
    chosen = list(settings.only) or fit
    if unfit := [value for value in chosen if value not in fit]:
        told = ", ".join(f"{value} ({asked[value]})" for value in asked)
        raise CelluScanError(
            f"{settings.by} {unfit[0]!r} cannot be left out: expected one with {LEAST} cells or more of classes that "
            f"the others have, of {told}"
        )
    if not chosen:
        raise CelluScanError(
            f"nothing can be left out: expected two values of {settings.by} that share classes, with {LEAST} cells or "
            f"more of these, got {', '.join(asked)}"
        )
    return chosen


def _run(value: str, data: CellDataset, settings: LeftOutSettings) -> dict[str, Any]:
    folder = settings.output / "".join(letter if letter.isalnum() else "-" for letter in value)
    kept, held = without(data, settings.by, value)
    there = set(kept[SPLITS[0]]["label"].to_pylist())
    asked = held.filter(pa.array([label in there for label in held["label"].to_pylist()]))
    unseen = Counter(taxonomy.NAMES[label] for label in held["label"].to_pylist() if label not in there)
    parts = kept | {SPLITS[2]: pa.concat_tables([kept[SPLITS[2]], asked])}
    said = {"by": settings.by, "left_out": value}
    made = derived.derive(folder / "data", data, said, settings.seed, lambda: parts)
    outside = set(asked["image_id"].to_pylist())
    figures: dict[str, Any] = {"train_images": kept[SPLITS[0]].num_rows, "unseen": dict(unseen)}
    for name, options in settings.trainings.items():
        run = folder / name / "run"
        model = trained(settings.recipe, made, run, settings.steps, settings.seed, *options, calibrate=True)
        judged(model, {"test": made}, folder / name)
        found = Predictions.read(folder / name / "test" / PREDICTIONS)
        away = [cell in outside for cell in found.image_ids]
        figures[name] = _figures(found, away) | {"training_seconds": training_seconds(model)}
    return figures


def _figures(found: Predictions, outside: Sequence[bool]) -> dict[str, Any]:
    learned, away = found.where([not one for one in outside]), found.where(outside)
    alike = learned.where(np.isin(learned.labels, away.labels).tolist())
    tests = dict(zip(PARTS, (learned, alike, away), strict=True))
    figures: dict[str, Any] = {name: _summary(cells) for name, cells in tests.items()}
    logits = np.log(away.probabilities.clip(TINY))
    seen = ModelOutputs(logits, np.empty((len(away), 0), np.float32), away.labels)
    return figures | {"recalibrated": recalibration_gain(seen, away.groups, SIZES, DRAWS)}


def _summary(cells: Predictions) -> dict[str, Any]:
    metrics = measure(cells, RESAMPLES)
    return summary(metrics) | {"groups": metrics["groups"], "related": metrics["related"]}


def without(data: CellDataset, by: str, value: str) -> tuple[dict[str, pa.Table], pa.Table]:
    """The originals of each split without a value and its groups; and those that have the value, of all splits."""
    rows = {split: derived.originals(data, split) for split in SPLITS}
    everything = pa.concat_tables(list(rows.values()))
    held = everything.filter(pa.array([one == value for one in everything[by].to_pylist()]))
    kin = set(held["group_id"].to_pylist())
    kept = {
        split: table.filter(pa.array([group not in kin for group in table["group_id"].to_pylist()]))
        for split, table in rows.items()
    }
    return kept, held


def draw(figures: dict[str, Any], path: Path) -> None:
    """Balanced accuracy over the same classes on what was learned from and on what was left out, with intervals."""
    runs = [(value, name) for value, found in figures.items() for name in TRAININGS if name in found]
    figure = Figure(figsize=(8.0, 1.6 + 0.6 * len(runs)), dpi=plots.RESOLUTION, layout="constrained")
    axes = figure.subplots()
    for offset, (part, colour) in enumerate(zip(list(PARTS)[1:], (plots.BLUE, plots.VERMILION), strict=True)):
        for place, (value, name) in enumerate(runs):
            found: Mapping[str, Any] = figures[value][name][part]
            low, high = found["ci95"]["balanced_accuracy"]
            at = place + 0.16 * (2 * offset - 1)
            axes.plot([low, high], [at, at], color=colour, linewidth=2)
            axes.plot(found["balanced_accuracy"], at, "o", color=colour, label=PARTS[part] if not place else None)
    axes.set_yticks(range(len(runs)), [f"without {value},\n{name}" for value, name in runs])
    axes.set_ylim(len(runs) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel("balanced accuracy, with 95 % interval")
    axes.grid(axis="x", color="#E0E0E0")
    axes.set_axisbelow(True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    plots.save(figure, path)
