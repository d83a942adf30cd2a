"""Fold temperature and bias into the head of a checkpoint on disk, so that any reader gets calibrated logits."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ..atomic_io import atomic_write
from ..errors import CelluScanError
from ..modeling.checkpoints import INDEX, WEIGHTS
from .temperature import Adjustment

_HEADS = ("classifier.linear.", "classifier.")  # of ours, of transformers' ViT


def fold(folder: Path, adjustment: Adjustment) -> None:
    """Apply an adjustment to the head of a checkpoint folder: W / T, and b / T + its bias.

    Only the file that holds the head is written, atomically; all other tensors stay bit for bit as they are.

    Raises:
        CelluScanError: The folder has no safetensors file with a head of that many classes.
    """
    prefix, file = _find_head(folder)
    tensors = load_file(file)
    weight, bias = tensors[f"{prefix}weight"], tensors.get(f"{prefix}bias")
    if bias is None or len(bias) != len(adjustment.bias):
        count = None if bias is None else len(bias)
        raise CelluScanError(f"{file}: expected {prefix}bias of {len(adjustment.bias)} classes, got {count}")
    shift = torch.from_numpy(adjustment.bias)
    tensors[f"{prefix}weight"] = (weight.double() / adjustment.temperature).to(weight.dtype)
    tensors[f"{prefix}bias"] = (bias.double() / adjustment.temperature + shift).to(bias.dtype)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {"format": "pt"}
    with atomic_write(file) as partial:
        save_file(tensors, partial, metadata)


def _find_head(folder: Path) -> tuple[str, Path]:
    """Find the prefix of the head's tensors and the file that holds them."""
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
    weight_map = json.loads((folder / INDEX).read_text("utf-8"))["weight_map"]
    return [folder / Path(name).name for name in sorted(set(weight_map.values()))]
