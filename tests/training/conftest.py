"""A dataset of synthetic cells, a recipe that trains on it in a second, and training in this or in new processes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from celluscan_hf.dataset.reading import CellDataset, open_dataset
from tests.commands import train as run_training

DRIVER = Path(__file__).with_name("driver.py")
CONFIGS = Path(__file__).parents[2] / "scripts" / "accelerate"
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
    "rotate": "any",
    "augmented_share": 0.5,
    "augment_parents": False,
    "zoom": [0.5, 1.0],
    "stain": [0.65, 1.35],
    "gamma": [0.67, 1.5],
    "saturation": [0.0, 1.4],
    "blur": 0.3,
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
    """Write the tiny recipe with changes, those of `model` field by field; returns the file."""

    def write(name: str = "tiny", **changes: Any) -> Path:
        file = tmp_path / f"{name}.yaml"
        changes["model"] = TINY["model"] | changes.get("model", {})
        file.write_text(yaml.safe_dump(TINY | {"dataset": str(data_set)} | changes))
        return file

    return write


@pytest.fixture
def trained() -> Iterator[Callable[..., int]]:
    """Train in this process, with one thread as in `train`; returns the exit status."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda recipe, output, *arguments: run_training(
        ["--recipe", str(recipe), "--output_dir", str(output), *map(str, arguments)]
    )
    torch.set_num_threads(threads)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Train in a new process, or in several with gloo; `faults` are those of `driver.py`.

    `config` is a launch config, used but for its number of processes and precision.
    """

    def run(
        *arguments: object, processes: int = 1, config: str = "", **faults: Any
    ) -> "subprocess.CompletedProcess[str]":
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        if config:
            launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / f"{config}.yaml")]
            launcher += [f"--num_processes={processes}", "--mixed_precision=no", "--main_process_port=0"]
        command = [sys.executable, *(launcher if processes > 1 else []), str(DRIVER), json.dumps(faults)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*command, *map(str, arguments)], capture_output=True, text=True, timeout=200, env=environment
        )

    return run
