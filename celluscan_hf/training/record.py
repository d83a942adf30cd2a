"""The records beside a trained model: `settings.json`, written first, and `training.json`, written last.

`settings.json` holds settings, data, versions and device; `training.json` holds the results. A folder with
`training.json` is a finished stage.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import torch

from ..atomic_io import atomic_write
from ..dataset.reading import CellDataset
from ..errors import CelluScanError
from ..inference.loading import SETTINGS
from ..versions import versions
from .settings import TrainingSettings

ASKED, DONE = SETTINGS, "training.json"
CURVES = "curves.png"
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
# settings that may change on resume: they decide where, how fast and with which messages a run goes on, but not what
# it learns; of the batch, only the total over processes and accumulation steps is compared
_CHANGEABLE = {
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
_CHANGEABLE_PREFIXES = ("dataloader_", "hub_", "log_", "logging_", "push_", "trackio_")


def describe(
    recipe: str, settings: TrainingSettings, data: CellDataset, config: dict[str, Any], rows: dict[str, int]
) -> dict[str, Any]:
    """Describe a stage: settings with all defaults, model, data, seed, versions, code and device."""
    return {
        "recipe": recipe,
        "seed": settings.seed,
        "data": {
            "name": data.name,
            "local": data.is_local,
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
        "versions": versions(("python", *_SOFTWARE)),
        "git": git_revision(),
    }


def begin(folder: Path, description: dict[str, Any]) -> None:
    """Write `settings.json`, or check that an existing one has the same data and settings.

    Raises:
        CelluScanError: They differ; the message names one setting and both values.
    """
    path = folder / ASKED
    if not path.is_file():
        _write(path, description)
        return
    saved = _fixed_settings(json.loads(path.read_text(encoding="utf-8")))
    for name, value in _fixed_settings(json.loads(_text(description))).items():
        # a run older than a setting behaved like its default
        if (before := saved.get(name, TrainingSettings.default(name))) != value:
            raise CelluScanError(
                f"{folder} was started with {name} {before}, now it is {value}: use {before} again, or choose a "
                "new --output_dir"
            )


def _fixed_settings(description: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that must not change on resume."""
    settings = {
        name: value
        for name, value in description["settings"].items()
        if name not in _CHANGEABLE and not name.startswith(_CHANGEABLE_PREFIXES)
    }
    run = {name: description[name] for name in ("batch", "precision", "recipe")}
    return settings | run | {"data fingerprint": description["data"]["fingerprint"]}


def finish(folder: Path, results: dict[str, Any]) -> None:
    """Write `training.json`."""
    _write(folder / DONE, results)


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a finished stage."""
    return (folder / DONE).is_file()


def git_revision() -> str | None:
    """Return the commit of this code, with `-modified` if files differ from it; None outside a checkout."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty=-modified", "--exclude=*"]
    try:
        result = subprocess.run(
            command, cwd=Path(__file__).resolve().parent, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _write(path: Path, content: dict[str, Any]) -> None:
    with atomic_write(path) as partial:
        partial.write_text(_text(content), encoding="utf-8")


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=1, default=str) + "\n"


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"
