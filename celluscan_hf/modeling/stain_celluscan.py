"""Decide whether an image shows a stained single cell at all, whatever the laboratory, lamp and camera.

Red cells alone, empty fields, photographs, drawings, noise, negatives, turned hues and grey images are refused; a model
would assign them to one of its classes. Whether a cell is unlike those of the training laboratories is another
question, which the OOD score answers.

Everything is measured in optical density relative to the field, the light that passes beside the cells: the logarithm
of a white balance or an exposure is a sum, which cancels. Wright-Giemsa stain absorbs red and green clearly and blue
less (Ruifrok & Johnston 2001); red cells absorb blue about as much as green. `FEATURES` describe colours and structure;
a logistic regression on them and their squares (`stain_weights_celluscan.py`) gives a probability to a stained cell and
to each of the other `KINDS`. `celluscan benchmark stain` fits and measures it.

This file is shipped with every checkpoint as remote code, so it stands alone but for the weights beside it.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .stain_weights_celluscan import CENTRES, SCALES, THRESHOLD, WEIGHTS

CELL, UNSTAINED, COLOURS, STRUCTURE = "cell", "unstained", "colours", "structure"
KINDS = {  # with the reason to refuse an image, as the end of a sentence
    CELL: "",
    UNSTAINED: "nothing in it is stained, as nuclei and platelets are",
    COLOURS: "its colours are not those of a stained smear",
    STRUCTURE: "its structure is that of a photograph, a drawing or noise, not of a smear",
}
SIDE = 80  # pixels of the copy that is measured
LIMIT = 4.0  # standard deviations; features further out count as this
_FIELD = 0.9  # quantile of each channel: brighter is little but glare
_BLACK = 0.04  # of the field: no stain is as dark in all channels; the rim of the eyepiece or of a cut-out is
_DARK = 4.0  # added to the 8-bit values, so that black has a density
Plane = NDArray[np.float32]


class Densities:
    """An image as optical densities: natural logarithms of field over image, (SIDE, SIDE) for each channel.

    `stain` is what red cells and field lack: the red density, or the excess of green over blue, whichever is smaller.
    """

    def __init__(self, image: Image.Image) -> None:
        small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        self.levels: NDArray[np.uint8] = np.asarray(small)
        light = self.levels.reshape(-1, 3).astype(np.float32) + _DARK  # (pixels, 3)
        rank = int(_FIELD * len(light))
        self.field = np.partition(light, rank, axis=0)[rank]
        self.all: Plane = np.log(self.field / light)  # (pixels, 3)
        self.all[light.max(axis=1) - _DARK < _BLACK * self.field.max()] = 0
        self.red, self.green, self.blue = (np.ascontiguousarray(part.reshape(SIDE, SIDE)) for part in self.all.T)
        self.stain: Plane = np.minimum(self.red, self.green - self.blue)
        ordered = np.sort(self.stain, axis=None)
        self.strongest = float(ordered[int(0.995 * len(ordered))])
        most_stained = self.stain.ravel() >= ordered[int(0.985 * len(ordered))]
        self.direction = _direction(self.all[most_stained].mean(axis=0), 0.05)  # (3,)
        self.overall = _direction(self.all.clip(0).mean(axis=0), 0.02)
        self.steps: Plane = np.abs(np.diff(self.green, axis=1)[:-1]) + np.abs(np.diff(self.green, axis=0)[:, :-1])


def _direction(densities: Plane, floor: float) -> Plane:
    """Scale densities (3,) to length 1; `floor` keeps those of an empty field near 0."""
    scaled: Plane = densities / (np.linalg.norm(densities) + floor)
    return scaled


def _spread(of: Densities) -> float:
    """Measure how much the colours of absorbing pixels differ: 0 for one stain, 1 for all directions."""
    lengths = np.linalg.norm(of.all, axis=1)
    strong = lengths > 0.3 * max(float(np.partition(lengths, -len(lengths) // 20)[-len(lengths) // 20]), 0.3)
    if strong.sum() < 10:
        return 0.0
    return 1 - float(np.linalg.norm((of.all[strong] / lengths[strong, None]).mean(axis=0)))


def _border(of: Densities) -> float:
    """Compare the border of the image with its middle; positive if the border absorbs more."""
    edge, middle = SIDE // 12, SIDE // 4
    inner, centre = of.green[edge:-edge, edge:-edge], of.green[middle:-middle, middle:-middle]
    border = (float(of.green.sum()) - float(inner.sum())) / (of.green.size - inner.size)
    return (border - float(centre.mean())) / (float(of.green.std()) + 0.05)


def _texture(of: Densities) -> float:
    """Compare the detail of the light third with that of the dark third; negative for a smooth field and dark cells."""
    green = of.green[:-1, :-1]
    ordered = np.sort(green, axis=None)
    light, dark = ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]
    return math.log((of.steps[green <= light].mean() + 0.01) / (of.steps[green >= dark].mean() + 0.01))


def _edges(of: Densities) -> float:
    """Return the share of all change between neighbours that the steepest twentieth has: high for drawings."""
    ordered = np.sort(of.steps, axis=None)
    return float(ordered[-len(ordered) // 20 :].sum() / (ordered.sum() + 1))


def _colours(of: Densities) -> float:
    red, green, blue = (of.levels >> 4).astype(np.int64).transpose(2, 0, 1)
    return math.log(np.count_nonzero(np.bincount((red * 256 + green * 16 + blue).ravel(), minlength=4096)))


FEATURES: dict[str, Callable[[Densities], float]] = {
    "brighter than the field": lambda of: float((of.all.min(axis=1) < -0.15).mean()),
    "strongest stain": lambda of: of.strongest,
    "stained share": lambda of: float((of.stain > 0.5 * max(of.strongest, 0.15)).mean()),
    "stain against absorption": lambda of: (
        of.strongest / (float(np.partition(of.green, -SIDE * SIDE // 10, axis=None)[-SIDE * SIDE // 10]) + 0.1)
    ),
    "red in the stain": lambda of: float(of.direction[0]),
    "blue in the stain": lambda of: float(of.direction[2]),
    "red against green": lambda of: float(of.overall[0] - of.overall[1]),
    "blue against green": lambda of: float(of.overall[2] - of.overall[1]),
    "spread of colours": _spread,
    "greenish share": lambda of: float((of.green < np.minimum(of.red, of.blue) - 0.1).mean()),
    "orange share": lambda of: float((of.blue > of.green + 0.25).mean()),
    "detail": lambda of: float(of.steps.mean()) / (float(of.green.std()) + 0.02),
    "edges": _edges,
    "border against middle": _border,
    "detail of field against cells": _texture,
    "number of colours": _colours,
}


def describe(image: Image.Image) -> NDArray[np.float64]:
    """Compute the `FEATURES` of an RGB image: (features,)."""
    densities = Densities(image)
    return np.array([feature(densities) for feature in FEATURES.values()])


def standardized(features: NDArray[np.float64], centres: object, scales: object) -> NDArray[np.float64]:
    """Standardize features (n, features), limit them, and add their squares and a constant: (n, 2 features + 1)."""
    scaled = ((features - np.asarray(centres)) / np.asarray(scales)).clip(-LIMIT, LIMIT)
    return np.hstack((scaled, scaled**2 - 1, np.ones((len(scaled), 1))))


def probabilities(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the probability of each of `KINDS`: features (n, features) -> (n, kinds)."""
    logits = standardized(features, CENTRES, SCALES) @ np.asarray(WEIGHTS)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalized: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return normalized


def refusal(image: Image.Image) -> str | None:
    """Return why an image does not show a stained single cell; None if it does."""
    shares = probabilities(describe(image)[None])[0]
    if shares[0] >= THRESHOLD:
        return None
    return list(KINDS.values())[1 + int(shares[1:].argmax())]
