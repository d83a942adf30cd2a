"""How well a random forest predicts the class of a test cell from the image without the cell (`dataset.shortcuts`)."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from ..augmentation import background
from ..augmentation.draws import uniform
from ..curation.splits import SPLITS
from ..curation.squares import content_box
from ..dataset import shortcuts
from ..dataset.inspection import FileTask, inspect
from ..dataset.reading import CellDataset
from ..dataset.statistics import load_context
from ..workers import LocalWorkers, progress
from . import derived

_BATCH = 64  # images whose background is randomized at a time


def stored_background_accuracy(data: CellDataset, seed: int, num_proc: int) -> dict[str, Any]:
    """Measure every feature of `dataset.shortcuts` on the images as they are stored."""
    files = [file for split in (SPLITS[0], SPLITS[2]) for file in data.files(derived.CONFIG, split)]
    with tempfile.TemporaryDirectory() as folder:
        with LocalWorkers(num_proc) as workers, progress("inspecting", len(files), "file") as advance:
            reports = []
            for report in workers.run(inspect, (FileTask(file, data.image_size, Path(folder)) for file in files)):
                reports.append(report)
                advance(1)
        reports.sort(key=lambda report: report.path)
        return shortcuts.audit(load_context(reports, SPLITS[0]), load_context(reports, SPLITS[2]), seed, num_proc)


def background_accuracy(
    data: CellDataset,
    share: float,
    view: float,
    seed: int,
    num_proc: int,
    features: Sequence[str] = ("ring", "background"),
) -> dict[str, Any]:
    """Measure some features on the middle `view` of the images, with the background of a `share` of them randomized."""
    train, test = (
        _features(data, split, share, view, seed + number) for number, split in enumerate((SPLITS[0], SPLITS[2]))
    )  # test has draws of its own
    return shortcuts.audit(train, test, seed, num_proc, features)


def _features(data: CellDataset, split: str, share: float, view: float, seed: int) -> shortcuts.CellContext:
    rows = derived.originals(data, split)
    side = round(view * data.image_size)
    draws = uniform(torch.arange(rows.num_rows), background.DRAWS, seed)
    rings: list[shortcuts.Features] = []
    with progress(f"background of {split}", rows.num_rows, "image") as advance:
        for start in range(0, rows.num_rows, _BATCH):
            batch = rows.slice(start, _BATCH).to_pylist()
            images = torch.stack([functional.pil_to_tensor(derived.decoded(row)) for row in batch])
            pixels = functional.center_crop(images, [side])
            pixels = background.randomize_background(pixels, draws[start : start + _BATCH], share)
            for square, row in zip(pixels.round().to(torch.uint8), batch, strict=True):
                content = content_box(row["width"], row["height"], side) if view == 1 else (0, 0, side, side)
                rings.append(shortcuts.ring(functional.to_pil_image(square).crop(content)))
            advance(len(batch))
    return shortcuts.CellContext(rows.drop_columns(["image"]), np.stack(rings))
