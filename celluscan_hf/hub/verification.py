"""Verify in a clean process that a folder or repository works with public packages only.

The same checks run on a folder before the upload, and on the repository afterwards.
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
TOLERANCE = 1e-4  # float32 logits: kernels may sum in a different order
# The confusion matrix of the original student project: 12,921 of 14,530 cells correct.
ORIGINAL_RIGHT, ORIGINAL_CELLS, ORIGINAL_ACCURACY = 12_921, 14_530, 0.8893


@dataclass(frozen=True)
class Place:
    """A folder, or a Hub repository at a commit."""

    name: str
    commit: str | None = None


@dataclass(frozen=True)
class Reference:
    """Output of the training checkpoint: logits (B, classes) for pixel_values (B, 3, H, W), the first for `image`."""

    image: Path
    pixel_values: torch.Tensor
    logits: torch.Tensor


def drawn_cell(folder: Path) -> Path:
    """Save a synthetic cell of the first class in a folder, for models without example images."""
    file = folder / "synthetic.png"
    draw_cell(taxonomy.NAMES[0], np.random.default_rng(0)).save(file)
    return file


def reference(checkpoint: Path, images: list[Path]) -> Reference:
    """Run a training checkpoint on image files."""
    model, processor = load_classifier(checkpoint)
    opened = []
    for file in images:
        with Image.open(file) as image:
            opened.append(image.convert("RGB"))
    pixel_values = processor(images=opened, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        return Reference(images[0], pixel_values, model(pixel_values=pixel_values).logits.float())


def verify_model(place: Place, expected: Reference, hand_built: bool) -> str:
    """Load a model as users do and compare its logits; return a one-line summary.

    Raises:
        CelluScanError: It does not load, or its output differs from that of the training checkpoint.
    """
    with tempfile.TemporaryDirectory() as scratch:
        tensors = Path(scratch) / "expected.safetensors"
        save_file({"pixel_values": expected.pixel_values.contiguous(), "logits": expected.logits.contiguous()}, tensors)
        plan = {"expected": str(tensors), "image": str(expected.image.resolve()), "trust_remote_code": hand_built}
        result = _run_check("model", place, Path(scratch), plan)
    for name in ("logits", "pixel_values"):
        if not result[f"{name}_differ_by"] <= TOLERANCE:
            raise CelluScanError(
                f"{place.name}: its {name} differ from those of the training checkpoint by "
                f"{result[f'{name}_differ_by']:.2g}, expected at most {TOLERANCE:g}; it is not published"
            )
    best = result["pipeline"][0]
    return (
        f"{result['class']} loads, its logits match the training checkpoint within "
        f"{result['logits_differ_by']:.1g}; pipeline: {best['label']} ({best['score']:.2f})"
    )


def verify_dataset(place: Place, folder: Path) -> str:
    """Load every config as users do, streamed and, from a folder, downloaded; return a one-line summary.

    Raises:
        CelluScanError: A config or a row cannot be read, or the number of rows differs from the card.
    """
    expected = {
        info["config_name"]: {split["name"]: split["num_examples"] for split in info["splits"]}
        for info in DatasetCard.load(folder / "README.md").data.dataset_info
    }
    with tempfile.TemporaryDirectory() as scratch:
        configs = _run_check("dataset", place, Path(scratch), {"download": place.commit is None})
    if set(configs) != set(expected):
        raise CelluScanError(f"{place.name} has the configs {', '.join(configs)}; its card says {', '.join(expected)}")
    for config, splits in expected.items():
        rows = configs[config].get("rows", splits)
        if rows != splits or set(configs[config]["streamed"]) != set(splits):
            raise CelluScanError(f"{place.name}, {config}: {rows} rows loaded, but the card says {splits}")
        if configs[config].get("loaded", configs[config]["streamed"]) != configs[config]["streamed"]:
            raise CelluScanError(f"{place.name}, {config}: the first rows differ when streamed")
    counts = ", ".join(f"{config} {'+'.join(map(str, splits.values()))}" for config, splits in expected.items())
    return f"every config loads{', streams' if place.commit is None else ' as a stream'}, and decodes: {counts}"


def verify_metric(place: Place) -> str:
    """Load the metric as users do and compute the accuracy of the student project; return a one-line summary."""
    right = [1] * ORIGINAL_RIGHT + [0] * (ORIGINAL_CELLS - ORIGINAL_RIGHT)
    inputs = {
        "predictions": right,
        "references": [1] * ORIGINAL_CELLS,
        "label_names": ["wrong", "right"],
        "resamples": 0,
    }
    with tempfile.TemporaryDirectory() as scratch:
        accuracy = _run_check("metric", place, Path(scratch), {"inputs": inputs})["accuracy"]
    if abs(accuracy - ORIGINAL_ACCURACY) > 5e-5:
        raise CelluScanError(f"{place.name}: the metric gives {accuracy}, expected {ORIGINAL_ACCURACY}")
    return f"evaluate.load gives the accuracy of the original project's confusion matrix, {accuracy:.4f}"


def verify_space(place: Place) -> str:
    """Start the app as the Hub does and send it a synthetic cell; return a one-line summary."""
    with tempfile.TemporaryDirectory() as scratch:
        answer = _run_check("space", place, Path(scratch), {"image": str(drawn_cell(Path(scratch)))}, offline=False)
    if not answer["answer"] or len(answer["top"]) != len(taxonomy.NAMES):
        raise CelluScanError(f"{place.name}: the app gives no answer for a synthetic cell ({answer['note']})")
    return f"the app starts and answers: {answer['answer']} ({answer['score']:.2f}) for a synthetic {taxonomy.NAMES[0]}"


def _run_check(check: str, place: Place, scratch: Path, plan: Mapping[str, Any], offline: bool = True) -> Any:
    """Run a check in a clean process and return its result. Raises `CelluScanError` with its last line if it fails."""
    plan_file, result = scratch / "plan.json", scratch / "result.json"
    plan = {"check": check, "name": place.name, "revision": place.commit, "result": str(result), **plan}
    plan_file.write_text(json.dumps(plan), "utf-8")
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
        raise CelluScanError(f"{place.name} does not work without celluscan_hf ({reason}); nothing else is published")
    return json.loads(result.read_text("utf-8"))
