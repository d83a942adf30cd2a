"""The head of a checkpoint on disk: temperature and bias become part of its weights, for any reader."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..atomic_io import atomic_write
from ..errors import CelluScanError
from ..modeling.checkpoints import INDEX, WEIGHTS
from .temperature import Adjustment

_HEADS = ("classifier.linear.", "classifier.")  # of ours, of the library's ViT


def fold(folder: Path, adjustment: Adjustment) -> None:
    """Make the logits of a checkpoint folder those of the adjustment: W / T, and b / T + its bias.

    Only the file that holds the head is written, whole; all other tensors stay bit for bit as they are.

    Raises:
        CelluScanError: The folder has no safetensors file with a head of so many classes.
    """
    prefix, file = _find(folder)
    tensors = load_file(file)
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")
    if bias is None or len(bias) != len(adjustment.bias):
        raise CelluScanError(f"{file} has no bias of {len(adjustment.bias)} classes at {prefix}")
    added = torch.from_numpy(adjustment.bias)
    tensors[f"{prefix}weight"] = (weight.double() / adjustment.temperature).to(weight.dtype)
    tensors[f"{prefix}bias"] = (bias.double() / adjustment.temperature + added).to(bias.dtype)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {"format": "pt"}
    with atomic_write(file) as partial:
        save_file(tensors, partial, metadata)


def _find(folder: Path) -> tuple[str, Path]:
    """The prefix of the head's tensors, and the file that holds them."""
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else _shards(folder)
    for file in files:
        with safe_open(file, "pt") as opened:
            names = set(opened.keys())
        for prefix in _HEADS:
            if {f"{prefix}weight", f"{prefix}bias"} <= names:
                return prefix, file
    raise CelluScanError(f"{folder}: expected {WEIGHTS} with the tensors classifier.weight and classifier.bias")


def _shards(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        return []
    named = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    return [folder / Path(name).name for name in sorted(set(named.values()))]
