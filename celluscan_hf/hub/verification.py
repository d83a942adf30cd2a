"""Whether what is published works for those who have public packages alone: looked at in a clean process.

The same checks run on a folder before it is uploaded, and on the repository afterwards.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import DatasetCard
from PIL import Image
from safetensors.torch import save_file

from .. import taxonomy
from ..errors import CelluScanError
from ..inference.loading import load_classifier
from ..sources.drawing import draw_cell

_PROGRAM = Path(__file__).with_name("clean_process.py")
TOLERANCE = 1e-4  # of logits in float32: kernels may sum in another order
# The seed's last confusion matrix holds 12,921 right answers among 14,530 cells.
SEED_RIGHT, SEED_CELLS, SEED_ACCURACY = 12_921, 14_530, 0.8893


@dataclass(frozen=True)
class Place:
    """What is looked at: a folder, or a repository of the Hub at a commit."""

    name: str
    commit: str | None = None


@dataclass(frozen=True)
class Reference:
    """What the training checkpoint answers: logits (B, classes) for pixel_values (B, 3, H, W), the first of `image`."""

    image: Path
    pixel_values: torch.Tensor
    logits: torch.Tensor


def drawn_cell(folder: Path) -> Path:
    """A picture to ask about where no real one may be passed on: a cell of the first class, drawn into a folder."""
    file = folder / "drawn.png"
    draw_cell(taxonomy.NAMES[0], np.random.default_rng(0)).save(file)
    return file


def reference(checkpoint: Path, images: list[Path]) -> Reference:
    """The answers of a training checkpoint to image files."""
    model, processor = load_classifier(checkpoint)
    opened = []
    for file in images:
        with Image.open(file) as image:
            opened.append(image.convert("RGB"))
    pixel_values = processor(images=opened, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        return Reference(images[0], pixel_values, model(pixel_values=pixel_values).logits.float())


def verify_model(place: Place, expected: Reference, hand_built: bool) -> str:
    """Load a model as users do and compare its logits; one line on what was seen.

    Raises:
        CelluScanError: It does not load, or answers otherwise than the training checkpoint.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tensors = Path(scratch) / "expected.safetensors"
        save_file({"pixel_values": expected.pixel_values.contiguous(), "logits": expected.logits.contiguous()}, tensors)
        plan = {"expected": str(tensors), "image": str(expected.image.resolve()), "trust_remote_code": hand_built}
        found = _look("model", place, Path(scratch), plan)
    for what in ("logits", "pixel_values"):
        if not found[f"{what}_differ_by"] <= TOLERANCE:
            raise CelluScanError(
                f"{place.name}: its {what} differ from those of the training checkpoint by "
                f"{found[f'{what}_differ_by']:.2g}, expected at most {TOLERANCE:g}; nothing that differs is published"
            )
    best = found["pipeline"][0]
    return (
        f"{found['class']} loads, its logits are those of the training checkpoint within "
        f"{found['logits_differ_by']:.1g}; pipeline: {best['label']} ({best['score']:.2f})"
    )


def verify_dataset(place: Place, folder: Path) -> str:
    """Load every config as users do, streamed and, from a folder, whole; one line on what was seen.

    Raises:
        CelluScanError: A config or a row cannot be read, or the number of rows is not that of the card.
    """
    promised = {
        info["config_name"]: {split["name"]: split["num_examples"] for split in info["splits"]}
        for info in DatasetCard.load(folder / "README.md").data.dataset_info
    }
    with tempfile.TemporaryDirectory() as scratch:
        found = _look("dataset", place, Path(scratch), {"whole": place.commit is None})
    if set(found) != set(promised):
        raise CelluScanError(f"{place.name} has the configs {', '.join(found)}; its card says {', '.join(promised)}")
    for config, splits in promised.items():
        rows = found[config].get("rows", splits)
        if rows != splits or set(found[config]["streamed"]) != set(splits):
            raise CelluScanError(f"{place.name}, {config}: {rows} rows are loaded, the card says {splits}")
        if found[config].get("loaded", found[config]["streamed"]) != found[config]["streamed"]:
            raise CelluScanError(f"{place.name}, {config}: the first rows differ when they are streamed")
    counts = ", ".join(f"{config} {'+'.join(map(str, splits.values()))}" for config, splits in promised.items())
    return f"every config loads{', streams' if place.commit is None else ' as a stream'}, and decodes: {counts}"


def verify_metric(place: Place) -> str:
    """Load the metric as users do, and compute the seed's accuracy with it; one line on what was seen."""
    right = [1] * SEED_RIGHT + [0] * (SEED_CELLS - SEED_RIGHT)
    inputs = {"predictions": right, "references": [1] * SEED_CELLS, "label_names": ["wrong", "right"], "resamples": 0}
    with tempfile.TemporaryDirectory() as scratch:
        found = _look("metric", place, Path(scratch), {"inputs": inputs})
    if abs(found["accuracy"] - SEED_ACCURACY) > 5e-5:
        raise CelluScanError(f"{place.name}: the metric gives {found['accuracy']}, expected {SEED_ACCURACY}")
    return f"evaluate.load gives the accuracy of the seed's matrix, {found['accuracy']:.4f}"


def verify_space(place: Place) -> str:
    """Start the app as the Hub does, and ask it about a drawn cell; one line on what was seen."""
    with tempfile.TemporaryDirectory() as scratch:
        found = _look("space", place, Path(scratch), {"image": str(drawn_cell(Path(scratch)))}, offline=False)
    if not found["answer"] or len(found["top"]) != len(taxonomy.NAMES):
        raise CelluScanError(f"{place.name}: the app gives no answer to a drawn cell ({found['note']})")
    return f"the app starts and answers: {found['answer']} ({found['score']:.2f}) to a drawn {taxonomy.NAMES[0]}"


def _look(check: str, place: Place, scratch: Path, plan: Mapping[str, Any], offline: bool = True) -> Any:
    """What the clean process found. Raises a `CelluScanError` with its last line where it failed."""
    plan_file, found = scratch / "plan.json", scratch / "found.json"
    whole_plan = {"check": check, "name": place.name, "revision": place.commit, "found": str(found), **plan}
    plan_file.write_text(json.dumps(whole_plan), "utf-8")
    caches = {name: str(scratch / name) for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE")}
    switches = {"HF_UPDATE_DOWNLOAD_COUNTS": "0"} | (
        {"HF_HUB_OFFLINE": "1"} if offline and place.commit is None else {}
    )
    done = subprocess.run(
        [sys.executable, "-P", "-B", str(_PROGRAM), str(plan_file)],
        env=os.environ | caches | switches | {"HF_EVALUATE_CACHE": str(scratch / "evaluate")},
        cwd=scratch,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise CelluScanError(f"{place.name} does not work without celluscan_hf ({reason}); nothing more is published")
    return json.loads(found.read_text("utf-8"))
