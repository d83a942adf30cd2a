"""Accuracy of a recipe: train, choose the checkpoint on validation, evaluate on the test split.

With `--external` the model is also evaluated on images of other laboratories: as it is, and, if it has batch norm, with
the statistics of their own images.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..evaluation.wbc_metrics.wbc_metrics import SCALARS
from ..training import recipes

_MODEL = ("image_size", "patch_size", "patch_stem", "hidden_size", "input_norm", "views", "crops")


def recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Report time and metrics of the run in `--output`; train it first, or resume it."""
    run, given = arguments.output / "run", ("--dataset", arguments.dataset)
    options = [word for word in arguments.options if word != "--"]
    where = ("--output_dir", run, "--seed", arguments.seed, "--resume_from_checkpoint", "last")
    _celluscan("train", "--recipe", arguments.recipe, *given, *where, *options)
    settings, training = _read(run / "settings.json"), _read(run / "training.json")
    external = [word for source in arguments.external for word in ("--external", source)]
    metrics = _evaluate(run, arguments, *external)
    adapted = {}
    if external and settings["model"]["patch_stem"] == "convolution":
        adapted = _evaluate(run, arguments, *external, "--target-statistics")["external"]
    return {
        "recipe": arguments.recipe,
        "data": settings["data"],
        "model": {name: settings["model"][name] for name in _MODEL},
        "options": options,
        "settings": _recipe_settings(arguments.recipe, settings["settings"]),
        "seed": settings["seed"],
        "device": settings["device"],
        "git": settings["git"],
        "training_seconds": training["seconds"],
        "images_per_second": training["images_per_second"],
        "validation": training["validation"],
        "test": {name: metrics[name] for name in ("n", *SCALARS, "ci95")},
        "external": metrics["external"],
        "external_target_statistics": adapted,
        "test_per_source": metrics["per_source"],
        "test_recall": {name: scores["recall"] for name, scores in metrics["per_class"].items()},
        "test_confusion_matrix": metrics["confusion_matrix"],
    }


def _evaluate(run: Path, arguments: argparse.Namespace, *options: str) -> dict[str, Any]:
    """Evaluate a run on the test split, and return the metrics."""
    folder = arguments.output / ("evaluation" + "-target-statistics" * ("--target-statistics" in options))
    given = ("--dataset", arguments.dataset, "--split", "test", "--output", folder)
    _celluscan("evaluate", "--model", run, *given, *options)
    metrics: dict[str, Any] = _read(folder / "metrics.json")
    return metrics


def _recipe_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the run's value of each setting in the recipe."""
    return {field: settings[field] for field in recipes.load(name)[-1] if field in settings and field != "model"}


def _celluscan(command: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "celluscan_hf.cli", command, *map(str, arguments)], check=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def check_needs(arguments: argparse.Namespace) -> None:
    """Check nothing: the commands report what is missing."""
