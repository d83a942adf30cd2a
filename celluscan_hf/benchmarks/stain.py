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
from ..modeling.stain_celluscan import CELL, COLOURS, FEATURES, KINDS, STRUCTURE, UNSTAINED, describe, standardized
from . import stain_sets
from .ood_sets import synthetic_cells

INVERSE_REGULARIZATION = 2.0  # of the logistic regression, for as many images as `_IMAGES`
THRESHOLD = 0.15  # least probability of a stained cell
_IMAGES = 1000  # weights of all images of the fit sum to this
_SEEDS = {"fit": 0, "validation": 1, "test": 2}
_DRAWN = {"fit": ("shapes", "text", "lines"), "test": ("shapes", "text", "bars", "map")}
_TURNED_PHOTOGRAPHS = 3  # part of the photographs that are also fitted with their hue turned
_COPY = Path(stain_weights_celluscan.__file__)

_HEADER = '''"""The numbers of the check in `stain_celluscan.py`, which `celluscan benchmark stain` fits.

`CENTRES` and `SCALES` standardize the features, in the order of `FEATURES`. `WEIGHTS` has a row for each standardized
feature, each square, and the constant; a column for each kind: {kinds}.
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
    few = cells[:: max(1, len(cells) // (count // 2))]
    yield f"{name}: cells", CELL, cells
    yield f"{name}: cells in another light", CELL, stain_sets.changed(cells, seed)
    fields = (folder / "Annotations").is_dir()
    beside = stain_sets.bccd_unstained(folder, seed) if fields else stain_sets.unstained(few, seed)
    yield f"{name}: red cells or empty field", UNSTAINED, beside
    yield f"{name}: the same in another light", UNSTAINED, stain_sets.changed(beside, seed)
    turned = stain_sets.turned(few, seed)
    yield f"{name}: hue turned by 90 to 270 degrees", COLOURS, turned
    yield f"{name}: inverted", COLOURS, stain_sets.inverted(few)
    yield f"{name}: grey", COLOURS, stain_sets.grey(few)
    if part == "fit":
        yield f"{name}: hue turned, in another light", COLOURS, stain_sets.changed(turned, seed)
        yield f"{name}: inverted, in another light", COLOURS, stain_sets.changed(stain_sets.inverted(few), seed)


def _made(part: str, count: int) -> Iterator[Images]:
    seed = _SEEDS[part]
    synthetic = list(synthetic_cells(-(-count // 14), seed))
    yield "synthetic cells", CELL, synthetic
    yield "synthetic cells in another light", CELL, stain_sets.changed(synthetic, seed)
    yield "uniform", UNSTAINED, stain_sets.uniform(count // 2, seed)
    photographs = stain_sets.photographs(part, count // 6, seed)
    yield "photographs", STRUCTURE, photographs
    if part == "fit":
        yield "photographs in another light", STRUCTURE, stain_sets.changed(photographs, seed)
        some = photographs[::_TURNED_PHOTOGRAPHS]
        yield "photographs, hue turned", STRUCTURE, stain_sets.turned(some, seed)
    yield "drawings", STRUCTURE, stain_sets.drawings(count, seed, _DRAWN[part])
    yield "icons", STRUCTURE, stain_sets.icons(part)
    yield "noise", STRUCTURE, stain_sets.noises(count, seed)


def _described(part: str, name: str, kind: str, images: stain_sets.Images) -> Group:
    return Group(part, name, kind, np.array([describe(image) for image in images]))


def fit(groups: list[Group]) -> tuple[NDArray[np.float64], ...]:
    """Fit the regression: centres and scales (features,), weights (2 features + 1, kinds).

    Each kind weighs the same, and within it each group.
    """
    features = np.concatenate([group.features for group in groups])
    kinds = np.concatenate([[list(KINDS).index(group.kind)] * len(group.features) for group in groups])
    number = {kind: sum(group.kind == kind for group in groups) for kind in KINDS}
    shares = np.concatenate(
        [np.full(len(group.features), 1 / (number[group.kind] * len(group.features))) for group in groups]
    )
    centres = np.average(features, axis=0, weights=shares)
    scales = np.sqrt(np.average((features - centres) ** 2, axis=0, weights=shares))
    inputs = standardized(features, centres, scales)
    model = LogisticRegression(C=INVERSE_REGULARIZATION, fit_intercept=False, max_iter=5000)
    model.fit(inputs, kinds, sample_weight=shares * _IMAGES / len(KINDS))
    return centres, scales, model.coef_.T


def _write(centres: NDArray[np.float64], scales: NDArray[np.float64], weights: NDArray[np.float64]) -> None:
    """Write the numbers into the module that is shipped, and use them from now on."""
    names = (*FEATURES, *(f"{name}, squared" for name in FEATURES), "constant")
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
