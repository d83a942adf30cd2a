"""A small data set of drawn cells, a recipe that trains on it in a second, and trainings in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from celluscan_hf.dataset.reading import CellDataset, open_dataset

DRIVER = Path(__file__).with_name("driver.py")
TINY: dict[str, Any] = {
    "start": "scratch",
    "model": {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "hidden_dropout_prob": 0.0,
    },
    "crop_pct": 0.8,
    "shift": 0.1,
    "color_jitter": 0.2,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 64,
    "learning_rate": 0.002,
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "use_cpu": True,
    "calibrate": False,
    "disable_tqdm": True,
}


@pytest.fixture(scope="session")
def cells(data_set: Path) -> CellDataset:
    return open_dataset(data_set)


@pytest.fixture
def recipe(tmp_path: Path, data_set: Path) -> Callable[..., Path]:
    """Writes the tiny recipe with changes, those of `model` field by field; the file."""

    def write(name: str = "tiny", **changes: Any) -> Path:
        file = tmp_path / f"{name}.yaml"
        changes["model"] = TINY["model"] | changes.get("model", {})
        file.write_text(yaml.safe_dump(TINY | {"dataset": str(data_set)} | changes))
        return file

    return write


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Trains in a process of its own, or in several that talk by gloo; `faults` are those of `driver.py`."""

    def run(*arguments: object, processes: int = 1, **faults: Any) -> "subprocess.CompletedProcess[str]":
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        command = [sys.executable, *(launcher if processes > 1 else []), str(DRIVER), json.dumps(faults)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, timeout=200, env=environment
        )

    return run
