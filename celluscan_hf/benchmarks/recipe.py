"""Accuracy of a recipe: train, choose the checkpoint on validation, evaluate on the test split.

With `--external` the model is also evaluated on images of other laboratories.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..evaluation.wbc_metrics.wbc_metrics import SCALARS
from ..training import recipes


def recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Report time and metrics of the run in `--output`; train it first, or resume it."""
    run, evaluation = arguments.output / "run", arguments.output / "evaluation"
    given = ("--dataset", arguments.dataset)
    _celluscan("train", "--recipe", arguments.recipe, *given, "--output_dir", run, "--resume_from_checkpoint", "last")
    external = [word for source in arguments.external for word in ("--external", source)]
    _celluscan("evaluate", "--model", run, *given, "--split", "test", *external, "--output", evaluation)
    settings, training, metrics = map(
        _read, (run / "settings.json", run / "training.json", evaluation / "metrics.json")
    )
    return {
        "recipe": arguments.recipe,
        "data": settings["data"],
        "model": {name: settings["model"][name] for name in ("image_size", "patch_size", "patch_stem", "hidden_size")},
        "settings": _recipe_settings(arguments.recipe, settings["settings"]),
        "seed": settings["seed"],
        "device": settings["device"],
        "git": settings["git"],
        "training_seconds": training["seconds"],
        "images_per_second": training["images_per_second"],
        "validation": training["validation"],
        "test": {name: metrics[name] for name in ("n", *SCALARS, "ci95")},
        "external": metrics["external"],
        "test_recall": {name: scores["recall"] for name, scores in metrics["per_class"].items()},
        "test_confusion_matrix": metrics["confusion_matrix"],
    }


def _recipe_settings(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the run's value of each setting in the recipe."""
    return {field: settings[field] for field in recipes.load(name)[-1] if field in settings and field != "model"}


def _celluscan(command: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "celluscan_hf.cli", command, *map(str, arguments)], check=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def check_needs(arguments: argparse.Namespace) -> None:
    """Check nothing: the commands report what is missing."""
