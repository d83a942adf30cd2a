"""Measure a calibrated model: probabilities, prediction sets, out-of-distribution images, and new microscopes."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import softmax

from ..errors import CelluScanError
from ..evaluation import plots
from ..evaluation.cells import load_cells_of_sources, load_cells_of_split
from ..evaluation.job import describe_model
from ..evaluation.predictions import FACTS, Predictions
from ..evaluation.selective_metrics import calibration_metrics, risk_coverage, set_metrics
from ..inference.loading import load_reliability
from ..modeling.reliability_celluscan import Reliability
from ..reliability.calibrate import load_folder, run_model
from ..reliability.examine import SCORES, detection_rates, ood_scores, outputs_of, recalibration_gain
from . import ood_sets

_EACH = 150  # images of each changed stain
_SEED = 0  # of samples and of generated images


def reliability(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the test split, and the detection rates of out-of-distribution images."""
    model, processor = load_folder(arguments.model)
    reliability = _reliability(model)
    cells = load_cells_of_split(arguments.dataset, "test")
    outputs = run_model(cells.kept, model, processor)
    facts = {name: [getattr(cell, name) for cell in cells.kept] for name in FACTS}
    predictions = Predictions(facts, outputs.labels, softmax(outputs.logits, axis=1).astype(np.float32))
    curve, uncalibrated = risk_coverage(predictions), outputs.logits * reliability.record["total_temperature"]
    if arguments.json:
        plots.calibration_change(
            uncalibrated, outputs.logits, outputs.labels, "test", arguments.json.with_suffix(".png")
        )
        plots.risk_coverage(curve, arguments.json.with_name("risk-coverage.png"))
    answered = predictions.confidence >= reliability.confidence_threshold
    return {
        "seed": _SEED,
        "data": cells.described,
        "weights": describe_model(arguments.model, model, processor)["sha256"],
        "temperature": reliability.record["total_temperature"],
        "test": {
            "n": len(predictions),
            "before": calibration_metrics(uncalibrated, outputs.labels),
            "after": calibration_metrics(outputs.logits, outputs.labels),
        },
        "sets": [row for by_class in (False, True) for row in set_metrics(predictions, reliability, by_class)],
        "aurc": curve["aurc"],
        "confident_answers": {
            "confidence_threshold": reliability.confidence_threshold,
            "share": float(answered.mean()),
            "right": float((predictions.predicted == predictions.labels)[answered].mean()),
        },
        "ood_sets": _ood_detection(arguments, model, processor, reliability),
    }


def _ood_detection(
    arguments: argparse.Namespace, model: Any, processor: Any, reliability: Reliability
) -> dict[str, Any]:
    validation, test = (load_cells_of_split(arguments.dataset, name).kept for name in ("validation", "test"))
    chosen = np.random.default_rng(_SEED).permutation(len(validation))[:_EACH]
    sample = [validation[row].read() for row in chosen.tolist()]
    scored = {
        name: ood_scores(outputs_of((cell.read for cell in cells), model, processor), reliability)
        for name, cells in (("validation", validation), ("test", test))
    }
    numbers = {"test": len(test)}
    for name, images in _image_sets(arguments, sample):
        scored[name] = ood_scores(outputs_of((image.copy for image in images), model, processor), reliability)
        numbers[name] = len(images)
    names = {"test": "test cells, false alarms"}
    return {
        names.get(name, name): {
            score: detection_rates(scored[name][score], scored["validation"][score], scored["test"][score])
            for score in SCORES
        }
        | {"n": number}
        for name, number in numbers.items()
    }


def _image_sets(arguments: argparse.Namespace, sample: list[Image.Image]) -> Iterator[tuple[str, list[Image.Image]]]:
    yield "synthetic cells", list(ood_sets.synthetic_cells(10))
    if arguments.bccd:
        yield "red cells", list(ood_sets.bccd_red_cells(arguments.bccd))
    for name, change in ood_sets.STAINS.items():
        yield name, [change(cell) for cell in sample]
    yield "noise", list(ood_sets.noise(100))
    from sklearn.datasets import load_sample_images  # two photographs, which come with it

    yield (
        "photographs",
        list(ood_sets.random_crops([Image.fromarray(pixels) for pixels in load_sample_images().images], 50)),
    )


def recalibration(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the other cells of a source, before and after fitting to some of them."""
    model, processor = load_folder(arguments.model)
    reliability = _reliability(model)
    with tempfile.TemporaryDirectory() as scratch:
        cells = load_cells_of_sources([arguments.source], Path(scratch))
        outputs = run_model(cells.kept, model, processor)
    groups = np.unique([cell.group_id for cell in cells.kept], return_inverse=True)[1]
    return {
        "seed": _SEED,
        "data": cells.described,
        "weights": describe_model(arguments.model, model, processor)["sha256"],
        "cells": len(outputs.labels),
        "groups": int(groups.max()) + 1,
        "uncalibrated": calibration_metrics(outputs.logits * reliability.record["total_temperature"], outputs.labels),
        "all": calibration_metrics(outputs.logits, outputs.labels),
        "out_of_distribution": float((reliability.ood_score(outputs.features) > reliability.ood_threshold).mean()),
        "sizes": recalibration_gain(outputs, groups, arguments.sizes, arguments.draws, _SEED),
    }


def _reliability(model: Any) -> Reliability:
    reliability = load_reliability(model)
    if reliability is None:
        raise CelluScanError("the model was not calibrated: run celluscan calibrate MODEL --dataset FOLDER")
    return reliability


def check_needs(arguments: argparse.Namespace) -> None:
    """Check nothing: what is missing is reported when it is used."""
