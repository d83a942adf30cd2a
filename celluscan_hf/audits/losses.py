"""Which loss learns most: one recipe with each of them, the same budget and seeds, judged on validation alone.

Of some groups of train only the coarser class may be told, as a source would that knows no finer one. That is what the
hierarchical loss is for: with every label as fine as it goes, there is next to nothing for it to explain.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import taxonomy
from ..curation.splits import SPLITS, seeded_order
from ..dataset.reading import CellDataset
from ..errors import CelluScanError
from ..evaluation import plots
from ..evaluation.folder import PREDICTIONS
from ..evaluation.intervals import bootstrap
from ..evaluation.measure import measure
from ..evaluation.predictions import Predictions
from ..evaluation.wbc_metrics.wbc_metrics import RESAMPLES, TINY, Outcomes
from . import derived
from .experiment import judged, trained, training_seconds

LOSSES = {  # options of scripts/train.py
    "flat": (),
    "hierarchical": ("--loss", "hierarchical"),
    "maturation": ("--maturation_weight", "0.5"),
}
FIGURES = ("macro_f1", "finest_macro_f1", "parent_macro_f1", "distant", "adjacent", "mean_distance", "to_parent")
_IS_PARENT = np.array([cell.name in {other.parent for other in taxonomy.CLASSES} for cell in taxonomy.CLASSES])
_PARENT = np.array([taxonomy.LABEL2ID[cell.parent or cell.name] for cell in taxonomy.CLASSES])


@dataclass(frozen=True)
class LossesSettings:
    """Settings of the audit.

    - `steps`: of each training.
    - `seeds`: each loss is trained with `seed` and those that follow it, so many.
    - `coarse`: share of the groups of train whose label is replaced by its parent, where it has one.
    """

    output: Path
    recipe: str
    steps: int
    seeds: int
    coarse: float
    seed: int


def audit(data: CellDataset, settings: LossesSettings) -> dict[str, Any]:
    """Every loss with every seed.

    Returns:
        {loss: {figure: {"mean", "gain", "values"}}} of `FIGURES`, on validation with its labels as fine
        as they are: macro-F1 of all classes; of those that are no parent, where none may be told (what a model can tell
        apart, whatever it does with the coarser names); and of parents. Among the finest classes, too, are mistakes of
        more than one stage and of one, as shares of the cells with a stage, and the mean distance in stages.
        `to_parent` is the share of cells with a stage that were told as the parent of their class. `values` has one for
        each seed, `gain` is the mean difference from `flat` with the same seed, `gain_ci95` of the first two its
        interval, by a bootstrap over groups of cells, the same in both. "training_seconds" has one for each seed too.

    Raises:
        CelluScanError: No validation cell has a stage.
    """
    if not any(taxonomy.CLASSES[label].stage for label in data.split(derived.CONFIG, SPLITS[1])["label"]):
        raise CelluScanError(
            f"no validation cell of {data.name} is on the line of maturation: losses differ in nothing"
        )
    made = data_set(data, settings) if settings.coarse else data
    runs: dict[str, list[Predictions]] = {name: [] for name in LOSSES}
    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    for number in range(settings.seeds):  # a seed at a time: where it is cut, what is done compares
        for name, options in LOSSES.items():
            seed = settings.seed + number
            folder = settings.output / f"{name}-{seed}"
            model = trained(settings.recipe, made, folder / "run", settings.steps, seed, *options)
            judged(model, {"validation": made}, folder, SPLITS[1])
            runs[name].append(Predictions.read(folder / "validation" / PREDICTIONS))
            seconds[name].append(training_seconds(model))
    return {
        name: _over_seeds(found, runs["flat"]) | {"training_seconds": seconds[name]} for name, found in runs.items()
    }


def data_set(data: CellDataset, settings: LossesSettings) -> CellDataset:
    """The data set with coarse labels in train; validation and test keep theirs."""
    said = {"coarse": settings.coarse}
    return derived.derive(settings.output / "data", data, said, settings.seed, partial(_coarse, data, settings))


def _coarse(data: CellDataset, settings: LossesSettings) -> dict[str, pa.Table]:
    rows = {split: derived.originals(data, split) for split in SPLITS}
    train = rows[SPLITS[0]]
    groups = train["group_id"].to_pylist()
    names = sorted(set(groups))
    order = seeded_order(names, settings.seed)[: round(settings.coarse * len(names))]
    chosen = {names[place] for place in order}
    labels = train["label"].to_numpy()
    told = np.where([group in chosen for group in groups], _PARENT[labels], labels)
    return rows | {SPLITS[0]: derived.relabelled(train, told.tolist())}


def _figures(cells: Predictions) -> dict[str, float]:
    told, finest = measure(cells, resamples=0), measure(among_finest(cells), resamples=0)
    line = finest["maturation"]
    return {
        "macro_f1": told["macro_f1"],
        "finest_macro_f1": finest["macro_f1"],
        "parent_macro_f1": told["parent_level"]["macro_f1"],
        "distant": line["rates"]["distant"],
        "adjacent": line["rates"]["adjacent"],
        "mean_distance": line["mean_distance"],
        "to_parent": told["maturation"]["to_parent"] / told["maturation"]["n"],
    }


def among_finest(cells: Predictions) -> Predictions:
    """The cells whose class is no parent, as if the model had to answer with such a class."""
    kept = cells.where((~_IS_PARENT[cells.labels]).tolist())
    shares = np.where(_IS_PARENT, 0, kept.probabilities) + TINY
    return Predictions(kept.facts, kept.labels, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32))


def _over_seeds(found: list[Predictions], flat: list[Predictions]) -> dict[str, Any]:
    ours, theirs = [_figures(cells) for cells in found], [_figures(cells) for cells in flat]
    figures: dict[str, Any] = {}
    for name in FIGURES:
        values, reference = ([run[name] for run in runs] for runs in (ours, theirs))
        figures[name] = {
            "mean": _mean(values),
            "values": [_mean([value]) for value in values],
            "gain": None if None in values + reference else _mean(np.subtract(values, reference).tolist()),
        }
    for name, view in (("macro_f1", list), ("finest_macro_f1", _all_finest)):
        gained = _Gain(view(found), view(flat))
        ends = bootstrap(gained, gained.groups, RESAMPLES)
        figures[name]["gain_ci95"] = [round(end, 4) for end in ends] if ends else None
    return figures


def _mean(values: list[Any]) -> float | None:
    """None where one was not measured: no cell is told as one with a stage, so there is no distance."""
    return None if None in values else round(float(np.mean(values)), 4)


def _all_finest(runs: list[Predictions]) -> list[Predictions]:
    return [among_finest(cells) for cells in runs]


class _Gain:
    """By how much macro-F1 of some runs is above that of others with the same seeds, of weighted cells."""

    def __init__(self, found: list[Predictions], flat: list[Predictions]) -> None:
        self.groups = found[0].groups
        self.pairs = list(zip(*([_outcomes(cells) for cells in runs] for runs in (found, flat)), strict=True))

    def __call__(self, weights: NDArray[np.float64]) -> float:
        rows = weights[None]  # of one resample
        return float(np.mean([a.scalars(rows)["macro_f1"] - b.scalars(rows)["macro_f1"] for a, b in self.pairs]))


def _outcomes(cells: Predictions) -> Outcomes:
    return Outcomes(cells.predicted, cells.labels, len(taxonomy.NAMES))


def draw(figures: dict[str, Any], path: Path) -> None:
    """By how much macro-F1 differs from that of the flat loss, with intervals, a point for each seed."""
    figure = Figure(figsize=(8.4, 2.6), dpi=plots.RESOLUTION, layout="constrained")
    shown = {"macro_f1": "macro-F1, difference from flat", "finest_macro_f1": "the same among the finest classes"}
    others = [loss for loss in figures if loss != "flat"]
    for axes, (name, words) in zip(figure.subplots(1, 2, sharex=True, sharey=True), shown.items(), strict=True):
        for place, loss in enumerate(others):
            found, flat = figures[loss][name], figures["flat"][name]["values"]
            gains = [one - other for one, other in zip(found["values"], flat, strict=True)]
            axes.plot(found["gain_ci95"], [place, place], color=plots.VERMILION, linewidth=2)
            axes.plot(gains, [place] * len(gains), "o", color=plots.BLUE, alpha=0.6)
            axes.plot(found["gain"], place, "|", color=plots.VERMILION, markersize=18, markeredgewidth=2)
        axes.axvline(0, color="#808080", linewidth=1)
        axes.set_yticks(range(len(others)), others)
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.set_xlabel(words)
        axes.grid(axis="x", color="#E0E0E0")
        axes.set_axisbelow(True)
    plots.save(figure, path)
