from types import SimpleNamespace
from typing import Any

import pytest

from celluscan_hf.training.callbacks import TrainingTable

EVALUATED = {f"eval_{name}": 0.5 for name in ("loss", "accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")}


@pytest.fixture
def written() -> list[str]:
    return []


@pytest.fixture
def table(written: list[str]) -> TrainingTable:
    """A table at the beginning of a training, whose bar writes into a list."""
    table = TrainingTable()
    table.on_train_begin(
        SimpleNamespace(logging_first_step=False, disable_tqdm=False),
        SimpleNamespace(is_world_process_zero=True, max_steps=4),
        SimpleNamespace(),
    )
    table.training_bar = SimpleNamespace(write=written.append, set_postfix=lambda **options: None)
    return table


def log(table: TrainingTable, step: int, **logs: float) -> None:
    nothing: Any = SimpleNamespace()
    table.on_log(nothing, SimpleNamespace(is_world_process_zero=True, global_step=step), nothing, logs=logs)


def test_the_loss_of_an_epoch_is_the_mean_of_what_was_logged_in_it(table: TrainingTable, written: list[str]) -> None:
    for epoch, losses in ((1, (3.0, 2.0)), (2, (1.0,))):
        for loss in losses:
            log(table, 2 * epoch, loss=loss)
        log(table, 2 * epoch, epoch=float(epoch), **EVALUATED)
    assert [line.split()[1] for line in written] == ["2.5000", "1.0000"]


def test_an_epoch_in_which_nothing_was_logged_has_no_loss(table: TrainingTable, written: list[str]) -> None:
    log(table, 2, epoch=1.0, **EVALUATED)
    assert written[0].split()[:3] == ["1.00", "–", "0.5000"]


def test_the_evaluation_at_the_end_of_training_gets_no_second_line(table: TrainingTable, written: list[str]) -> None:
    for _ in range(2):
        log(table, 4, epoch=2.0, **EVALUATED)
    assert len(written) == 1


def test_a_log_file_gets_the_table_and_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    nothing: Any = SimpleNamespace()
    state: Any = SimpleNamespace(is_world_process_zero=True, max_steps=2, global_step=0)
    table = TrainingTable()
    table.on_train_begin(nothing, state, nothing)
    for step in (1, 2):
        state.global_step = step
        table.on_step_end(nothing, state, nothing)
        table.on_log(nothing, state, nothing, logs={"loss": 1.0})
        table.on_prediction_step(nothing, state, nothing, eval_dataloader=[0, 1])
        table.on_evaluate(nothing, state, nothing)
        table.on_log(nothing, state, nothing, logs={"epoch": float(step), **EVALUATED})
    table.on_train_end(nothing, state, nothing)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert [line.split()[0] for line in printed.out.splitlines()] == ["epoch", "1.00", "2.00"]
