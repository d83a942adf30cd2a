"""Decide whether an image shows a stained single cell at all, whatever the laboratory, lamp and camera.

Red cells alone, empty fields, photographs, drawings, noise, negatives, turned hues and grey images are refused; a model
would assign them to one of its classes. Whether a cell is unlike those of the training laboratories is another
question, which the OOD score answers.

Everything is measured in optical density relative to the field, the light that passes beside the cells: the logarithm
of a white balance or an exposure is a sum, which cancels. Wright-Giemsa stain absorbs red and green clearly and blue
less (Ruifrok & Johnston 2001); red cells absorb blue about as much as green. `FEATURES` describe colours and structure;
a logistic regression on them (`stain_weights_celluscan.py`) gives a probability to a stained cell and to each of the
other `KINDS`. It has no squares: with them it refused a laboratory whose stain was bluer than any of the fit.
`celluscan benchmark stain` fits and measures it.

This file is shipped with every checkpoint as remote code, so it stands alone but for the weights beside it.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .stain_weights_celluscan import CENTRES, SCALES, THRESHOLD, WEIGHTS

_TURNED = "its colours are not those of a stained smear"
KINDS = {  # with the reason to refuse an image, as the end of a sentence
    "cell": "",
    "unstained": "nothing in it is stained, as nuclei and platelets are",
    "turned to red": _TURNED,
    "turned to green": _TURNED,
    "turned to blue": _TURNED,
    "negative": "it looks like a negative",
    "grey": "it has no colours",
    "photograph": "it looks like a photograph",
    "drawing": "it looks like a drawing, a plot or text",
    "noise": "it looks like noise",
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
        smooth = np.asarray(small.filter(ImageFilter.BoxBlur(1)))  # without the camera's noise
        light = smooth.reshape(-1, 3).astype(np.float32) + _DARK  # (pixels, 3)
        field = np.partition(light, _rank(light, _FIELD), axis=0)[_rank(light, _FIELD)]
        black = (self.levels.max(axis=2) < _BLACK * field.max()).reshape(SIDE, SIDE)
        black = _widened(_widened(black).T).T
        self.all: Plane = np.log(field / light)  # (pixels, 3)
        self.all[black.ravel()] = 0
        self.red, self.green, self.blue = (np.ascontiguousarray(part.reshape(SIDE, SIDE)) for part in self.all.T)
        self.stain: Plane = np.minimum(self.red, self.green - self.blue)
        ordered = np.sort(self.stain, axis=None)
        self.strongest, self.rest = (float(ordered[_rank(ordered, share)]) for share in (0.995, 0.9))
        most_stained = self.stain.ravel() >= ordered[_rank(ordered, 0.985)]
        self.direction = _direction(self.all[most_stained].mean(axis=0), 0.05)  # (3,)
        self.overall = _direction(self.all.clip(0).mean(axis=0), 0.02)
        sharp = np.where(black, 0, np.log(field[1] / (self.levels[..., 1] + np.float32(_DARK))))
        self.steps: Plane = np.abs(np.diff(sharp, axis=1)[:-1]) + np.abs(np.diff(sharp, axis=0)[:, :-1])


def _rank(ordered: NDArray[np.floating], share: float) -> int:
    return int(share * len(ordered))


def _widened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Add two rows on either side of what is set, where a resized edge is blurred."""
    wide = mask.copy()
    for rows in (1, 2):
        wide[rows:] |= mask[:-rows]
        wide[:-rows] |= mask[rows:]
    return wide


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


def _log(density: float) -> float:
    """Take the logarithm of a density: differences count where there is little."""
    return math.log(max(density, 0.0) + 0.04)


def _violet(of: Densities) -> float:
    """Measure how much less blue than red and green is absorbed by what absorbs red most, against the whole image."""
    violet = (of.red + of.green) / 2 - of.blue
    most = np.partition(of.red, _rank(of.red.ravel(), 0.98), axis=None)[_rank(of.red.ravel(), 0.98)]
    return _log(float(violet[of.red >= most].mean()) - float(np.median(violet)))


def _border(of: Densities) -> float:
    """Compare the stain at the border of the image with that in its middle; positive if the border has more."""
    edge, middle = SIDE // 12, SIDE // 4
    stain = of.stain.clip(0)
    inner, centre = stain[edge:-edge, edge:-edge], stain[middle:-middle, middle:-middle]
    border = (float(stain.sum()) - float(inner.sum())) / (stain.size - inner.size)
    return (border - float(centre.mean())) / (max(of.strongest, 0.0) + 0.1)


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


def _flat(of: Densities) -> float:
    """Return the share of absorbing pixels that equal their neighbour: a camera gives few, a drawing many."""
    absorbing = of.green[:, 1:] > 0.2
    equal = (of.levels[:, 1:] == of.levels[:, :-1]).all(axis=2)
    return float((equal & absorbing).sum()) / (float(absorbing.sum()) + 20)


def _colours(of: Densities) -> float:
    red, green, blue = (of.levels >> 4).astype(np.int64).transpose(2, 0, 1)
    return math.log(np.count_nonzero(np.bincount((red * 256 + green * 16 + blue).ravel(), minlength=4096)))


FEATURES: dict[str, Callable[[Densities], float]] = {
    "strongest stain": lambda of: _log(of.strongest),
    "stain above the rest": lambda of: _log(of.strongest - of.rest),
    "violet": _violet,
    "stain against absorption": lambda of: (
        of.strongest / (float(np.partition(of.green, -SIDE * SIDE // 10, axis=None)[-SIDE * SIDE // 10]) + 0.1)
    ),
    "red in the stain": lambda of: float(of.direction[0]),
    "blue in the stain": lambda of: float(of.direction[2]),
    "red against green": lambda of: float(of.overall[0] - of.overall[1]),
    "blue against green": lambda of: float(of.overall[2] - of.overall[1]),
    "spread of colours": _spread,
    "orange share": lambda of: float((of.blue > of.green + 0.25).mean()),
    "detail": lambda of: float(of.steps.mean()) / (float(of.green.std()) + 0.02),
    "edges": _edges,
    "flat cells": _flat,
    "stain of border against middle": _border,
    "detail of field against cells": _texture,
    "number of colours": _colours,
}


def describe(image: Image.Image) -> NDArray[np.float64]:
    """Compute the `FEATURES` of an RGB image: (features,)."""
    densities = Densities(image)
    return np.array([feature(densities) for feature in FEATURES.values()])


def standardized(features: NDArray[np.float64], centres: object, scales: object) -> NDArray[np.float64]:
    """Standardize features (n, features), limit them, and add a constant: (n, features + 1)."""
    scaled = ((features - np.asarray(centres)) / np.asarray(scales)).clip(-LIMIT, LIMIT)
    return np.hstack((scaled, np.ones((len(scaled), 1))))


def probabilities(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the probability of each of `KINDS`: features (n, features) -> (n, kinds)."""
    logits = standardized(features, CENTRES, SCALES) @ np.asarray(WEIGHTS)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    normalized: NDArray[np.float64] = shares / shares.sum(axis=1, keepdims=True)
    return normalized


def refusal(image: Image.Image) -> str | None:
    """Return why an image does not show a stained single cell; None if it does."""
    shares = probabilities(describe(image)[None])[0].tolist()
    if shares[0] >= THRESHOLD:
        return None
    reasons: dict[str, float] = {}
    for reason, share in list(zip(KINDS.values(), shares, strict=True))[1:]:
        reasons[reason] = reasons.get(reason, 0) + share
    return max(reasons, key=reasons.__getitem__)
