"""What a recipe reaches: trained on a data set, its checkpoint chosen by validation, judged on the test split.

With `--external` it is judged in other laboratories too.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ..training import recipes

SCRIPTS = Path(__file__).parents[1]
SCALARS = ("n", "accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")


def recipe(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and figures of a run in `--output`, which is trained first where it is not finished."""
    run, evaluation = arguments.output / "run", arguments.output / "evaluation"
    given = ("--dataset", arguments.dataset)
    _script("train.py", "--recipe", arguments.recipe, *given, "--output_dir", run, "--resume_from_checkpoint", "last")
    elsewhere = [word for source in arguments.external for word in ("--external", source)]
    _script("evaluate.py", "--model", run, *given, "--split", "test", *elsewhere, "--output", evaluation)
    asked, done, metrics = map(_read, (run / "settings.json", run / "training.json", evaluation / "metrics.json"))
    return {
        "recipe": arguments.recipe,
        "data": asked["data"],
        "model": {name: asked["model"][name] for name in ("image_size", "patch_size", "patch_stem", "hidden_size")},
        "settings": _of_recipe(arguments.recipe, asked["settings"]),
        "seed": asked["seed"],
        "device": asked["device"],
        "git": asked["git"],
        "training_seconds": done["seconds"],
        "images_per_second": done["images_per_second"],
        "validation": done["validation"],
        "test": {name: metrics[name] for name in (*SCALARS, "ci95")},
        "external": metrics["external"],
        "test_recall": {name: figures["recall"] for name, figures in metrics["per_class"].items()},
        "test_confusion_matrix": metrics["confusion_matrix"],
    }


def _of_recipe(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What the run had for each field of the recipe, as it was at its commit or given by hand."""
    return {field: settings[field] for field in recipes.load(name)[-1] if field in settings and field != "model"}


def _script(name: str, *arguments: object) -> None:
    subprocess.run([sys.executable, str(SCRIPTS / name), *map(str, arguments)], check=True)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def check_needs(arguments: argparse.Namespace) -> None:
    """What is missing is said by the scripts themselves."""
