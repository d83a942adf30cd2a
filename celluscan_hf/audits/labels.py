"""Which labels are likely wrong: every cell is judged by a model that was trained on the others, and listed for review.

All originals of a built data set are dealt into parts of whole groups; for each part a model is trained on the rest.
What it says of the part is out of fold. The list (`suspects`) is for a person to look through (`review`); nothing in
the data set is changed by it. How far it can be trusted is measured by labels that are made wrong on purpose.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .. import taxonomy
from ..curation.splits import MIN_GROUPS, SPLITS
from ..dataset.reading import CellDataset
from ..evaluation import plots
from ..evaluation.folder import PREDICTIONS
from ..evaluation.measure import measure
from ..evaluation.predictions import Predictions
from ..evaluation.wbc_metrics.wbc_metrics import RESAMPLES
from . import derived, review, suspects
from .experiment import judged, summary, trained, training_seconds
from .suspects import Suspect

MOST_FOLDS = MIN_GROUPS  # of more, a class with as many groups could not be in each
PAIRS = 15  # of label and suggestion, that are kept and drawn
_JUDGED = "out-of-fold"


@dataclass(frozen=True)
class LabelsSettings:
    """Settings of the audit.

    - `folds`: parts that the cells are dealt into, 2 to `MOST_FOLDS`; as many models are trained.
    - `steps`: of each training.
    - `plant`: share of the cells whose label is made wrong before, to see how many of them are found.
    """

    output: Path
    recipe: str
    steps: int
    folds: int
    plant: float
    seed: int

    @property
    def folder(self) -> Path:
        """Where all of it goes: the list of a trial with planted errors is not that of the labels as they are."""
        return self.output / (f"planted-{self.plant:g}" if self.plant else "as-given")


def audit(data: CellDataset, settings: LabelsSettings) -> dict[str, Any]:
    """Train, judge, and write `labels.csv` and `review.html` into `settings.folder`.

    Returns:
        {"cells": counts by split, "out_of_fold": figures against the labels as given, "training_seconds" of each
        fold, "listed": see `_listed`, "conflicts": cells in conflict that the build has put `aside`, and those `kept`,
        "planted": see `_planted`, or None, "first": what the page shows, "cleanlab": its version}.

    Raises:
        CelluScanError: cleanlab is not installed, or the data cannot be used.
    """
    suspects.finder()  # that it is missing is said before the training, not after it
    parts = {split: derived.originals(data, split) for split in SPLITS}
    splits = {name: split for split, rows in parts.items() for name in rows["image_id"].to_pylist()}
    rows = pa.concat_tables(parts.values())
    wrong = suspects.plant(rows, settings.plant, settings.seed)
    true = {name: label for name, label in zip(*_columns(rows), strict=True) if name in wrong}
    told = [wrong.get(name, label) for name, label in zip(*_columns(rows), strict=True)]
    cells, seconds = out_of_fold(derived.relabelled(rows, told), data, settings)
    put_aside = suspects.conflicts(data, cells, splits)
    doubted, related = suspects.doubted(cells, splits, {name: taxonomy.NAMES[label] for name, label in true.items()})
    known = {one.image_id for one in put_aside}
    listed = put_aside + [one for one in doubted if one.image_id not in known]
    review.write_list(listed, settings.folder / review.LIST)
    review.write_page(listed, rows, settings.folder / review.PAGE)
    aside = sum(not one.split for one in put_aside)
    return {
        "cells": {split: part.num_rows for split, part in parts.items()},
        "out_of_fold": summary(measure(cells, RESAMPLES)),
        "training_seconds": seconds,
        "listed": _listed(cells, doubted, related),
        "conflicts": {"aside": aside, "kept": len(put_aside) - aside},
        "planted": _planted(doubted, review.first(listed), len(wrong)) if wrong else None,
        "first": [_shown(one) for one in review.first(listed)],
        "cleanlab": version("cleanlab"),
    }


def _columns(rows: pa.Table) -> tuple[list[str], list[int]]:
    return rows["image_id"].to_pylist(), rows["label"].to_pylist()


def out_of_fold(rows: pa.Table, data: CellDataset, settings: LabelsSettings) -> tuple[Predictions, list[float]]:
    """What is said of each row by a model that saw no row of its group in training; seconds of each training."""
    parts = derived.dealt(rows, (1 / settings.folds,) * settings.folds, settings.seed)
    found, seconds = [], []
    for number in range(settings.folds):
        folder = settings.folder / f"fold-{number + 1}-of-{settings.folds}"
        said = {"labels": settings.folder.name, "fold": number + 1, "folds": settings.folds}
        make = partial(_fold, rows, parts == number)
        made = derived.derive(folder / "data", data, said, settings.seed, make)
        model = trained(settings.recipe, made, folder / "run", settings.steps, settings.seed)
        judged(model, {_JUDGED: made}, folder)
        found.append(Predictions.read(folder / _JUDGED / PREDICTIONS))
        seconds.append(training_seconds(model))
    return Predictions.joined(found), seconds


def _fold(rows: pa.Table, held: NDArray[np.bool_]) -> dict[str, pa.Table]:
    rest = rows.filter(pa.array(held))
    return {SPLITS[0]: rows.filter(pa.array(~held)), SPLITS[1]: rest, SPLITS[2]: rest}  # nothing is chosen on them


def _listed(cells: Predictions, doubted: Sequence[Suspect], related: Sequence[Suspect]) -> dict[str, Any]:
    """Likely errors by confidence: how many, by split and by class, and the most frequent pairs.

    `related` were left out, since what is suggested is the parent or a child of the label.
    """
    pairs = Counter((one.label, one.suggested) for one in doubted)
    planted = Counter((one.label, one.suggested) for one in doubted if one.planted)
    most = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:PAIRS]
    have, found = np.bincount(cells.labels, minlength=len(taxonomy.NAMES)), Counter(one.label for one in doubted)
    return {
        "n": len(doubted),
        "related": len(related),
        "by_split": {split: sum(one.split == split for one in doubted) for split in SPLITS},
        "by_class": {
            name: {"cells": int(count), "listed": found[name]}
            for name, count in zip(taxonomy.NAMES, have, strict=True)
            if count
        },
        "pairs": [
            {"label": pair[0], "suggested": pair[1], "n": pairs[pair], "planted": planted[pair]} for pair in most
        ],
    }


def _planted(doubted: Sequence[Suspect], first: Sequence[Suspect], planted: int) -> dict[str, Any]:
    """How many of the labels made wrong were found, and how many of those listed they are.

    `recall` is of all planted; `precision` of all listed, `precision_first` of the first that the page shows: lower
    bounds, since errors that were there before count against them. `suggested_right` is the share of those found whose
    true class was suggested.
    """
    found = [one for one in doubted if one.planted]
    shown = [one for one in first if one.reason == suspects.CONFIDENCE]
    return {
        "cells": planted,
        "found": len(found),
        "recall": _share(len(found), planted),
        "precision": _share(len(found), len(doubted)),
        "precision_first": _share(sum(bool(one.planted) for one in shown), len(shown)),
        "suggested_right": _share(sum(one.planted == one.suggested for one in found), len(found)),
    }


def _share(part: int, total: int) -> float | None:
    return round(part / total, 4) if total else None


def _shown(one: Suspect) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(one).items()
        if value not in ("", None)
    }


def draw(figures: dict[str, Any], path: Path) -> None:
    """The most frequent pairs of label and suggestion, by class code; those planted apart."""
    pairs = figures["listed"]["pairs"]
    figure = Figure(figsize=(7.2, 1.4 + 0.28 * len(pairs)), dpi=plots.RESOLUTION, layout="constrained")
    axes = figure.subplots()
    names = [f"{_code(pair['label'])} → {_code(pair['suggested'])}" for pair in pairs]
    planted = [pair["planted"] for pair in pairs]
    others = [pair["n"] - pair["planted"] for pair in pairs]
    axes.barh(names, others, color=plots.BLUE, label="labels as given")
    if figures["planted"]:
        axes.barh(names, planted, left=others, color=plots.VERMILION, hatch="//", label="planted")
        axes.legend(loc="lower right")
    axes.invert_yaxis()
    axes.set_xlabel("cells whose label is likely wrong")
    axes.set_title(f"label → suggestion, {figures['listed']['n']:,} of {sum(figures['cells'].values()):,} cells listed")
    axes.grid(axis="x", color="#E0E0E0")
    axes.set_axisbelow(True)
    plots.save(figure, path)


def _code(name: str) -> str:
    return taxonomy.lookup(name).code


def table_rows(figures: dict[str, Any]) -> list[tuple[Any, ...]]:
    """For each class: cells, likely errors, and what is suggested for most of them."""
    listed = figures["listed"]
    most = {pair["label"]: f"{pair['suggested']} ({pair['n']})" for pair in reversed(listed["pairs"])}
    return [(name, found["cells"], found["listed"], most.get(name, "")) for name, found in listed["by_class"].items()]


def in_words(figures: dict[str, Any], folder: Path) -> str:
    """What the table leaves out: conflicts, what was planted, where the list is."""
    listed, held, judged_as = figures["listed"], figures["conflicts"], figures["out_of_fold"]
    lines = [
        f"out of fold: accuracy {judged_as['accuracy']:.3f}, macro-F1 {judged_as['macro_f1']:.3f}",
        f"{listed['n']} likely errors; {listed['related']} more, told as parent or child of their class, are left out",
        f"{held['aside']} cells in conflict that the build has put aside, {held['kept']} near duplicates in conflict",
    ]
    if trial := figures["planted"]:
        lines.append(f"{trial['found']} of {trial['cells']} planted errors found")
        lines.append(
            f"share of planted among those listed: {trial['precision']}, the first: {trial['precision_first']}"
        )
    lines.append(f"to look through: {folder / review.PAGE}, {folder / review.LIST}; nothing was changed")
    return "\n".join(lines)
