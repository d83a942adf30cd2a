"""Speed of our ViT-B/16 and those of transformers, torchvision and timm: same weights, same batch, interleaved."""

import argparse
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from .. import taxonomy
from ..errors import CelluScanError

Models = dict[str, nn.Module]


def model(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the forward pass and training step of ViT-B/16 relative to the three libraries, and the import time."""
    torch.set_num_threads(arguments.num_proc)
    torch.manual_seed(0)
    models = _models()
    return {
        "device": torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device,
        "dtype": arguments.dtype,
        "compiled": arguments.compile,
        "batch_size": arguments.batch_size,
        "max_difference_of_logits_float32": _parity(models),
        "forward": _compare(models, arguments, training=False),
        "training_step": _compare(models, arguments, training=True),
        "import_seconds": _imports(arguments.rounds),
    }


def _models() -> Models:
    from ..modeling.configuration_celluscan import CelluScanConfig
    from ..modeling.exporting import to_timm, to_torchvision, to_transformers
    from ..modeling.modeling_celluscan import CelluScanForImageClassification

    ours = CelluScanForImageClassification(CelluScanConfig(hidden_dropout_prob=0.0)).eval()
    with torch.no_grad():
        for parameter in ours.parameters():  # initial biases are 0 and norms 1: a lost one would go unnoticed
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    return {
        "celluscan": ours,
        "transformers": to_transformers(ours),
        "torchvision": to_torchvision(ours),
        "timm": to_timm(ours),
    }


def _parity(models: Models) -> dict[str, float]:
    images = torch.randn(4, 3, 224, 224)
    with torch.inference_mode():
        logits = {name: _logits(module, images) for name, module in models.items()}
    return {name: float((logits[name] - logits["celluscan"]).abs().max()) for name in models if name != "celluscan"}


def _compare(models: Models, arguments: argparse.Namespace, training: bool) -> dict[str, Any]:
    """Time every model in a new order each round; ratios are taken within a round."""
    step = _training_step if training else _forward
    steps = {name: step(module, arguments) for name, module in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(arguments.rounds):
        for name in random.sample(list(steps), len(steps)):
            seconds[name].append(_timed(steps[name], arguments))
    ours = seconds.pop("celluscan")
    quartiles = {
        name: [round(ratio, 3) for ratio in statistics.quantiles(b / a for a, b in zip(ours, theirs, strict=True))]
        for name, theirs in seconds.items()
    }
    return {
        "times_as_fast_as_quartiles": quartiles,
        "times_as_fast_as_the_fastest": min(median for _, median, _ in quartiles.values()),
        "images_per_second": round(arguments.batch_size / statistics.median(ours), 2),
    }


def _timed(step: Callable[[], None], arguments: argparse.Namespace) -> float:
    """Return the mean seconds of a step over `--steps`."""
    _synchronize(arguments)
    started = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    _synchronize(arguments)
    seconds = time.perf_counter() - started
    return seconds / int(arguments.steps)


def _synchronize(arguments: argparse.Namespace) -> None:
    if arguments.device == "cuda":
        torch.cuda.synchronize()


def _forward(module: nn.Module, arguments: argparse.Namespace) -> Callable[[], None]:
    """Return a warmed-up forward pass in the chosen precision."""
    dtype = getattr(torch, arguments.dtype)
    module = module.to(arguments.device, dtype).eval()
    images = torch.randn(arguments.batch_size, 3, 224, 224, device=arguments.device, dtype=dtype)
    run = torch.compile(module) if arguments.compile else module

    @torch.inference_mode()
    def step() -> None:
        run(images)

    for _ in range(3):
        step()
    return step


def _training_step(module: nn.Module, arguments: argparse.Namespace) -> Callable[[], None]:
    """Return a warmed-up training step with AdamW and float32 weights, under autocast unless `--dtype` is float32."""
    dtype = getattr(torch, arguments.dtype)
    module = module.to(arguments.device, torch.float32).train()
    images = torch.randn(arguments.batch_size, 3, 224, 224, device=arguments.device)
    labels = torch.randint(len(taxonomy.NAMES), (arguments.batch_size,), device=arguments.device)
    optimiser = torch.optim.AdamW(module.parameters(), lr=1e-5, fused=True)
    run = torch.compile(module) if arguments.compile else module

    def step() -> None:
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=dtype is not torch.float32):
            loss = nn.functional.cross_entropy(_logits(run, images), labels)
        torch.autograd.backward(loss)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    return step


def _logits(module: Callable[..., Any], images: torch.Tensor) -> torch.Tensor:
    output = module(images)
    return output if isinstance(output, torch.Tensor) else output.logits


def _imports(rounds: int) -> dict[str, float]:
    """Measure what `import celluscan_hf` adds to `import transformers`: medians over new processes, interleaved."""
    seconds: dict[str, list[float]] = {"transformers": [], "transformers, celluscan_hf": []}
    for _ in range(rounds):
        for modules in seconds:
            code = f"import time; started = time.perf_counter(); import {modules}; print(time.perf_counter() - started)"
            result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            seconds[modules].append(float(result.stdout))
    alone, both = (statistics.median(values) for values in seconds.values())
    return {"transformers": round(alone, 3), "with_celluscan_hf": round(both, 3), "added": round(both - alone, 3)}


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if timm or the GPU is missing."""
    if find_spec("timm") is None:
        raise CelluScanError('timm is not installed: pip install "celluscan_hf[benchmark]"')
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise CelluScanError("--device cuda: torch sees no GPU")
