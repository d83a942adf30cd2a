"""What a run leaves beside the model: `settings.json`, written first, and `training.json`, written last.

The first says what was asked for and what it ran on; the second what came out. A folder with `training.json` is a
finished stage.
"""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ..atomic_io import atomic_write
from ..dataset.reading import CellDataset
from ..errors import CelluScanError
from .settings import TrainingSettings

ASKED, DONE = "settings.json", "training.json"
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
# settings that a run may go on with changed: where, how fast and how loud, but not what is learned; the batch is
# compared as a whole, however it is split
_FREE = {
    "calibrate",
    "dataset",
    "ddp_find_unused_parameters",
    "disable_tqdm",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "activation_checkpointing",
    "local_rank",
    "output_dir",
    "per_device_eval_batch_size",
    "per_device_train_batch_size",
    "project",
    "report_to",
    "resume_from_checkpoint",
    "run_name",
    "save_total_limit",
    "start",
    "use_cpu",
}
_FREE_KINDS = ("dataloader_", "hub_", "log_", "logging_", "push_", "trackio_")


def describe(
    recipe: str, settings: TrainingSettings, data: CellDataset, config: dict[str, Any], rows: dict[str, int]
) -> dict[str, Any]:
    """What decides a stage: settings with all defaults, model, data, seed, versions, code and device."""
    return {
        "recipe": recipe,
        "seed": settings.seed,
        "data": {
            "name": data.name,
            "config": settings.dataset_config,
            "sources": data.sources,
            "fingerprint": data.fingerprint,
            "rows": rows,
        },
        "model": config,
        "settings": settings.to_dict(),
        "processes": settings.world_size,
        "batch": settings.train_batch_size * settings.gradient_accumulation_steps * settings.world_size,
        "precision": settings.mixed_precision,
        "device": _device(settings.device),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _SOFTWARE},
        "git": git_revision(),
    }


def begin(folder: Path, asked: dict[str, Any]) -> None:
    """Write `settings.json`, or check that the run that is there was begun with the same data and settings.

    Raises:
        CelluScanError: It was begun with others; the message names one and both values.
    """
    path = folder / ASKED
    if not path.is_file():
        _write(path, asked)
        return
    before, now = _decisive(json.loads(path.read_text(encoding="utf-8"))), _decisive(json.loads(_text(asked)))
    for name in now:
        if (begun := before.get(name, _default(name))) != now[name]:
            raise CelluScanError(
                f"{folder} was begun with {name} {begun}, now it is {now[name]}: keep that, or choose a "
                "new --output_dir"
            )


def _default(name: str) -> Any:
    """Of a setting that is younger than a run: what the run did."""
    known = TrainingSettings.__dataclass_fields__.get(name)
    return known.default if known else None


def _decisive(asked: dict[str, Any]) -> dict[str, Any]:
    settings = {
        name: value
        for name, value in asked["settings"].items()
        if name not in _FREE and not name.startswith(_FREE_KINDS)
    }
    whole_run = {name: asked[name] for name in ("batch", "precision", "recipe")}
    return settings | whole_run | {"data fingerprint": asked["data"]["fingerprint"]}


def finish(folder: Path, done: dict[str, Any]) -> None:
    """Write `training.json`."""
    _write(folder / DONE, done)


def is_finished(folder: Path) -> bool:
    """Whether a stage came to its end here."""
    return (folder / DONE).is_file()


def git_revision() -> str | None:
    """The commit this code is at, with `-modified` where files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=-modified", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).resolve().parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_text(_text(content), encoding="utf-8")


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, default=str) + "\n"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
