"""Train layers of a model on a few cells: all of them at a small rate, or low-rank adapters (LoRA) beside them.

The head is fitted before (LP-FT, Kumar et al. 2022, https://arxiv.org/abs/2202.10054), so that the first steps do not
spoil the features. Batch norms keep their statistics. Adapters (Hu et al. 2021, https://arxiv.org/abs/2106.09685) are
merged into the weights at the end.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from ..augmentation.batches import Augmentation
from ..augmentation.view import View
from ..errors import CelluScanError
from ..inference.prediction import computes_bfloat16
from ..modeling.reliability_celluscan import head_of

if TYPE_CHECKING:
    from peft import PeftModel

AUGMENTATION = Augmentation(rotate="any", shift=0.06, color_jitter=0.1, zoom=(0.5, 0.85))
_WARMUP = 0.1  # share of the steps in which the rate rises
_RANK = 8  # of the adapters
_MATRICES = ["qkv", "proj", "fc1", "fc2"]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast layers are trained."""

    steps: int = 120
    batch_size: int = 48
    learning_rate: float = 5e-4
    weight_decay: float = 0.05
    label_smoothing: float = 0.05


def train_layers(
    model: PreTrainedModel,
    pixels: torch.Tensor,
    labels: NDArray[np.int64],
    view: View,
    schedule: Schedule,
    seed: int,
    advance: Callable[[int], object] = lambda steps: None,
) -> None:
    """Train all weights of a model that are trainable, in place: pixels (n, 3, resized, resized) uint8, labels (n,).

    Every class is drawn equally often. The model is in evaluation mode afterwards.
    """
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, schedule.learning_rate, weight_decay=schedule.weight_decay)
    rates = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, schedule.learning_rate, schedule.steps, pct_start=_WARMUP, cycle_momentum=False
    )
    loss_of = nn.CrossEntropyLoss(label_smoothing=schedule.label_smoothing)
    device, targets = model.device, torch.from_numpy(labels).to(model.device)
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of dropout
        for number, rows in enumerate(_batches(labels, schedule, seed)):
            draws = range(number * schedule.batch_size, (number + 1) * schedule.batch_size)
            images = AUGMENTATION(pixels[rows].to(device), draws, view)
            with torch.autocast(device.type, torch.bfloat16, enabled=computes_bfloat16(device)):
                logits = model(pixel_values=images).logits
            loss_of(logits.float(), targets[rows]).backward()
            optimizer.step()
            rates.step()
            optimizer.zero_grad()
            advance(1)
    model.eval()


def _batches(labels: NDArray[np.int64], schedule: Schedule, seed: int) -> Iterator[NDArray[np.int64]]:
    """Yield the rows of each batch: every class as often, and within a class every cell."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    chances = 1 / counts[labels] / np.count_nonzero(counts)
    for _ in range(schedule.steps):
        yield rng.choice(len(labels), schedule.batch_size, p=chances)


def low_rank(model: PreTrainedModel) -> "PeftModel":
    """Freeze a hand-built model but for its head, and put low-rank adapters beside the matrices of its blocks.

    Raises:
        CelluScanError: The extra `adapt` is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise CelluScanError('--method lora needs peft: pip install "celluscan_hf[adapt]"') from error
    adapted = get_peft_model(model, LoraConfig(r=_RANK, lora_alpha=2 * _RANK, target_modules=_MATRICES))
    head_of(model).requires_grad_(True)
    return adapted


def merged(adapted: "PeftModel") -> PreTrainedModel:
    """Add the adapters to the matrices that they stand beside: a plain model with the same answers."""
    model: PreTrainedModel = adapted.merge_and_unload()
    return model.requires_grad_(True)
