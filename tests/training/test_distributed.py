"""Two processes that talk by gloo train as one does with the same global batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

UNEVEN = 27  # images per process and step: neither train (392) nor validation (28) divides


@pytest.fixture
def both(recipe: Callable[..., Path], train: Callable[..., Any], tmp_path: Path) -> tuple[Path, Path]:
    """The folders of the same run, on one process and on two."""
    for processes in (1, 2):
        chosen = recipe(f"on{processes}", per_device_train_batch_size=54 // processes, per_device_eval_batch_size=5)
        done = train(
            "--recipe",
            chosen,
            "--output_dir",
            tmp_path / f"on{processes}",
            processes=processes,
            only_first_writes=processes > 1,
        )
        assert done.returncode == 0, done.stderr
    return tmp_path / "on1", tmp_path / "on2"


def test_two_processes_give_the_losses_and_weights_of_one(both: tuple[Path, Path]) -> None:
    one, two = (json.loads((folder / "training.json").read_text()) for folder in both)
    assert (one["processes"], two["processes"]) == (1, 2)
    losses = [[line["loss"] for line in record["history"] if "loss" in line] for record in (one, two)]
    assert len(losses[0]) == 2 * (392 // 54)
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in both]
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-3 for name in weights[0])
    # every row of validation is counted once, though two batches of five do not divide it
    evaluations = [[line for line in record["history"] if "eval_n" in line] for record in (one, two)]
    assert [line["eval_n"] for line in evaluations[1]] == [28, 28]
    for name in ("eval_accuracy", "eval_nll", "eval_macro_f1"):
        assert [line[name] for line in evaluations[1]] == pytest.approx(
            [line[name] for line in evaluations[0]], abs=1e-3
        )
