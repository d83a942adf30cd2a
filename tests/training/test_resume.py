"""A killed and resumed run equals an uninterrupted one."""

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
    [
        pytest.param(5, {}, id="first epoch"),
        pytest.param(
            9,
            {
                "lora_rank": 4,
                "muon": False,
                "model": {
                    "hidden_dropout_prob": 0.1,
                    "layer_scale_init": 0.1,
                    "num_register_tokens": 2,
                    "mlp": "swiglu",
                },
            },
            id="second epoch, adapters of a DINOv2",
            marks=pytest.mark.slow,
        ),
        pytest.param(9, {"dataloader_num_workers": 2}, id="second epoch, workers", marks=pytest.mark.slow),
        pytest.param(
            10,
            {"gradient_accumulation_steps": 2, "num_train_epochs": 4},
            id="second epoch, accumulating",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    killed_at: int,
    options: dict[str, Any],
    recipe: Callable[..., Path],
    trained: Callable[..., int],
    train: Callable[..., Any],
    tmp_path: Path,
) -> None:
    chosen = recipe(**RANDOM | options)
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    assert trained(chosen, uninterrupted) == 0
    assert train("--recipe", chosen, "--output_dir", killed, kill_at=killed_at).returncode == -signal.SIGKILL
    assert trained(chosen, killed, "--resume_from_checkpoint", "last") == 0
    assert _losses(killed) == _losses(uninterrupted)
    expected, resumed = (load_file(folder / "model.safetensors") for folder in (uninterrupted, killed))
    assert all((expected[name] == resumed[name]).all() for name in expected)
    training = json.loads((uninterrupted / "training.json").read_text())
    best = [
        line["eval_nll"] for line in training["history"] if line["step"] == training["best_step"] and "eval_nll" in line
    ]
    assert training["validation"]["nll"] == pytest.approx(best[0], abs=1e-5)  # the best averages, not the last


def _losses(folder: Path) -> list[dict[str, Any]]:
    history = json.loads((folder / "training.json").read_text())["history"]
    timed = ("runtime", "per_second")
    return [
        {name: value for name, value in line.items() if not name.endswith(timed)}
        for line in history
        if "train_runtime" not in line
    ]
