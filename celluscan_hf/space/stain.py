"""Whether a picture can be a stained blood cell at all: three shares of its colours, against what smears look like.

It keeps photographs, drawings and noise from being named as a cell. It is not a detector of unknown cells, and other
stains fail it as well, which is meant: the models know Wright-Giemsa and its kin only.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

_SIDE = 96  # pixels; colours need no more
_VIOLET = (215.0, 330.0)  # degrees of hue: what the stain makes of nuclei, granules and platelets
_FOREIGN = (60.0, 200.0)  # yellow-green to cyan: no part of a stained smear
# Measured on the cells of PBC and AML-Cytomorphology_LMU and the fields of BCCD, beside photographs: violet is 0.009 to
# 0.34 of a cell's picture (a platelet has the least), foreign at most 0.001, light 0.6 to 1.
LEAST_VIOLET, MOST_FOREIGN, LEAST_LIGHT = 0.004, 0.02, 0.4


@dataclass(frozen=True)
class Colours:
    """Shares of a picture's pixels, 0 to 1: stained violet, of a colour that no smear has, light as the plasma is."""

    violet: float
    foreign: float
    light: float


def colours(image: Image.Image) -> Colours:
    """The shares of an RGB picture."""
    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).convert("HSV")
    hue, saturation, value = (np.asarray(small, np.float32) * (360 / 255, 1 / 255, 1 / 255)).transpose(2, 0, 1)
    violet = (hue >= _VIOLET[0]) & (hue <= _VIOLET[1]) & (saturation > 0.28) & (value < 0.8)
    foreign = (hue > _FOREIGN[0]) & (hue < _FOREIGN[1]) & (saturation > 0.18)
    light = (value > 0.6) & (saturation < 0.5)
    return Colours(float(violet.mean()), float(foreign.mean()), float(light.mean()))


def doubt(image: Image.Image) -> str | None:
    """Why a picture does not look like a stained blood cell, in words; None where it does."""
    seen = colours(image)
    if seen.foreign > MOST_FOREIGN:
        return "it has colours that no stained smear has"
    if seen.light < LEAST_LIGHT:
        return "it lacks the light background of a smear"
    if seen.violet < LEAST_VIOLET:
        return "nothing in it is stained violet, as nuclei and platelets are"
    return None
