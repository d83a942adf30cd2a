"""Compare losses: one recipe with each of them, the same budget and seeds, evaluated on validation alone.

Some groups of train can keep only the coarser class, as from a source without finer labels. That is what the
hierarchical loss is for: if every label is as fine as possible, it has next to nothing to add.
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
from .experiment import evaluate_on, train_recipe, training_seconds

LOSSES = {  # options of `celluscan train`
    "flat": (),
    "hierarchical": ("--loss", "hierarchical"),
    "maturation": ("--maturation_weight", "0.5"),
}
METRICS = ("macro_f1", "finest_macro_f1", "parent_macro_f1", "distant", "adjacent", "mean_distance", "to_parent")
_IS_PARENT = np.array([cell.name in {other.parent for other in taxonomy.CLASSES} for cell in taxonomy.CLASSES])
_PARENT = np.array([taxonomy.LABEL2ID[cell.parent or cell.name] for cell in taxonomy.CLASSES])


@dataclass(frozen=True)
class LossesSettings:
    """Settings of the audit.

    - `steps`: steps of each training.
    - `seeds`: number of trainings of each loss, with `seed` and the following ones.
    - `coarse_labels`: share of the groups of train whose label is replaced by its parent, where it has one.
    """

    output: Path
    recipe: str
    steps: int
    seeds: int
    coarse_labels: float
    seed: int


def audit(data: CellDataset, settings: LossesSettings) -> dict[str, Any]:
    """Train every loss with every seed.

    Returns:
        {loss: {metric: {"mean", "gain", "values"}}} of `METRICS`, on validation with its original labels: macro-F1 of
        all classes; of the finest classes, with parents excluded from labels and predictions; and of parents. Also
        among the finest classes: mistakes of more than one stage and of one, as shares of the cells with a stage, and
        the mean distance in stages. `to_parent` is the share of cells with a stage that were predicted as the parent of
        their class. `values` has one for each seed, `gain` is the mean difference from `flat` with the same seed,
        `gain_ci95` of the first two its interval, by a bootstrap over groups of cells, the same in both.
        "training_seconds" has one for each seed too.

    Raises:
        CelluScanError: No validation cell has a stage.
    """
    if not any(taxonomy.CLASSES[label].stage for label in data.split(derived.CONFIG, SPLITS[1])["label"]):
        raise CelluScanError(f"no validation cell of {data.name} has a maturation stage: the losses would not differ")
    train_data = coarse_dataset(data, settings) if settings.coarse_labels else data
    runs: dict[str, list[Predictions]] = {name: [] for name in LOSSES}
    seconds: dict[str, list[float]] = {name: [] for name in LOSSES}
    for number in range(settings.seeds):  # seed by seed: what is done before an interruption is comparable
        for name, options in LOSSES.items():
            seed = settings.seed + number
            folder = settings.output / f"{name}-{seed}"
            model = train_recipe(settings.recipe, train_data, folder / "run", settings.steps, seed, *options)
            evaluate_on(model, {"validation": train_data}, folder, SPLITS[1])
            runs[name].append(Predictions.read(folder / "validation" / PREDICTIONS))
            seconds[name].append(training_seconds(model))
    return {
        name: _over_seeds(predictions, runs["flat"]) | {"training_seconds": seconds[name]}
        for name, predictions in runs.items()
    }


def coarse_dataset(data: CellDataset, settings: LossesSettings) -> CellDataset:
    """Derive the dataset with coarse labels in train; validation and test keep theirs."""
    facts = {"coarse_labels": settings.coarse_labels}
    return derived.derive(settings.output / "data", data, facts, settings.seed, partial(_coarse, data, settings))


def _coarse(data: CellDataset, settings: LossesSettings) -> dict[str, pa.Table]:
    rows = {split: derived.originals(data, split) for split in SPLITS}
    train = rows[SPLITS[0]]
    groups = train["group_id"].to_pylist()
    names = sorted(set(groups))
    order = seeded_order(names, settings.seed)[: round(settings.coarse_labels * len(names))]
    chosen = {names[place] for place in order}
    labels = train["label"].to_numpy()
    coarse = np.where([group in chosen for group in groups], _PARENT[labels], labels)
    return rows | {SPLITS[0]: derived.relabelled(train, coarse.tolist())}


def _metrics(cells: Predictions) -> dict[str, float]:
    metrics, finest = measure(cells, resamples=0), measure(among_finest(cells), resamples=0)
    stages = finest["maturation"]
    return {
        "macro_f1": metrics["macro_f1"],
        "finest_macro_f1": finest["macro_f1"],
        "parent_macro_f1": metrics["parent_level"]["macro_f1"],
        "distant": stages["rates"]["distant"],
        "adjacent": stages["rates"]["adjacent"],
        "mean_distance": stages["mean_distance"],
        "to_parent": metrics["maturation"]["to_parent"] / metrics["maturation"]["n"],
    }


def among_finest(cells: Predictions) -> Predictions:
    """Select the cells whose class is not a parent, and restrict the predictions to such classes."""
    kept = cells.where((~_IS_PARENT[cells.labels]).tolist())
    shares = np.where(_IS_PARENT, 0, kept.probabilities) + TINY
    return Predictions(kept.facts, kept.labels, (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32))


def _over_seeds(runs: list[Predictions], flat: list[Predictions]) -> dict[str, Any]:
    run_metrics, flat_metrics = [_metrics(cells) for cells in runs], [_metrics(cells) for cells in flat]
    metrics: dict[str, Any] = {}
    for name in METRICS:
        values, reference = ([run[name] for run in side] for side in (run_metrics, flat_metrics))
        metrics[name] = {
            "mean": _mean(values),
            "values": [_mean([value]) for value in values],
            "gain": None if None in values + reference else _mean(np.subtract(values, reference).tolist()),
        }
    for name, view in (("macro_f1", list), ("finest_macro_f1", _all_finest)):
        gain = _Gain(view(runs), view(flat))
        ends = bootstrap(gain, gain.groups, RESAMPLES)
        metrics[name]["gain_ci95"] = [round(end, 4) for end in ends] if ends else None
    return metrics


def _mean(values: list[Any]) -> float | None:
    """Average; None if one was not measured, as no cell was predicted as a class with a stage."""
    return None if None in values else round(float(np.mean(values)), 4)


def _all_finest(runs: list[Predictions]) -> list[Predictions]:
    return [among_finest(cells) for cells in runs]


class _Gain:
    """Gain in macro-F1 of some runs over others with the same seeds, of weighted cells."""

    def __init__(self, runs: list[Predictions], flat: list[Predictions]) -> None:
        self.groups = runs[0].groups
        self.pairs = list(zip(*([_outcomes(cells) for cells in side] for side in (runs, flat)), strict=True))

    def __call__(self, weights: NDArray[np.float64]) -> float:
        rows = weights[None]  # of one resample
        return float(np.mean([a.scalars(rows)["macro_f1"] - b.scalars(rows)["macro_f1"] for a, b in self.pairs]))


def _outcomes(cells: Predictions) -> Outcomes:
    return Outcomes(cells.predicted, cells.labels, len(taxonomy.NAMES))


def draw(metrics: dict[str, Any], path: Path) -> None:
    """Draw the gain in macro-F1 over the flat loss, with intervals, a point for each seed."""
    figure = Figure(figsize=(8.4, 2.6), dpi=plots.RESOLUTION, layout="constrained")
    shown = {"macro_f1": "macro-F1, difference from flat", "finest_macro_f1": "the same among the finest classes"}
    others = [loss for loss in metrics if loss != "flat"]
    for axes, (name, words) in zip(figure.subplots(1, 2, sharex=True, sharey=True), shown.items(), strict=True):
        for place, loss in enumerate(others):
            scores, flat = metrics[loss][name], metrics["flat"][name]["values"]
            gains = [value - reference for value, reference in zip(scores["values"], flat, strict=True)]
            axes.plot(scores["gain_ci95"], [place, place], color=plots.VERMILION, linewidth=2)
            axes.plot(gains, [place] * len(gains), "o", color=plots.BLUE, alpha=0.6)
            axes.plot(scores["gain"], place, "|", color=plots.VERMILION, markersize=18, markeredgewidth=2)
        axes.axvline(0, color="#808080", linewidth=1)
        axes.set_yticks(range(len(others)), others)
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.set_xlabel(words)
        axes.grid(axis="x", color="#E0E0E0")
        axes.set_axisbelow(True)
    plots.save(figure, path)
