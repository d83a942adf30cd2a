"""One experiment: a recipe trained on a data set, judged on the test splits of others; it goes on where it was cut."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..curation.splits import SPLITS
from ..dataset.reading import CellDataset
from ..evaluation.job import EvaluationSettings, evaluate
from ..training import recipes
from ..training.record import DONE
from ..training.run import LAST, train
from . import derived

PLAIN = (
    "--background_randomization",
    "0",
)  # whatever the recipe does
SCALARS = ("n", "accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")


def trained(
    recipe: str, data: CellDataset, output: Path, steps: int, seed: int, *arguments: str, calibrate: bool = False
) -> Path:
    """The folder of a model trained on all train rows of a data set, `steps` steps; no step is chosen on validation.

    `arguments` are further options of `scripts/train.py`; surroundings are repainted only where they ask for it.
    `calibrate` fits the temperature on validation.
    """
    given = ["--dataset", str(data.folder), "--dataset_config", derived.CONFIG, "--output_dir", str(output)]
    budget = ["--max_steps", str(steps), "--seed", str(seed), "--resume_from_checkpoint", LAST]
    last = ["--load_best_model_at_end", "false", "--eval_strategy", "no", "--calibrate", str(calibrate).lower()]
    saved = ["--save_strategy", "steps", "--save_steps", str(max(1, steps // 4))]
    return train(recipe, recipes.stages(recipe, [*given, *budget, *last, *saved, *PLAIN, *arguments]))


def training_seconds(model: Path) -> float:
    """How long the training took, in seconds; of one that was cut, from its last checkpoint on."""
    seconds: float = json.loads((model / DONE).read_text("utf-8"))["seconds"]
    return seconds


def judged(
    model: Path, tests: Mapping[str, CellDataset], output: Path, split: str = SPLITS[2]
) -> dict[str, dict[str, Any]]:
    """What `metrics.json` says of a model on one split of each data set."""
    return {
        name: evaluate(EvaluationSettings(str(model), output / name, dataset=str(data.folder), split=split))
        for name, data in tests.items()
    }


def summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Of a `metrics.json` what a result file keeps: figures with intervals, recall and support of each class."""
    recalls = {
        name: {"recall": figures["recall"], "support": figures["support"]}
        for name, figures in metrics["per_class"].items()
        if figures["support"]
    }
    return {name: metrics[name] for name in SCALARS} | {"ci95": metrics["ci95"], "per_class": recalls}
