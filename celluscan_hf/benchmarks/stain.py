"""Fit the check for a stained cell, and measure what it refuses: of cells of each laboratory, and of other images.

It is fitted on some laboratories, its settings are chosen on others (`--validation`), and judged on others again
(`--test`), which have no part in either. Photographs, icons and drawings of the test are not those of the fit.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from ..errors import CelluScanError
from ..evaluation.intervals import wilson
from ..modeling import stain_celluscan, stain_weights_celluscan
from ..modeling.stain_celluscan import FEATURES, KINDS, describe, standardized
from . import stain_sets
from .ood_sets import synthetic_cells

INVERSE_REGULARIZATION = 5.0  # of the logistic regression, for as many images as `_IMAGES`
CELLS_WEIGH = 2.0  # than each other kind, in the fit
THRESHOLD = 0.2  # least probability of a stained cell
_IMAGES = 1000  # weights of all images of the fit sum to this
_SEEDS = {"fit": 0, "validation": 1, "test": 2}
_DRAWN = {"fit": ("shapes", "text", "lines", "bars", "map"), "test": ("shapes", "text", "pie", "points")}
_TURNED_PHOTOGRAPHS = 3  # part of the photographs that are also fitted with their hue turned
_COPY = Path(stain_weights_celluscan.__file__)

_HEADER = '''"""The numbers of the check in `stain_celluscan.py`, which `celluscan benchmark stain` fits.

`CENTRES` and `SCALES` standardize the features, in the order of `FEATURES`. `WEIGHTS` has a row for each standardized
feature and the constant, a column for each kind of image:
{kinds}.
"""
'''


@dataclass(frozen=True)
class Group:
    """Images of one origin: `part` is fit, validation or test; `features` (n, features)."""

    part: str
    name: str
    kind: str
    features: NDArray[np.float64]


def stain(arguments: argparse.Namespace) -> dict[str, Any]:
    """Fit if asked to, and measure the check as the package has it."""
    groups = list(_groups(arguments))
    if arguments.write:
        fitted = [group for group in groups if group.part == "fit"]
        _write(*fit(fitted))
    return {
        "seeds": _SEEDS,
        "threshold": stain_weights_celluscan.THRESHOLD,
        "inverse_regularization": INVERSE_REGULARIZATION,
        "cells_weigh": CELLS_WEIGH,
        "features": list(FEATURES),
        "numbers": {name: getattr(stain_weights_celluscan, name) for name in ("CENTRES", "SCALES", "WEIGHTS")},
        "groups": [_measured(group) for group in groups],
        "milliseconds": _milliseconds(),
    }


def _groups(arguments: argparse.Namespace) -> Iterator[Group]:
    for part in ("fit", "validation", "test"):
        for laboratory in getattr(arguments, part):
            name, _, folder = laboratory.partition("=")
            for group in _of_laboratory(part, name, Path(folder), arguments.count):
                yield _described(part, *group)
        if part != "validation" and getattr(arguments, part):
            for group in _made(part, arguments.count):
                yield _described(part, *group)


Images = tuple[str, str, stain_sets.Images]


def _of_laboratory(part: str, name: str, folder: Path, count: int) -> Iterator[Images]:
    seed = _SEEDS[part]
    cells = stain_sets.cells(folder, count)
    yield f"{name}: cells", "cell", cells
    yield f"{name}: cells in another light", "cell", stain_sets.changed(cells, seed)
    if part == "fit":
        yield f"{name}: cells in another stain", "cell", stain_sets.foreign(cells, seed)
        if platelets := stain_sets.cells(folder, count // 2, only="platelet"):
            yield f"{name}: platelets in another light", "cell", stain_sets.changed(platelets, seed + 10)
            yield f"{name}: platelets in another stain", "cell", stain_sets.foreign(platelets, seed + 10)
            close = [stain_sets.middle(image, 0.45) for image in platelets]
            yield f"{name}: platelets close by, in another stain", "cell", stain_sets.foreign(close, seed + 20)
    if part != "fit":
        for what in ("wbc", "platelet"):
            if named := stain_sets.cells(folder, count, only=what):
                yield f"{name}: of these, {what}", "cell", named
    few = cells[:: max(1, len(cells) // (count // 2))]
    fields = (folder / "Annotations").is_dir()
    beside = stain_sets.bccd_unstained(folder, seed) if fields else stain_sets.unstained(few, seed)
    others = {"red cells or empty field": ("unstained", beside)}
    for kind, degrees in stain_sets.HUE_TURNS.items():
        others[f"hue turned by {degrees[0]} to {degrees[-1]} degrees"] = (kind, stain_sets.turned(few, seed, degrees))
    others |= {"inverted": ("negative", stain_sets.inverted(few)), "grey": ("grey", stain_sets.grey(few))}
    for what, (kind, images) in others.items():
        yield f"{name}: {what}", kind, images
        yield f"{name}: {what}, in another light", kind, stain_sets.changed(images, seed)
    if part == "fit":
        stained = stain_sets.foreign(few, seed)
        yield f"{name}: red cells or empty field, in another stain", "unstained", stain_sets.foreign(beside, seed)
        yield f"{name}: inverted, in another stain", "negative", stain_sets.inverted(stained)
        for kind, degrees in stain_sets.HUE_TURNS.items():
            turned = stain_sets.turned(stained, seed, degrees)
            yield f"{name}: hue turned by {degrees[0]} to {degrees[-1]} degrees, in another stain", kind, turned


def _made(part: str, count: int) -> Iterator[Images]:
    seed = _SEEDS[part]
    synthetic = list(synthetic_cells(-(-count // 14), seed))
    yield "synthetic cells", "cell", synthetic
    yield "synthetic cells in another light", "cell", stain_sets.changed(synthetic, seed)
    yield "uniform", "unstained", stain_sets.uniform(count // 2, seed)
    photographs = stain_sets.photographs(part, count // 6, seed)
    yield "photographs", "photograph", photographs
    yield "photographs in another light", "photograph", stain_sets.changed(photographs, seed)
    if part == "fit":
        some = photographs[::_TURNED_PHOTOGRAPHS]
        yield "photographs in another stain", "photograph", stain_sets.foreign(some, seed)
        turns = [degrees for turns in stain_sets.HUE_TURNS.values() for degrees in turns]
        yield "photographs, hue turned", "photograph", stain_sets.turned(some, seed, turns)
    yield "drawings", "drawing", stain_sets.drawings(count, seed, _DRAWN[part])
    yield "icons", "drawing", stain_sets.icons(part)
    yield "noise", "noise", stain_sets.noises(count, seed)


def _described(part: str, name: str, kind: str, images: stain_sets.Images) -> Group:
    return Group(part, name, kind, np.array([describe(image) for image in images]))


def fit(groups: list[Group]) -> tuple[NDArray[np.float64], ...]:
    """Fit the regression: centres and scales (features,), weights (features + 1, kinds).

    Each kind weighs the same, cells `CELLS_WEIGH` times as much, and within it each group.
    """
    features = np.concatenate([group.features for group in groups])
    kinds = np.concatenate([[list(KINDS).index(group.kind)] * len(group.features) for group in groups])
    number = {kind: sum(group.kind == kind for group in groups) for kind in KINDS}
    shares = np.concatenate(
        [np.full(len(group.features), 1 / (number[group.kind] * len(group.features))) for group in groups]
    )
    shares[kinds == 0] *= CELLS_WEIGH
    centres = np.average(features, axis=0, weights=shares)
    scales = np.sqrt(np.average((features - centres) ** 2, axis=0, weights=shares))
    inputs = standardized(features, centres, scales)
    model = LogisticRegression(C=INVERSE_REGULARIZATION, fit_intercept=False, max_iter=5000)
    model.fit(inputs, kinds, sample_weight=shares * _IMAGES / len(KINDS))
    return centres, scales, model.coef_.T


def _write(centres: NDArray[np.float64], scales: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Write the numbers into the module that is shipped, and use them from now on."""
    names = (*FEATURES, "constant")
    values: dict[str, Any] = {
        "THRESHOLD": THRESHOLD,
        "CENTRES": [round(float(value), 4) for value in centres],
        "SCALES": [round(float(value), 4) for value in scales],
        "WEIGHTS": [[round(float(value), 3) for value in row] for row in weights],
    }
    rows = [f"    {row},  # {name}" for name, row in zip(names, values["WEIGHTS"], strict=True)]
    lines = [_HEADER.format(kinds=", ".join(KINDS)), f"THRESHOLD = {THRESHOLD}  # least probability of a stained cell"]
    for name in ("CENTRES", "SCALES"):
        lines += [f"{name} = [", *(f"    {value}," for value in values[name]), "]"]
    _COPY.write_text("\n".join([*lines, "WEIGHTS = [", *rows, "]", ""]), "utf-8")
    for name, value in values.items():
        setattr(stain_celluscan, name, value)
        setattr(stain_weights_celluscan, name, value)


def _measured(group: Group) -> dict[str, Any]:
    shares = stain_celluscan.probabilities(group.features)
    refused = int((shares[:, 0] < stain_weights_celluscan.THRESHOLD).sum())
    low, high = wilson(refused / len(shares), len(shares))
    return {
        "part": group.part,
        "images": group.name,
        "kind": group.kind,
        "n": len(shares),
        "refused": refused / len(shares),
        "ci95": [low, high],
    }


def _milliseconds() -> float:
    """Measure the median time for an image of 360 pixels a side."""
    image = next(synthetic_cells(1)).resize((360, 360))
    times = []
    for _ in range(50):
        started = time.perf_counter()
        stain_celluscan.refusal(image)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def check_needs(arguments: argparse.Namespace) -> None:
    """Check that each laboratory is given as NAME=FOLDER."""
    for laboratory in (*arguments.fit, *arguments.validation, *arguments.test):
        name, _, folder = laboratory.partition("=")
        if not name or not Path(folder).is_dir():
            raise CelluScanError(f"{laboratory}: expected NAME=FOLDER, with a folder of images of single cells")
