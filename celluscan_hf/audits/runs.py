"""Run an audit with the options of its command: metrics to a file, a plot beside it, a table as text."""

import argparse
from typing import Any

from ..dataset.build import build
from ..dataset.card import table
from ..dataset.reading import CellDataset, open_dataset
from ..dataset.settings import BuildSettings
from ..errors import CelluScanError
from . import labels, leak, left_out, losses, result, shortcut, shortcut_plots

_NO_SETTINGS = (
    "run",
    "source",
    "dataset",
    "output",
    "json",
    "seed",
    "num_proc",
)  # recorded elsewhere in the result


def load_data(options: argparse.Namespace) -> CellDataset:
    """Open the dataset, or build one from the sources."""
    if options.dataset:
        return open_dataset(options.dataset)
    folder = (options.output / "cells").resolve()
    build(BuildSettings(tuple(options.source), folder, target_per_class=0, num_proc=options.num_proc, resume=True))
    return open_dataset(folder)


def _write(what: str, data: CellDataset, options: argparse.Namespace, metrics: dict[str, Any], draw: Any) -> None:
    settings = {name: value for name, value in vars(options).items() if name not in _NO_SETTINGS}
    path = options.json or options.output / f"{what}.json"
    result.write(result.result(what, data, options.seed, settings, metrics), path)
    draw(metrics, path.with_suffix(".png"))


def run_leak(data: CellDataset, options: argparse.Namespace) -> str:
    """Run the leak audit, write its metrics, and return its table."""
    names = ("output", "recipe", "share", "target_per_class", "steps", "no_online_augmentation", "seed", "num_proc")
    metrics = leak.audit(data, leak.LeakSettings(**{name: getattr(options, name) for name in names}))
    _write("leak", data, options, metrics, leak.draw)
    rows = [
        [name, run["train_images"], f"{run['related_share']:.0%}"]
        + [f"{run[test][metric]:.3f}" for metric in ("accuracy", "macro_f1") for test in leak.TESTS]
        for name, run in metrics.items()
    ]
    heads = [f"{metric}, {words}" for metric in ("accuracy", "macro-F1") for words in leak.TESTS.values()]
    return table(["protocol", "train images", "test images with their group in train", *heads], rows)


def run_left_out(data: CellDataset, options: argparse.Namespace) -> str:
    """Run the left-out audit, write its metrics, and return its table."""
    if options.as_recipe and options.background_randomization:
        raise CelluScanError("--as-recipe trains as the recipe says: leave --background-randomization out")
    names = ("output", "recipe", "by", "steps", "background_randomization", "seed", "as_recipe")
    given = {name: getattr(options, name) for name in names}
    metrics = left_out.audit(data, left_out.LeftOutSettings(**given, only=tuple(options.only)))
    _write("left-out", data, options, metrics, left_out.draw)
    rows = [
        [value, name]
        + [f"{runs[name][part][metric]:.3f}" for metric in ("accuracy", "balanced_accuracy") for part in left_out.PARTS]
        for value, runs in metrics.items()
        for name in left_out.TRAININGS
        if name in runs
    ]
    heads = [f"{metric}, {words}" for metric in ("accuracy", "balanced accuracy") for words in left_out.PARTS.values()]
    return table(["left out", "training", *heads], rows)


def run_losses(data: CellDataset, options: argparse.Namespace) -> str:
    """Run the audit of losses, write its metrics, and return its table."""
    names = ("output", "recipe", "steps", "seeds", "coarse_labels", "seed")
    metrics = losses.audit(data, losses.LossesSettings(**{name: getattr(options, name) for name in names}))
    _write("losses", data, options, metrics, losses.draw)
    means = {loss: [run[name]["mean"] for name in losses.METRICS] for loss, run in metrics.items()}
    rows = [[loss, *("–" if mean is None else f"{mean:.3f}" for mean in values)] for loss, values in means.items()]
    return table(["loss", *(name.replace("_", " ") for name in losses.METRICS)], rows)


def run_labels(data: CellDataset, options: argparse.Namespace) -> str:
    """Run the audit of labels, write its metrics, and return its table."""
    names = ("output", "recipe", "steps", "folds", "corrupt_labels", "seed")
    settings = labels.LabelsSettings(**{name: getattr(options, name) for name in names})
    metrics = labels.audit(data, settings)
    _write("labels", data, options, metrics, labels.draw)
    heads = ["class", "cells", "likely errors", "most often suggested"]
    return table(heads, labels.table_rows(metrics)) + "\n\n" + labels.in_words(metrics, settings.folder)


def run_shortcut(data: CellDataset, options: argparse.Namespace) -> str:
    """Run the shortcut audit, write its metrics, and return its table."""
    metrics = shortcut.audit(data, options.model, options.seed, options.num_proc)
    _write("shortcut", data, options, metrics, shortcut.draw)
    text = table(["classified from", "balanced accuracy on test", "chance"], shortcut_plots.background_rows(metrics))
    models = shortcut_plots.model_rows(metrics)
    return text + ("\n\n" + table(["balanced accuracy", *shortcut_plots.MODEL_COLUMNS], models) if models else "")
