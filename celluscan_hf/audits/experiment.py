"""One experiment: train a recipe on a dataset and evaluate it on others; an interrupted one is resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..curation.splits import SPLITS
from ..dataset.reading import CellDataset
from ..evaluation.job import EvaluationSettings, evaluate
from ..evaluation.wbc_metrics.wbc_metrics import SCALARS
from ..training import recipes
from ..training.record import DONE
from ..training.run import LAST, train
from . import derived

PLAIN = ("--background_randomization", "0")  # whatever the recipe says


def train_as_recipe(recipe: str, data: CellDataset, output: Path, seed: int) -> Path:
    """Train on a dataset exactly as a recipe says, calibration included; return the folder."""
    given = ["--dataset", str(data.folder), "--dataset_config", derived.CONFIG, "--output_dir", str(output)]
    return train(recipe, recipes.stages(recipe, [*given, "--seed", str(seed), "--resume_from_checkpoint", LAST]))


def train_recipe(
    recipe: str, data: CellDataset, output: Path, steps: int, seed: int, *arguments: str, calibrate: bool = False
) -> Path:
    """Train on all train rows of a dataset for `steps` steps; return the folder. No checkpoint is chosen on validation.

    `arguments`: further options of `celluscan train`; the background is randomized only if they say so. `calibrate`
    fits the temperature on validation.
    """
    inputs = ["--dataset", str(data.folder), "--dataset_config", derived.CONFIG, "--output_dir", str(output)]
    budget = ["--max_steps", str(steps), "--seed", str(seed), "--resume_from_checkpoint", LAST]
    last = ["--load_best_model_at_end", "false", "--eval_strategy", "no", "--calibrate", str(calibrate).lower()]
    saved = ["--save_strategy", "steps", "--save_steps", str(max(1, steps // 4))]
    return train(recipe, recipes.stages(recipe, [*inputs, *budget, *last, *saved, *PLAIN, *arguments]))


def training_seconds(model: Path) -> float:
    """Duration of the training in seconds; of a resumed one, from its last checkpoint on."""
    seconds: float = json.loads((model / DONE).read_text("utf-8"))["seconds"]
    return seconds


def evaluate_on(
    model: Path, tests: Mapping[str, CellDataset], output: Path, split: str = SPLITS[2]
) -> dict[str, dict[str, Any]]:
    """Evaluate a model on one split of each dataset; return the content of each `metrics.json`."""
    return {
        name: evaluate(EvaluationSettings(str(model), output / name, dataset=str(data.folder), split=split))
        for name, data in tests.items()
    }


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Select what a result file keeps of a `metrics.json`: scalars with intervals, recall and support of each class."""
    recalls = {
        name: {"recall": scores["recall"], "support": scores["support"]}
        for name, scores in metrics["per_class"].items()
        if scores["support"]
    }
    return {name: metrics[name] for name in ("n", *SCALARS)} | {"ci95": metrics["ci95"], "per_class": recalls}
