"""The command line of training: recipe and settings in, one line for each error."""

import argparse
import logging
import sys
from collections.abc import Sequence

import torch
import transformers

from ..errors import CelluScanError
from ..modeling.key_mapping import WeightsError
from . import recipes
from .memory import keep_freed_memory
from .run import train

_FAILED, _INTERRUPTED = 2, 130
_WHERE = "celluscan_hf.errors."  # begins the last line of what a worker of the DataLoader raises


def main(arguments: Sequence[str]) -> int:
    """Train as the arguments say; the exit status."""
    head = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    head.add_argument("--recipe")
    chosen, others = head.parse_known_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()  # those of saving; the bar of training stays
    keep_freed_memory()
    try:
        if {"-h", "--help"} & set(others):
            recipes.parser().print_help()
            print(f"\nrecipes: {', '.join(recipes.names())}, or a .yaml file of your own")
            return 0
        if chosen.recipe is None:
            raise CelluScanError(f"no --recipe given; there are: {', '.join(recipes.names())}; or give a .yaml file")
        stages = recipes.stages(chosen.recipe, others)
        output = train(chosen.recipe, stages)
    except (CelluScanError, WeightsError) as error:
        return _fail(str(error).strip().splitlines()[-1].removeprefix(f"{_WHERE}{type(error).__name__}: "))
    except torch.OutOfMemoryError:
        return _fail(
            "the GPU is out of memory: lower --per_device_train_batch_size and raise --gradient_accumulation_steps by "
            "the same factor, or give --gradient_checkpointing true"
        )
    except KeyboardInterrupt:
        print("\nstopped; run the same command with --resume_from_checkpoint last to go on", file=sys.stderr)
        return _INTERRUPTED
    if stages[-1].process_index == 0:
        print(f"{output}: the trained model, its record (training.json) and curves (curves.png)")
        data = stages[-1].dataset
        print(f"next: python scripts/evaluate.py --model {output} --dataset {data} --output {output}-evaluation")
    return 0


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _FAILED
