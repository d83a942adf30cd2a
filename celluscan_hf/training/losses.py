"""Losses over class scores, for hard labels and for the mixed ones of MixUp and CutMix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

LOSSES = ("cross_entropy", "class_balanced", "focal")


@dataclass(frozen=True)
class CellLoss:
    """The loss of a batch, as `Trainer(compute_loss_func=…)` calls it.

    - `kind`: `cross_entropy`; `class_balanced`, which weighs classes by the inverse effective number of their images
      (Cui et al. 2019, https://arxiv.org/abs/1901.05555); or `focal`, which lowers the weight of images that are
      already told well (Lin et al. 2017, https://arxiv.org/abs/1708.02002).
    - `label_smoothing`: share of the target that is spread evenly over all classes.
    - `focal_gamma`: how fast `focal` lowers the weight; 0 is cross-entropy.
    - `class_weights` (classes,): of `class_balanced`.
    """

    kind: str
    label_smoothing: float
    focal_gamma: float
    class_weights: torch.Tensor | None = None

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Mean over `num_items_in_batch` images (by default those of this batch).

        `outputs.logits` (B, classes); `labels` (B,) classes, or (B, classes) shares.
        """
        logs = functional.log_softmax(outputs.logits.float(), dim=-1)
        classes = logs.shape[-1]
        shares = functional.one_hot(labels, classes) if labels.ndim == 1 else labels
        targets = shares.to(logs.dtype) * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.kind == "class_balanced" and self.class_weights is not None:
            targets = targets * self.class_weights.to(logs.device)
        if self.kind == "focal":
            targets = targets * (1 - logs.exp()).clamp_min(1e-6) ** self.focal_gamma
        return -(targets * logs).sum() / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def class_weights(counts: Sequence[int], beta: float) -> torch.Tensor:
    """(1 - beta) / (1 - beta^count) per class, scaled so that the mean over the images is 1; 0 without images.

    `counts`: images of each class. `beta` in [0, 1): 0 weighs all classes alike, near 1 by the inverse of their count.
    """
    images = torch.tensor(counts, dtype=torch.float64)
    weights = torch.where(images > 0, (1 - beta) / (1 - beta**images), 0.0)
    return (weights * images.sum() / (weights * images).sum()).float()
