"""Runs a training as scripts/train.py does, with faults: `driver.py '{"kill_at": 8}' --recipe …`.

- `kill_at`: the process kills itself when it is about to begin the step after this one.
- `nan_at`: the gradient of the step after this one is not a number, and so are then the weights.
- `memory_at`: the GPU has no memory left, likewise.
- `only_first_writes`: every process but the first fails where it would publish, draw or record.
"""

import json
import os
import signal
import sys
from typing import Any

import torch

from celluscan_hf.training import record, run
from celluscan_hf.training.command import main

faults = json.loads(sys.argv[1])


class Faulty(run.CellTrainer):
    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        step = self.state.global_step
        if step == faults.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if step == faults.get("memory_at"):
            raise torch.OutOfMemoryError("CUDA out of memory")
        loss: torch.Tensor = super().training_step(*arguments, **options)
        if step == faults.get("nan_at"):
            next(self.model.parameters()).grad.fill_(float("nan"))
        return loss


def forbidden(*arguments: Any) -> None:
    raise AssertionError(f"process {os.environ['RANK']} writes")


run.CellTrainer = Faulty
if faults.get("only_first_writes") and os.environ["RANK"] != "0":
    run.publish = run.training_curves = record.begin = record.finish = forbidden
sys.exit(main(sys.argv[2:]))
