"""Shortcuts in the data, and how far models exploit them.

`background_accuracy`: how much of the class the image shows without the cell, as stored and after background
randomization. `model_shortcuts`: if the cell is covered by a disc of the mean colour of the data, a model that uses the
cell alone falls to chance; if the background is randomized and the cell stays, its answer stays; and a linear probe
predicts source or acquisition from its features only as far as the model has kept them. As models may see the middle of
an image only, background accuracy is also measured on the border of what they see.
"""

from collections.abc import Sequence
from typing import Any

from ..curation.splits import SPLITS
from ..dataset.reading import CellDataset
from ..errors import CelluScanError
from ..inference.loading import load_classifier
from . import derived
from .background_accuracy import background_accuracy, stored_background_accuracy
from .model_shortcuts import model_metrics
from .shortcut_plots import RANDOMIZED, draw

__all__ = ["audit", "draw"]


def audit(data: CellDataset, models: Sequence[str], seed: int, num_proc: int) -> dict[str, Any]:
    """Measure the data, then each model.

    Returns:
        `background_accuracy`, see `dataset.shortcuts.audit`; those of `RANDOMIZED`: ring and background with the
        background of a share of the stored images randomized as in training; `models`, {name: `model_metrics`}.

    Raises:
        CelluScanError: A split has fewer than two classes, or a model cannot be loaded.
    """
    for split in (SPLITS[0], SPLITS[2]):
        if len(set(data.split(derived.CONFIG, split)["label"])) < 2:
            raise CelluScanError(f"{split} of {data.name} has fewer than two classes: nothing to classify")
    loaded = {name: load_classifier(name) for name in models}  # a missing one fails before the work
    metrics: dict[str, Any] = {"background_accuracy": stored_background_accuracy(data, seed, num_proc)}
    for name, share in RANDOMIZED.items():
        metrics[name] = background_accuracy(data, share, 1.0, seed, num_proc)
    if loaded:
        metrics["models"] = {name: model_metrics(data, *pair, seed, num_proc) for name, pair in loaded.items()}
    return metrics
