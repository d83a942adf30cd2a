"""Two processes that talk by gloo train like one with the same global batch, also after they were killed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

PER_STEP = 54  # images over all processes; divides neither train (392) nor validation (28, by five)
SAVING = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4, "ema_decay": 0.9}


def history(folder: Path, name: str) -> list[float]:
    return [line[name] for line in json.loads((folder / "training.json").read_text())["history"] if name in line]


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True], ids=["indexed", "streamed"])
def test_two_processes_take_the_steps_of_one_and_resume_exactly(
    streaming: bool, recipe: Callable[..., Path], trained: Callable[..., int], train: Callable[..., Any], tmp_path: Path
) -> None:
    single, double, killed = (tmp_path / name for name in ("one", "two", "killed"))
    recipes = []
    for processes in (1, 2):
        share = {"per_device_train_batch_size": PER_STEP // processes, "per_device_eval_batch_size": 5}
        workers = 2 * streaming * (processes - 1)
        recipes.append(recipe(f"on{processes}", streaming=streaming, dataloader_num_workers=workers, **share, **SAVING))
    assert trained(recipes[0], single) == 0

    chosen = "--recipe", recipes[1], "--output_dir"
    result = train(*chosen, double, processes=2, only_first_writes=True)
    assert result.returncode == 0, result.stderr
    assert [json.loads((folder / "settings.json").read_text())["processes"] for folder in (single, double)] == [1, 2]
    assert len(history(single, "loss")) == 2 * (392 // PER_STEP)
    assert history(double, "loss") == pytest.approx(history(single, "loss"), abs=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (single, double)]
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-3 for name in weights[0])
    assert set(history(double, "eval_n")) == {28}  # every row of validation once
    validation = [json.loads((folder / "training.json").read_text())["validation"] for folder in (single, double)]
    assert validation[1]["n"] == 28
    assert validation[1] == pytest.approx(validation[0], abs=1e-3)
    for name in ("eval_accuracy", "eval_nll", "eval_macro_f1"):
        assert history(double, name) == pytest.approx(history(single, name), abs=1e-3)

    assert train(*chosen, killed, processes=2, kill_at=9).returncode != 0
    assert not (killed / "training.json").exists()
    result = train(*chosen, killed, "--resume_from_checkpoint", "last", processes=2)
    assert result.returncode == 0, result.stderr
    assert history(killed, "loss") == history(double, "loss")
    resumed = load_file(killed / "model.safetensors")
    assert all((weights[1][name] == resumed[name]).all() for name in resumed)
