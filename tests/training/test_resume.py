"""A run that was killed and goes on is the run that was not."""

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

RANDOM = {  # everything that draws random numbers, and everything that has a state
    "model": {"hidden_dropout_prob": 0.1, "drop_path_rate": 0.1, "patch_stem": "convolution"},
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "ema_decay": 0.9,
    "muon": True,
    "sampler": "balanced",
    "eval_strategy": "steps",
    "eval_steps": 4,
    "save_strategy": "steps",
    "save_steps": 4,
}


@pytest.mark.parametrize(
    ("killed_at", "options"),
    [(5, {}), (9, {"dataloader_num_workers": 2}), (10, {"gradient_accumulation_steps": 2, "num_train_epochs": 4})],
    ids=["first epoch", "second epoch, workers", "second epoch, accumulating"],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    killed_at: int, options: dict[str, Any], recipe: Callable[..., Path], train: Callable[..., Any], tmp_path: Path
) -> None:
    chosen = recipe(**RANDOM, **options)
    assert train("--recipe", chosen, "--output_dir", tmp_path / "whole").returncode == 0
    cut = train("--recipe", chosen, "--output_dir", tmp_path / "cut", kill_at=killed_at)
    assert cut.returncode == -signal.SIGKILL
    done = train("--recipe", chosen, "--output_dir", tmp_path / "cut", "--resume_from_checkpoint", "last")
    assert done.returncode == 0, done.stderr
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all((whole[name] == resumed[name]).all() for name in whole)


def _losses(folder: Path) -> list[dict[str, Any]]:
    history = json.loads((folder / "training.json").read_text())["history"]
    timed = ("runtime", "per_second")
    return [
        {name: value for name, value in line.items() if not name.endswith(timed)}
        for line in history
        if "train_runtime" not in line
    ]
