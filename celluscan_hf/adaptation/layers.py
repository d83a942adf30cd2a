"""Train layers of a model on a few cells: all of them at a small rate, or low-rank adapters beside them.

The head is fitted before (LP-FT, Kumar et al. 2022, https://arxiv.org/abs/2202.10054), so that the first steps do not
spoil the features.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from ..augmentation.batches import Augmentation
from ..augmentation.view import View
from ..inference.prediction import computes_bfloat16

AUGMENTATION = Augmentation(rotate="any", shift=0.06, color_jitter=0.1, zoom=(0.5, 0.85))
_WARMUP = 0.1  # share of the steps in which the rate rises
RANK = 8  # of low-rank adapters


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
    keep_statistics: bool = True,
) -> None:
    """Train all weights of a model that are trainable, in place: pixels (n, 3, resized, resized) uint8, labels (n,).

    Every class is drawn equally often. Batch norms keep their statistics, unless told otherwise. The model is in
    evaluation mode afterwards.
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
        if keep_statistics and isinstance(layer, nn.modules.batchnorm._BatchNorm):
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
