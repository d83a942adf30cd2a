"""How far to trust a calibrated model: its probabilities, its sets, what is strange to it, and new microscopes."""

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
from ..evaluation.job import described_model
from ..evaluation.predictions import FACTS, Predictions
from ..evaluation.selective_metrics import risk_coverage, scalars, sets
from ..inference.loading import load_reliability
from ..modeling.reliability_celluscan import Reliability
from ..reliability import strangers
from ..reliability.calibrate import load_folder, run_model
from ..reliability.examine import SCORES, noticed, ood_scores, outputs_of, recalibration_gain
from ..space import stain

_EACH = 150  # pictures of a kind
_SEED = 0  # of draws, and of what is made up


def reliability(arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of the test split, and the shares of strange pictures that are noticed."""
    model, processor = load_folder(arguments.model)
    known = _known(model)
    cells = load_cells_of_split(arguments.dataset, "test")
    seen = run_model(cells.kept, model, processor)
    facts = {name: [getattr(cell, name) for cell in cells.kept] for name in FACTS}
    found = Predictions(facts, seen.labels, softmax(seen.logits, axis=1).astype(np.float32))
    curve, uncalibrated = risk_coverage(found), seen.logits * known.record["total_temperature"]
    if arguments.json:
        plots.calibrated(uncalibrated, seen.logits, seen.labels, "test", arguments.json.with_suffix(".png"))
        plots.risk_coverage(curve, arguments.json.with_name("risk-coverage.png"))
    answered = found.confidence >= known.confidence_threshold
    return {
        "seed": _SEED,
        "data": cells.described,
        "weights": described_model(arguments.model, model, processor)["sha256"],
        "temperature": known.record["total_temperature"],
        "test": {
            "n": len(found),
            "before": scalars(uncalibrated, seen.labels),
            "after": scalars(seen.logits, seen.labels),
        },
        "sets": [*sets(found, known), *sets(found, known, by_class=True)],
        "aurc": curve["aurc"],
        "plain_answers": {
            "least_probability": known.confidence_threshold,
            "share": float(answered.mean()),
            "right": float((found.predicted == found.labels)[answered].mean()),
        },
        "strangers": _strangers(arguments, model, processor, known),
    }


def _strangers(arguments: argparse.Namespace, model: Any, processor: Any, known: Reliability) -> dict[str, Any]:
    validation, test = (load_cells_of_split(arguments.dataset, name).kept for name in ("validation", "test"))
    chosen = np.random.default_rng(_SEED).permutation(len(validation))[:_EACH]
    usual = [validation[row].read() for row in chosen.tolist()]
    scored = {
        name: ood_scores(outputs_of((cell.read for cell in cells), model, processor), known)
        for name, cells in (("validation", validation), ("test", test))
    }
    rows: dict[str, dict[str, Any]] = {}
    for name, pictures in _kinds(arguments, usual):
        scores = ood_scores(outputs_of((one.copy for one in pictures), model, processor), known)
        rows[name] = {one: noticed(scores[one], scored["validation"][one], scored["test"][one]) for one in SCORES}
        rows[name] |= {"n": len(pictures), "stain": float(np.mean([stain.doubt(one) is not None for one in pictures]))}
    own = {one: noticed(scored["test"][one], scored["validation"][one], scored["test"][one]) for one in SCORES}
    stained = float(np.mean([stain.doubt(cell.read()) is not None for cell in test]))
    return {"test cells, false alarms": own | {"n": len(test), "stain": stained}, **rows}


def _kinds(arguments: argparse.Namespace, usual: list[Image.Image]) -> Iterator[tuple[str, list[Image.Image]]]:
    yield "drawn cells", list(strangers.drawn_cells(10))
    if arguments.bccd:
        yield "red cells", list(strangers.red_cells_of(arguments.bccd))
    for name, change in strangers.STAINS.items():
        yield name, [change(cell) for cell in usual]
    yield "noise", list(strangers.noise(100))
    from sklearn.datasets import load_sample_images  # two photographs, which come with it

    yield "photographs", list(strangers.pieces([Image.fromarray(one) for one in load_sample_images().images], 50))


def recalibration(arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures on the other cells of a source, before and after fitting to some of them."""
    model, processor = load_folder(arguments.model)
    known = _known(model)
    with tempfile.TemporaryDirectory() as scratch:
        cells = load_cells_of_sources([arguments.source], Path(scratch))
        seen = run_model(cells.kept, model, processor)
    groups = np.unique([cell.group_id for cell in cells.kept], return_inverse=True)[1]
    return {
        "seed": _SEED,
        "data": cells.described,
        "weights": described_model(arguments.model, model, processor)["sha256"],
        "cells": len(seen.labels),
        "groups": int(groups.max()) + 1,
        "uncalibrated": scalars(seen.logits * known.record["total_temperature"], seen.labels),
        "all": scalars(seen.logits, seen.labels),
        "strange": float((known.ood_score(seen.features) > known.ood_threshold).mean()),
        "sizes": recalibration_gain(seen, groups, arguments.sizes, arguments.draws, _SEED),
    }


def _known(model: Any) -> Reliability:
    known = load_reliability(model)
    if known is None:
        raise CelluScanError("the model was not calibrated: run celluscan calibrate MODEL --dataset FOLDER")
    return known


def check_needs(arguments: argparse.Namespace) -> None:
    """What is missing is said when it is asked for."""
