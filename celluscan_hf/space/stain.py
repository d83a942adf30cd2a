"""Check by its colours whether an image can show a stained blood cell at all.

This keeps photographs, drawings and noise from being classified as a cell. It does not detect unknown cells. Other
stains fail the check as well, on purpose: the models know only Wright-Giemsa and related stains.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

_SIDE = 96  # pixels; colours need no more
_VIOLET = (215.0, 330.0)  # degrees of hue: what the stain makes of nuclei, granules and platelets
_FOREIGN = (60.0, 200.0)  # yellow-green to cyan: no part of a stained smear
# Measured on the cells of PBC and AML-Cytomorphology_LMU and the fields of BCCD, beside photographs: violet is 0.009 to
# 0.34 of a cell's image (a platelet has the least), foreign at most 0.001, light 0.6 to 1.
LEAST_VIOLET, MOST_FOREIGN, LEAST_LIGHT = 0.004, 0.02, 0.4


@dataclass(frozen=True)
class Colours:
    """Shares of an image's pixels, 0 to 1: violet stain, colours foreign to smears, and light like plasma."""

    violet: float
    foreign: float
    light: float


def colours(image: Image.Image) -> Colours:
    """Compute the shares of an RGB image."""
    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).convert("HSV")
    hue, saturation, value = (np.asarray(small, np.float32) * (360 / 255, 1 / 255, 1 / 255)).transpose(2, 0, 1)
    violet = (hue >= _VIOLET[0]) & (hue <= _VIOLET[1]) & (saturation > 0.28) & (value < 0.8)
    foreign = (hue > _FOREIGN[0]) & (hue < _FOREIGN[1]) & (saturation > 0.18)
    light = (value > 0.6) & (saturation < 0.5)
    return Colours(float(violet.mean()), float(foreign.mean()), float(light.mean()))


def doubt(image: Image.Image) -> str | None:
    """Return why an image does not look like a stained blood cell; None if it does."""
    shares = colours(image)
    if shares.foreign > MOST_FOREIGN:
        return "it has colours that do not occur in stained smears"
    if shares.light < LEAST_LIGHT:
        return "it lacks the light background of a smear"
    if shares.violet < LEAST_VIOLET:
        return "nothing in it is stained violet, as nuclei and platelets are"
    return None
