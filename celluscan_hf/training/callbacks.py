"""Progress bar and table of validation metrics during training, and a check of the chosen trackers."""

import sys
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import integration_utils as trackers
from transformers.trainer_callback import ProgressCallback

from ..errors import CelluScanError
from ..evaluation.wbc_metrics.wbc_metrics import SCALARS

_COLUMNS = ("loss", "eval_loss", *(f"eval_{name}" for name in SCALARS))
_HEADINGS = ("train loss", "loss", *(scalar.short or scalar.title for scalar in SCALARS.values()), "minutes")
_INSTALL = {"azure_ml": "azureml-sdk", "comet_ml": "comet-ml", "flyte": "flytekit"}  # the others: same name


def check_trackers(names: Sequence[str]) -> None:
    """Raise a `CelluScanError` for the first tracker of `--report_to` that is unknown or cannot be used here."""
    if not names:
        return
    usable = {*trackers.get_available_reporting_integrations()}  # does not report these two:
    usable |= {"azure_ml"} if trackers.is_azureml_available() else set()
    usable |= {"flyte"} if trackers.is_flytekit_available() else set()
    for name in names:
        if name not in trackers.INTEGRATION_TO_CALLBACK:
            names_allowed = ", ".join(sorted(trackers.INTEGRATION_TO_CALLBACK))
            raise CelluScanError(f"--report_to {name}: expected none, all, or some of {names_allowed}")
        if name == "kubeflow" and name not in usable:
            raise CelluScanError("--report_to kubeflow: only inside a Kubeflow TrainJob; leave it out")
        if name not in usable:
            package = _INSTALL.get(name, name)
            raise CelluScanError(
                f"--report_to {name}: not installed, too old or switched off; pip install -U {package}, or leave it out"
            )


class TrainingTable(ProgressCallback):
    """Replace the library's lines of raw metrics by a table; the bar shows the last loss, the table its mean.

    A log file or a pipe gets no bar. A step gets one row: the evaluation at the end of training would repeat an
    earlier one.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if sys.stderr.isatty():
            super().on_train_begin(args, state, control, **kwargs)
        else:
            self.current_step = 0
            self.training_bar = tqdm(disable=True) if state.is_world_process_zero else None
        self.started = time.monotonic()
        self.losses: list[float] = []  # logged in this epoch
        self.last_step = -1  # step of the last row
        if self.training_bar is not None:
            self._write("".join(["  epoch", *(f"{name:>12}" for name in _HEADINGS)]))

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if sys.stderr.isatty():
            super().on_prediction_step(args, state, control, **kwargs)

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
        if "eval_loss" in logs and state.global_step != self.last_step:
            self.last_step = state.global_step
            metrics = {"loss": fmean(self.losses)} | logs if self.losses else logs
            cells = [f"{metrics[name]:12.4f}" if name in metrics else f"{'–':>12}" for name in _COLUMNS]
            self.losses.clear()
            minutes = (time.monotonic() - self.started) / 60
            self._write("".join([f"{logs['epoch']:7.2f}", *cells, f"{minutes:12.1f}"]))

    def _write(self, line: str) -> None:
        """Print a line above the bar, at once also into a file."""
        if self.training_bar is not None:
            self.training_bar.write(line)
            sys.stdout.flush()
