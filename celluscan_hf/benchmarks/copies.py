"""Share of copies of real cells that the build detects: rotated and re-encoded ones, and other kinds of change."""

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..curation.decoding import decode
from ..curation.duplicates import near_duplicates
from ..curation.fingerprints import perceptual_hashes
from ..curation.orientation import ORIENTATIONS, UPRIGHT, Orientation
from ..curation.squares import content_box, square
from ..errors import CelluScanError

_SIZE = 224  # pixels, as in the dataset
_AUGMENTED = 5  # copies by TrivialAugmentWide of each cell
Copy = Callable[[Image.Image, np.random.Generator], Image.Image]


def copies(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure which share of copies is found as near duplicates, by kind, and how many different cells are paired."""
    originals = list(_cells(arguments.pbc, arguments.count))
    kinds = {f"{turn.name}, other size and JPEG quality": _re_encoded(turn) for turn in ORIENTATIONS[1:]}
    rotated = {kind: _detect(originals, {kind: make}) for kind, make in kinds.items()}
    others = {kind: _detect(originals, {kind: make}) for kind, make in _OTHERS.items()}
    augmented = _detect(originals, {f"{number}": _trivial_augment for number in range(_AUGMENTED)})
    return {
        "cells": len(originals),
        "pairs_among_all_originals": _pairs_among(list(_cells(arguments.pbc, None))),
        "turned": rotated,
        "not_what_it_is_made_for": {**others, f"TrivialAugmentWide, {_AUGMENTED} copies a cell": augmented},
    }


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if the source images are missing."""
    if not arguments.pbc.is_dir():
        raise CelluScanError(f"{arguments.pbc} does not exist; give the folder of PBC with --pbc")


def _cells(pbc: Path, count: int | None) -> Iterator[Image.Image]:
    files = sorted(path for path in pbc.rglob("*.jpg") if not path.name.startswith("."))
    for number in np.random.default_rng(0).choice(len(files), min(count or len(files), len(files)), replace=False):
        yield decode(files[number].read_bytes()).image


def _detect(originals: list[Image.Image], kinds: dict[str, Copy]) -> dict[str, float]:
    """Search the originals and their copies together for near duplicates."""
    rng = np.random.default_rng(1)
    copies = [make(image, rng) for make in kinds.values() for image in originals]
    contents = [_content(image) for image in (*originals, *copies)]
    hashes = np.array([perceptual_hashes(content.convert("L")) for content in contents], np.uint64)
    pairs = [
        (pair.first % len(originals), pair.second % len(originals), pair.second)
        for pair in near_duplicates(hashes, contents.__getitem__)
    ]
    detected = {second for cell, copied, second in pairs if cell == copied}
    return {
        "copies": len(copies),
        "found": len(detected),
        "share": round(len(detected) / len(copies), 3),
        "pairs_of_different_cells": sum(cell != copied for cell, copied, _ in pairs),
    }


def _pairs_among(originals: list[Image.Image]) -> dict[str, int]:
    """Count near pairs among images that are not copies of each other, as they stand and turned."""
    contents = [_content(image) for image in originals]
    hashes = np.array([perceptual_hashes(content.convert("L")) for content in contents], np.uint64)
    upright = [pair.orientation is UPRIGHT for pair in near_duplicates(hashes, contents.__getitem__)]
    return {"images": len(originals), "upright": sum(upright), "turned": len(upright) - sum(upright)}


def _content(image: Image.Image) -> Image.Image:
    """Return what the build compares: the image resized as for the dataset, without padding."""
    return Image.fromarray(square(image, _SIZE)).crop(content_box(*image.size, _SIZE))


def _re_encoded(turn: Orientation) -> Copy:
    def make(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        side = int(rng.integers(100, 400))
        rotated = image.transpose(Image.Transpose[turn.name.upper()]).resize((side, side), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        rotated.save(buffer, "JPEG", quality=int(rng.integers(50, 95)))
        return decode(buffer.getvalue()).image

    return make


def _rotated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.rotate(int(rng.integers(10, 80)), Image.Resampling.BILINEAR, fillcolor=image.getpixel((2, 2)))


def _cropped(share: float) -> Copy:
    def make(image: Image.Image, rng: np.random.Generator) -> Image.Image:
        width, height = (round(side * share) for side in image.size)
        left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
        return image.crop((left, top, left + width, top + height))

    return make


def _recoloured(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    shift = int(rng.integers(20, 236))
    shifted = hue.point(lambda level: (level + shift) % 256)
    return Image.merge("HSV", (shifted, saturation, value)).convert("RGB")


def _trivial_augment(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    import torch
    from torchvision.transforms.v2 import TrivialAugmentWide

    torch.manual_seed(int(rng.integers(2**31)))
    augmented: Image.Image = TrivialAugmentWide()(image)
    return augmented


_OTHERS: dict[str, Copy] = {
    "turned by 10 to 80 degrees": _rotated,
    "cropped to 0.95 of each side": _cropped(0.95),
    "cropped to 0.9 of each side": _cropped(0.9),
    "cropped to 0.8 of each side": _cropped(0.8),
    "hue turned by 28 degrees and more": _recoloured,
}
