"""The command `celluscan train`: a recipe and the settings that differ from it."""

import argparse
import logging
from collections.abc import Sequence

import torch
import transformers

from ..errors import CelluScanError
from . import recipes
from .memory import keep_freed_memory
from .run import train as train_stages


def train(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Train by a recipe; any field of it and of `TrainingArguments` may be changed."""
    head = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    head.add_argument("--recipe")
    chosen, others = head.parse_known_args(arguments)
    if {"-h", "--help"} & set(others):
        print(recipes.help_text(), end="")
        return
    if chosen.recipe is None:
        raise CelluScanError(f"no --recipe given; there are: {', '.join(recipes.names())}; or give a .yaml file")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    transformers.utils.logging.disable_progress_bar()  # those of saving; the bar of training stays
    keep_freed_memory()
    try:
        stages = recipes.stages(chosen.recipe, others)
        output = train_stages(chosen.recipe, stages)
    except CelluScanError as error:
        # of what a worker of the DataLoader raises, the last line: its type and message
        kind = f"{type(error).__module__}.{type(error).__qualname__}: "
        raise CelluScanError(str(error).strip().splitlines()[-1].removeprefix(kind)) from error
    except torch.OutOfMemoryError as error:
        raise CelluScanError(
            "the GPU is out of memory: lower --per_device_train_batch_size and raise --gradient_accumulation_steps by "
            "the same factor, or give --gradient_checkpointing true"
        ) from error
    if stages[-1].process_index == 0:
        print(f"{output}: the trained model, its record (training.json) and curves (curves.png)")
        print(f"next: celluscan evaluate --model {output} --dataset {stages[-1].dataset} --output {output}-evaluation")
