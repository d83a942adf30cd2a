"""Two processes that talk by gloo train as one does with the same global batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

PER_STEP = 54  # images over all processes; neither train (392) nor validation (28, by five) divides


def history(folder: Path, name: str) -> list[float]:
    return [line[name] for line in json.loads((folder / "training.json").read_text())["history"] if name in line]


@pytest.mark.parametrize("streaming", [False, True], ids=["indexed", "streamed"])
def test_two_processes_take_the_steps_of_one(
    streaming: bool, recipe: Callable[..., Path], train: Callable[..., Any], tmp_path: Path
) -> None:
    folders = []
    for processes in (1, 2):
        share = {"per_device_train_batch_size": PER_STEP // processes, "per_device_eval_batch_size": 5}
        chosen = recipe(f"on{processes}", streaming=streaming, dataloader_num_workers=2 * streaming, **share)
        folders.append(tmp_path / f"on{processes}")
        done = train(
            "--recipe", chosen, "--output_dir", folders[-1], processes=processes, only_first_writes=processes > 1
        )
        assert done.returncode == 0, done.stderr
    one, two = folders
    assert [json.loads((folder / "settings.json").read_text())["processes"] for folder in folders] == [1, 2]
    assert len(history(one, "loss")) == 2 * (392 // PER_STEP)
    assert history(two, "loss") == pytest.approx(history(one, "loss"), abs=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-3 for name in weights[0])
    assert history(two, "eval_n") == [28, 28]  # every row of validation once
    validation = [json.loads((folder / "training.json").read_text())["validation"] for folder in folders]
    assert validation[1]["n"] == 28
    assert validation[1] == pytest.approx(validation[0], abs=1e-3)
    for name in ("eval_accuracy", "eval_nll", "eval_macro_f1"):
        assert history(two, name) == pytest.approx(history(one, name), abs=1e-3)


@pytest.mark.parametrize("streaming", [False, True], ids=["indexed", "streamed"])
def test_two_processes_that_were_killed_go_on_as_if_nothing_had_happened(
    streaming: bool, recipe: Callable[..., Path], train: Callable[..., Any], tmp_path: Path
) -> None:
    saving = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4, "ema_decay": 0.9}
    chosen = recipe(per_device_train_batch_size=PER_STEP // 2, streaming=streaming, **saving)
    assert train("--recipe", chosen, "--output_dir", tmp_path / "whole", processes=2).returncode == 0
    cut = train("--recipe", chosen, "--output_dir", tmp_path / "cut", processes=2, kill_at=9)
    assert cut.returncode != 0
    assert not (tmp_path / "cut" / "training.json").exists()
    done = train("--recipe", chosen, "--output_dir", tmp_path / "cut", "--resume_from_checkpoint", "last", processes=2)
    assert done.returncode == 0, done.stderr
    assert history(tmp_path / "cut", "loss") == history(tmp_path / "whole", "loss")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut")]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
