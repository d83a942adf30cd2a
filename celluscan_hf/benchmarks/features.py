"""What the features of pretrained models are worth on cells: linear probe, nearest neighbours and few labelled cells.

As in the paper of DinoBloom (Koch et al. 2024, https://arxiv.org/abs/2404.05022): weighted F1 and balanced accuracy of
features that are not trained any further. A start is whatever `celluscan train --start` takes, or one of three floors:
`random` (a ViT-B/16 of random weights), `pixels` (the image in 16 x 16 pixels) and `colours` (histograms of its three
channels). Features are kept in `--output`, so that a run goes on where it stopped. In external sources children count
as their parent, as sources name them more or less finely.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .. import taxonomy
from ..dataset.reading import open_dataset
from ..evaluation.cells import Cells, load_cells_of_split
from ..evaluation.external import load_external_cells
from ..inference.prediction import best_device
from ..modeling.checkpoints import read_checkpoint, start_model
from ..modeling.processor import build_image_processor
from ..training.features import identify, keep_features, labels_of, model_features
from ..training.probe import fit_logistic

NEIGHBOURS = (1, 20)
_SIDE, _BINS = 16, 16  # of a small image; of a histogram
_PARENT = np.array([taxonomy.LABEL2ID[taxonomy.PARENTS.get(name, name)] for name in taxonomy.NAMES])
Floats = NDArray[np.floating[Any]]
Labels = NDArray[np.int64]


def features(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure each start; return its metrics on the test split and on each external source."""
    data = {split: load_cells_of_split(arguments.dataset, split) for split in ("train", "validation", "test")}
    with tempfile.TemporaryDirectory() as scratch:
        data |= load_external_cells(arguments.external, arguments.dataset, Path(scratch))
        measured = {}
        for start in arguments.start:
            started = time.perf_counter()
            of, extract = extractor(start, arguments.dataset)
            folder = arguments.output / re.sub(r"[^A-Za-z0-9.]+", "-", start).strip("-")
            values = {
                name: keep_features(folder / f"{name}.safetensors", cells, of, partial(extract, cells))
                for name, cells in data.items()
            }
            seconds, width = round(time.perf_counter() - started, 1), values["train"].shape[1]
            measured[start] = {"width": width, "seconds": seconds} | measure(values, data, arguments)
    return {"cells": {name: len(cells.kept) for name, cells in data.items()}, "starts": measured}


def extractor(start: str, dataset: str) -> tuple[str, Callable[[Cells], Floats]]:
    """Return what identifies a start, and what computes its features (n, D) of cells.

    Raises:
        CelluScanError: The start cannot be loaded.
    """
    if start in _FLOORS:
        return start, lambda cells: np.stack([_FLOORS[start](cell.read()) for cell in cells.kept])
    if start == "random":
        torch.manual_seed(0)
        model = start_model("scratch", taxonomy.ID2LABEL, hidden_dropout_prob=0.0)
        processor = build_image_processor(model.config.image_size, *open_dataset(dataset).channel_statistics)
    else:
        checkpoint = read_checkpoint(start)
        model, side = checkpoint.build(taxonomy.ID2LABEL), checkpoint.config.picture_size
        processor = build_image_processor(side, checkpoint.image_mean, checkpoint.image_std, checkpoint.resized)
    return identify(model, processor), partial(model_features, model.to(best_device()).eval(), processor)


def _small(image: Image.Image) -> Floats:
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32).ravel() / 255


def _histograms(image: Image.Image) -> Floats:
    channels = np.asarray(image.convert("RGB")).reshape(-1, 3).T
    return np.concatenate([np.histogram(channel, _BINS, (0, 256))[0] / len(channel) for channel in channels])


_FLOORS: dict[str, Callable[[Image.Image], Floats]] = {"pixels": _small, "colours": _histograms}


def measure(values: Mapping[str, Floats], data: Mapping[str, Cells], arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit each read-out to train, and judge it on the test split and on external sources."""
    labels = {name: labels_of(cells) for name, cells in data.items()}
    (weight, bias), _ = fit_logistic(*((values[part], labels[part]) for part in ("train", "validation")))
    answers: dict[str, Callable[[Floats], Labels]] = {"probe": lambda x: (x @ weight.T + bias).argmax(axis=1)}
    for count in NEIGHBOURS:
        neighbours = KNeighborsClassifier(min(count, len(labels["train"]))).fit(values["train"], labels["train"])
        answers[f"knn_{count}"] = neighbours.predict
    result: dict[str, Any] = {}
    for name in [name for name in data if name not in ("train", "validation")]:
        trained = np.isin(_PARENT[labels[name]], _PARENT[labels["train"]])
        coarse = name != "test"
        result[name] = {
            way: _scores(answer(values[name][trained]), labels[name][trained], coarse)
            for way, answer in answers.items()
        }
        own = _PARENT[labels[name]] if coarse else labels[name]
        groups = np.array([cell.group_id for cell in data[name].kept])
        result[name]["few_shot"] = {
            str(shots): few_shot(values[name], own, groups, shots, arguments.draws) for shots in arguments.shots
        }
    return result


def _scores(answers: Labels, labels: Labels, coarse: bool) -> dict[str, Any]:
    if coarse:
        answers, labels = _PARENT[answers], _PARENT[labels]
    present = np.unique(labels)
    recall = [float((answers[labels == label] == label).mean()) for label in present]
    return {
        "n": len(labels),
        "weighted_f1": float(f1_score(labels, answers, labels=present, average="weighted", zero_division=0)),
        "balanced_accuracy": float(np.mean(recall)),
    }


def few_shot(values: Floats, labels: Labels, groups: NDArray[Any], shots: int, draws: int) -> dict[str, Any] | None:
    """Fit a logistic regression to `shots` cells of each class, and judge it on cells of other groups, over draws.

    Returns:
        Mean balanced accuracy and its standard deviation over draws; None if a class has too few cells.
    """
    scores = []
    for draw in range(draws):
        order = np.random.default_rng([draw, shots]).permutation(len(labels))
        support = np.concatenate([order[labels[order] == label][:shots] for label in np.unique(labels)])
        others = order[~np.isin(groups[order], groups[support])]
        if len(support) < shots * len(np.unique(labels)) or len(np.unique(labels[others])) < len(np.unique(labels)):
            return None
        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(values[support], labels[support])
        scores.append(balanced_accuracy_score(labels[others], fitted.predict(values[others])))
    return {"balanced_accuracy": float(np.mean(scores)), "sd": float(np.std(scores)), "draws": draws}


def check_needs(arguments: argparse.Namespace) -> None:
    """Check nothing: what is missing is reported when it is used."""
