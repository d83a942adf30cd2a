"""What a training shows: a bar over its steps, and a table of validation figures, a line per evaluation."""

import time
from statistics import fmean
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ProgressCallback

_COLUMNS = ("loss", "eval_loss", "eval_accuracy", "eval_balanced_accuracy", "eval_macro_f1", "eval_nll", "eval_ece")
_HEAD = ("train loss", "loss", "accuracy", "balanced", "macro-F1", "NLL", "ECE", "minutes")


class TrainingTable(ProgressCallback):
    """In place of the library's lines of raw figures; the last loss stands behind the bar, its mean in the table."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.began = time.monotonic()
        self.losses: list[float] = []  # of this epoch, as they were logged
        if self.training_bar is not None:
            self.training_bar.write("".join(["  epoch", *(f"{name:>12}" for name in _HEAD)]))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        if self.training_bar is None:
            return
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.training_bar.set_postfix(loss=f"{logs['loss']:.3f}", refresh=False)
        if "eval_loss" in logs:
            figures = {"loss": fmean(self.losses)} | logs if self.losses else logs
            cells = [f"{figures[name]:12.4f}" if name in figures else f"{'–':>12}" for name in _COLUMNS]
            self.losses.clear()
            minutes = (time.monotonic() - self.began) / 60
            self.training_bar.write("".join([f"{logs['epoch']:7.2f}", *cells, f"{minutes:12.1f}"]))
