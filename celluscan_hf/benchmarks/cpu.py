"""Speed of a training step on the CPU with fused and eager attention, and with freed memory kept."""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

VARIANTS = {  # attention implementation, and whether freed memory is kept
    "sdpa": ("sdpa", False),
    "eager": ("eager", False),
    "eager_memory_kept": ("eager", True),
}


def cpu(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure images per second of a bf16 training step of two recipes' models, and the ratios to fused attention."""
    return {name: _compare(name, arguments) for name in ("cpu-small", "cpu-best")}


def _compare(recipe: str, arguments: argparse.Namespace) -> dict[str, Any]:
    rates: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for _ in range(arguments.rounds):
        for name, variant in VARIANTS.items():
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                rates[name].append(
                    process.submit(_rate, recipe, *variant, arguments.steps, arguments.num_proc).result()
                )
    return {
        "images_per_second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio_to_sdpa": {
            name: round(statistics.median(a / b for a, b in zip(values, rates["sdpa"], strict=True)), 2)
            for name, values in rates.items()
        },
    }


def _rate(recipe: str, attention: str, keep: bool, steps: int, threads: int) -> float:
    import torch

    from celluscan_hf import taxonomy

    from ..modeling.checkpoints import start_model
    from ..training.memory import keep_freed_memory
    from ..training.recipes import stages

    if keep:
        keep_freed_memory()
    torch.set_num_threads(threads)
    settings = stages(recipe, ["--dataset", "none", "--output_dir", "none"])[-1]
    model = start_model("scratch", taxonomy.ID2LABEL, **settings.model_fields).train()
    model.set_attn_implementation(attention)
    size, batch = model.config.image_size, settings.per_device_train_batch_size
    images, labels = torch.randn(batch, 3, size, size), torch.arange(batch) % len(taxonomy.NAMES)
    for step in range(3 + steps):
        if step == 3:
            started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(images, labels=labels).loss
        torch.autograd.backward(loss)
        model.zero_grad(set_to_none=True)
    return steps * batch / (time.perf_counter() - started)


def check_needs(arguments: argparse.Namespace) -> None:
    """Check nothing: everything needed is part of the project."""
