"""Run a training like scripts/train.py, with faults: `driver.py '{"kill_at": 8}' --recipe …`.

- `kill_at`: the process kills itself after this many steps.
- `only_first_writes`: every process but the first fails if it publishes, plots or records.
- `cpu_as_gpu`: Accelerate takes the CPU for a GPU, with gloo for nccl; on a CPU as such it does not shard.
"""

import json
import os
import signal
import sys
from typing import Any

import torch
from accelerate import DistributedType, PartialState

from celluscan_hf.cli import main
from celluscan_hf.training import record, run

faults = json.loads(sys.argv[1])


class Faulty(run.CellTrainer):
    def training_step(self, *arguments: Any, **options: Any) -> torch.Tensor:
        if self.state.global_step == faults.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        loss: torch.Tensor = super().training_step(*arguments, **options)
        return loss


def forbidden(*arguments: Any) -> None:
    raise AssertionError(f"process {os.environ['RANK']} writes")


run.CellTrainer = Faulty
if faults.get("cpu_as_gpu"):
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    PartialState._prepare_backend = lambda *arguments: ("gloo", DistributedType.MULTI_GPU)
if faults.get("only_first_writes") and os.environ["RANK"] != "0":
    run.publish = run.training_curves = record.begin = record.finish = forbidden
sys.exit(main(["train", *sys.argv[2:]]))
