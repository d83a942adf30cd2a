"""Find labels that are likely wrong: cross-validation over whole groups, and a list for review.

All originals of a built dataset are split into folds; for each a model is trained on the others, which gives
out-of-fold probabilities. The list (`suspects`) is for a person to review (`review`); the dataset is not changed. How
many wrong labels the list contains is measured with labels that are made wrong on purpose.
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
from .experiment import evaluate_on, summary, train_recipe, training_seconds
from .suspects import Suspect

MOST_FOLDS = MIN_GROUPS  # with more, a class with as few groups could not be in each
PAIRS = 15  # pairs of label and suggestion that are kept and drawn
_OUT_OF_FOLD = "out-of-fold"


@dataclass(frozen=True)
class LabelsSettings:
    """Settings of the audit.

    - `folds`: number of folds, 2 to `MOST_FOLDS`; as many models are trained.
    - `steps`: steps of each training.
    - `corrupt_labels`: share of the cells whose label is made wrong first, to measure how many of them are found.
    """

    output: Path
    recipe: str
    steps: int
    folds: int
    corrupt_labels: float
    seed: int

    @property
    def folder(self) -> Path:
        """Output folder; a trial with corrupted labels has its own."""
        return self.output / (f"corrupted-{self.corrupt_labels:g}" if self.corrupt_labels else "as-given")


def audit(data: CellDataset, settings: LabelsSettings) -> dict[str, Any]:
    """Train, predict, and write `labels.csv` and `review.html` into `settings.folder`.

    Returns:
        {"cells": counts by split, "out_of_fold": metrics against the labels as given, "training_seconds" of each
        fold, "listed": see `_listed`, "conflicts": cells in conflict that the build has `excluded`, and those `kept`,
        "corrupted": see `_corrupted`, or None, "first": the cells on the page, "cleanlab": its version}.

    Raises:
        CelluScanError: cleanlab is not installed, or the data cannot be used.
    """
    suspects.finder()  # a missing cleanlab fails before the training
    parts = {split: derived.originals(data, split) for split in SPLITS}
    splits = {name: split for split, rows in parts.items() for name in rows["image_id"].to_pylist()}
    rows = pa.concat_tables(parts.values())
    wrong = suspects.corrupt_labels(rows, settings.corrupt_labels, settings.seed)
    true = {name: label for name, label in zip(*_columns(rows), strict=True) if name in wrong}
    labels = [wrong.get(name, label) for name, label in zip(*_columns(rows), strict=True)]
    cells, seconds = out_of_fold(derived.relabelled(rows, labels), data, settings)
    conflicts = suspects.conflicts(data, cells, splits)
    doubted, related = suspects.doubted(cells, splits, {name: taxonomy.NAMES[label] for name, label in true.items()})
    in_conflict = {suspect.image_id for suspect in conflicts}
    listed = conflicts + [suspect for suspect in doubted if suspect.image_id not in in_conflict]
    review.write_list(listed, settings.folder / review.LIST)
    review.write_page(listed, rows, settings.folder / review.PAGE)
    excluded = sum(not suspect.split for suspect in conflicts)
    return {
        "cells": {split: part.num_rows for split, part in parts.items()},
        "out_of_fold": summary(measure(cells, RESAMPLES)),
        "training_seconds": seconds,
        "listed": _listed(cells, doubted, related),
        "conflicts": {"excluded": excluded, "kept": len(conflicts) - excluded},
        "corrupted": _corrupted(doubted, review.first(listed), len(wrong)) if wrong else None,
        "first": [_as_json(suspect) for suspect in review.first(listed)],
        "cleanlab": version("cleanlab"),
    }


def _columns(rows: pa.Table) -> tuple[list[str], list[int]]:
    return rows["image_id"].to_pylist(), rows["label"].to_pylist()


def out_of_fold(rows: pa.Table, data: CellDataset, settings: LabelsSettings) -> tuple[Predictions, list[float]]:
    """Predict each row by a model trained without its group; also return the seconds of each training."""
    parts = derived.split_groups(rows, (1 / settings.folds,) * settings.folds, settings.seed)
    predictions, seconds = [], []
    for number in range(settings.folds):
        folder = settings.folder / f"fold-{number + 1}-of-{settings.folds}"
        facts = {"labels": settings.folder.name, "fold": number + 1, "folds": settings.folds}
        make = partial(_fold, rows, parts == number)
        fold_data = derived.derive(folder / "data", data, facts, settings.seed, make)
        model = train_recipe(settings.recipe, fold_data, folder / "run", settings.steps, settings.seed)
        evaluate_on(model, {_OUT_OF_FOLD: fold_data}, folder)
        predictions.append(Predictions.read(folder / _OUT_OF_FOLD / PREDICTIONS))
        seconds.append(training_seconds(model))
    return Predictions.joined(predictions), seconds


def _fold(rows: pa.Table, held: NDArray[np.bool_]) -> dict[str, pa.Table]:
    rest = rows.filter(pa.array(held))
    return {SPLITS[0]: rows.filter(pa.array(~held)), SPLITS[1]: rest, SPLITS[2]: rest}  # nothing is chosen on them


def _listed(cells: Predictions, doubted: Sequence[Suspect], related: Sequence[Suspect]) -> dict[str, Any]:
    """Count likely errors, by split and by class, and the most frequent pairs of label and suggestion.

    `related` were left out, since the suggestion is the parent or a child of the label.
    """
    pairs = Counter((suspect.label, suspect.suggested) for suspect in doubted)
    corrupted = Counter((suspect.label, suspect.suggested) for suspect in doubted if suspect.original_label)
    most = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:PAIRS]
    counts = np.bincount(cells.labels, minlength=len(taxonomy.NAMES))
    listed = Counter(suspect.label for suspect in doubted)
    return {
        "n": len(doubted),
        "related": len(related),
        "by_split": {split: sum(suspect.split == split for suspect in doubted) for split in SPLITS},
        "by_class": {
            name: {"cells": int(count), "listed": listed[name]}
            for name, count in zip(taxonomy.NAMES, counts, strict=True)
            if count
        },
        "pairs": [
            {"label": pair[0], "suggested": pair[1], "n": pairs[pair], "corrupted": corrupted[pair]} for pair in most
        ],
    }


def _corrupted(doubted: Sequence[Suspect], first: Sequence[Suspect], corrupted: int) -> dict[str, Any]:
    """Measure how many of the corrupted labels were found, and their share of those listed.

    `recall` is of all corrupted; `precision` of all listed, `precision_first` of the first that the page shows: lower
    bounds, since errors that were there before count against them. `suggested_right` is the share of those found whose
    true class was suggested.
    """
    detected = [suspect for suspect in doubted if suspect.original_label]
    shown = [suspect for suspect in first if suspect.reason == suspects.CONFIDENCE]
    return {
        "cells": corrupted,
        "found": len(detected),
        "recall": _share(len(detected), corrupted),
        "precision": _share(len(detected), len(doubted)),
        "precision_first": _share(sum(bool(suspect.original_label) for suspect in shown), len(shown)),
        "suggested_right": _share(
            sum(suspect.original_label == suspect.suggested for suspect in detected), len(detected)
        ),
    }


def _share(part: int, total: int) -> float | None:
    return round(part / total, 4) if total else None


def _as_json(suspect: Suspect) -> dict[str, Any]:
    return {
        name: round(value, 4) if isinstance(value, float) else value
        for name, value in asdict(suspect).items()
        if value not in ("", None)
    }


def draw(metrics: dict[str, Any], path: Path) -> None:
    """Draw the most frequent pairs of label and suggestion, by class code; corrupted ones apart."""
    pairs = metrics["listed"]["pairs"]
    figure = Figure(figsize=(7.2, 1.4 + 0.28 * len(pairs)), dpi=plots.RESOLUTION, layout="constrained")
    axes = figure.subplots()
    names = [f"{_code(pair['label'])} → {_code(pair['suggested'])}" for pair in pairs]
    corrupted = [pair["corrupted"] for pair in pairs]
    others = [pair["n"] - pair["corrupted"] for pair in pairs]
    axes.barh(names, others, color=plots.BLUE, label="labels as given")
    if metrics["corrupted"]:
        axes.barh(names, corrupted, left=others, color=plots.VERMILION, hatch="//", label="corrupted")
        axes.legend(loc="lower right")
    axes.invert_yaxis()
    axes.set_xlabel("cells whose label is likely wrong")
    axes.set_title(f"label → suggestion, {metrics['listed']['n']:,} of {sum(metrics['cells'].values()):,} cells listed")
    axes.grid(axis="x", color="#E0E0E0")
    axes.set_axisbelow(True)
    plots.save(figure, path)


def _code(name: str) -> str:
    return taxonomy.lookup(name).code


def table_rows(metrics: dict[str, Any]) -> list[tuple[Any, ...]]:
    """For each class: cells, likely errors, and the most frequent suggestion."""
    listed = metrics["listed"]
    most = {pair["label"]: f"{pair['suggested']} ({pair['n']})" for pair in reversed(listed["pairs"])}
    return [
        (name, counts["cells"], counts["listed"], most.get(name, "")) for name, counts in listed["by_class"].items()
    ]


def in_words(metrics: dict[str, Any], folder: Path) -> str:
    """Summarize what the table leaves out: conflicts, corrupted labels, paths of the list."""
    listed, conflicts, out_of_fold = metrics["listed"], metrics["conflicts"], metrics["out_of_fold"]
    lines = [
        f"out of fold: accuracy {out_of_fold['accuracy']:.3f}, macro-F1 {out_of_fold['macro_f1']:.3f}",
        f"{listed['n']} likely errors; {listed['related']} more, predicted as parent or child of the label, left out",
        f"{conflicts['excluded']} conflicting cells excluded by the build, {conflicts['kept']} near duplicates kept",
    ]
    if trial := metrics["corrupted"]:
        lines.append(f"{trial['found']} of {trial['cells']} corrupted labels found")
        lines.append(
            f"share of corrupted among those listed: {trial['precision']}, the first: {trial['precision_first']}"
        )
    lines.append(f"to review: {folder / review.PAGE}, {folder / review.LIST}; nothing was changed")
    return "\n".join(lines)
