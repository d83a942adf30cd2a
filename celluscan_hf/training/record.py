"""The record of a run, `training.json`: what was asked for, what it ran on, and what came out. Written last."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..dataset.reading import CellDataset
from ..whole import whole
from .settings import TrainingSettings

NAME = "training.json"
_SOFTWARE = (
    "celluscan_hf",
    "accelerate",
    "datasets",
    "evaluate",
    "huggingface_hub",
    "numpy",
    "torch",
    "torchvision",
    "transformers",
)


def describe(
    recipe: str, stage: int, settings: TrainingSettings, data: CellDataset, config: dict[str, Any], rows: dict[str, int]
) -> dict[str, Any]:
    """What decides a run: settings with all defaults, model, data, seed, versions, code and device."""
    return {
        "recipe": recipe,
        "stage": stage,
        "seed": settings.seed,
        "data": {"name": data.name, "config": settings.dataset_config, "fingerprint": data.fingerprint, "rows": rows},
        "model": config,
        "settings": settings.to_dict(),
        "processes": settings.world_size,
        "device": _device(settings),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _SOFTWARE},
        "git": git_revision(),
    }


def write(folder: Path, record: dict[str, Any]) -> None:
    """Writes `training.json` of a finished stage."""
    with whole(folder / NAME) as partial:
        partial.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any] | None:
    """The record of a finished stage, or None."""
    path = folder / NAME
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None  # type: ignore[no-any-return]


def git_revision() -> str | None:
    """The commit this code is at, with `-modified` where files differ from it; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=-modified", "--exclude=*"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _device(settings: TrainingSettings) -> str:
    if settings.device.type == "cuda":
        return torch.cuda.get_device_name(settings.device)
    return f"{settings.device.type}, {torch.get_num_threads()} threads"
