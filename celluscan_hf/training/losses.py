"""Classification losses, for hard labels and for the soft ones of MixUp and CutMix.

Two use the taxonomy. The `hierarchical` loss counts a parent class and its children as right for an image labelled with
the parent, so that sources of different label depth train together. The maturation loss, which is added to any of the
others, makes a mistake along the maturation stages cost more the more stages it is off.

To add a loss: a function like `_focal`, and an entry of `LOSSES`. An option of its own is a field of `CellLoss` and of
`TrainingSettings`, which hands it over in `loss_function`; the entry names it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .. import taxonomy

# (classes, classes): whether a class (column) is right for a label (row): the label's class itself or a child of it
_IS_RIGHT = torch.tensor([[name in (cell.name, cell.parent) for cell in taxonomy.CLASSES] for name in taxonomy.NAMES])
_HAS_STAGE = torch.tensor([cell.stage is not None for cell in taxonomy.CLASSES])  # (classes,): not so the parents
_STAGES = range(1, 1 + max(cell.stage or 0 for cell in taxonomy.CLASSES))
# (classes, steps): share of the label's possible stages that lie before each of the steps between stages
_BEFORE = torch.tensor(
    [
        [sum(stage <= step for stage in possible) / max(len(possible), 1) for step in _STAGES[:-1]]
        for possible in map(taxonomy.stages, taxonomy.NAMES)
    ]
)
# (classes, steps): whether the label decides on which side of the step it is
_DECIDED = torch.tensor([[bool(taxonomy.stages(name))] for name in taxonomy.NAMES]) & ((_BEFORE == 0) | (_BEFORE == 1))


@dataclass(frozen=True)
class CellLoss:
    """The loss of a batch, for `Trainer(compute_loss_func=…)`.

    - `kind`: a name in `LOSSES`.
    - `label_smoothing`: share of the target that is spread evenly over all classes.
    - `focal_gamma`: exponent of `focal`; 0 is cross-entropy.
    - `class_weights` (classes,): weights of `class_balanced`, see `class_weights`.
    - `parent_share`: see `hierarchical_log_probs`.
    - `maturation_weight`: weight of `maturation_error`, which is added to any kind; 0 leaves it out. It uses the labels
      without smoothing, which would pull every stage to the middle, but with the weights of `class_balanced`.
    """

    kind: str
    label_smoothing: float
    focal_gamma: float
    class_weights: torch.Tensor | None = None
    parent_share: float = 0.1
    maturation_weight: float = 0.0

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Average over `num_items_in_batch` images (by default those of this batch).

        `outputs.logits` (B, classes); `labels` (B,) classes, or (B, classes) shares.
        """
        log_probs = functional.log_softmax(outputs.logits.float(), dim=-1)
        classes = log_probs.shape[-1]
        shares = (functional.one_hot(labels, classes) if labels.ndim == 1 else labels).to(log_probs.dtype)
        targets = shares * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.kind == "class_balanced" and self.class_weights is not None:
            weights = self.class_weights.to(log_probs.device)
            shares, targets = shares * weights, targets * weights
        total = -LOSSES[self.kind].compute(log_probs, targets, self).sum()
        if self.maturation_weight:
            total = total + self.maturation_weight * (shares * maturation_error(log_probs)).sum()
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def _cross_entropy(log_probs: torch.Tensor, targets: torch.Tensor, loss: CellLoss) -> torch.Tensor:
    return targets * log_probs


def _focal(log_probs: torch.Tensor, targets: torch.Tensor, loss: CellLoss) -> torch.Tensor:
    return targets * (1 - log_probs.exp()).clamp_min(1e-6) ** loss.focal_gamma * log_probs


def _hierarchical(log_probs: torch.Tensor, targets: torch.Tensor, loss: CellLoss) -> torch.Tensor:
    return targets * hierarchical_log_probs(log_probs, loss.parent_share)


@dataclass(frozen=True)
class Loss:
    """A loss: `compute` gives the summands (B, classes) of the log-likelihood; `options` are settings it alone uses."""

    compute: Callable[[torch.Tensor, torch.Tensor, CellLoss], torch.Tensor]
    options: tuple[str, ...] = ()


LOSSES = {
    "cross_entropy": Loss(_cross_entropy),
    # weights classes by the inverse effective number of their images (Cui et al. 2019, https://arxiv.org/abs/1901.05555)
    "class_balanced": Loss(_cross_entropy, ("class_balanced_beta",)),
    # lowers the weight of images that are already classified well (Lin et al. 2017, https://arxiv.org/abs/1708.02002)
    "focal": Loss(_focal, ("focal_gamma",)),
    "hierarchical": Loss(_hierarchical, ("parent_share",)),
}


def hierarchical_log_probs(log_probs: torch.Tensor, parent_share: float) -> torch.Tensor:
    """Compute the log-likelihood of each label from log-probabilities of classes, both (B, classes of the taxonomy).

    For a class without children it is log p, as in cross-entropy; for a parent, with `parent_share` a, it is

        a log p(parent) + (1 - a) log (p(parent) + sum of p(children)).

    With a = 0 a Neutrophil is separated from all classes but its children. Among the three there is no preference: a
    step raises each in proportion to its probability, so sources with finer labels decide between them, and no image
    teaches the model to predict the parent. With a = 1 it is cross-entropy: the parent is right and its children are
    wrong. In between, if similar cells are labelled with shares t, the optimum has p(parent) proportional to
    a t(parent) and p(child) to t(child): a child is predicted if its share is above a t(parent).

    Each part of a soft label (MixUp, CutMix, smoothing) has its own likelihood, weighted by its share. The sum is taken
    with logsumexp, so that it keeps a gradient if all three probabilities underflow.
    """
    wrong = ~_IS_RIGHT.to(log_probs.device)
    family = log_probs[:, None].masked_fill(wrong, -torch.inf).logsumexp(dim=-1)  # (B, classes)
    return torch.lerp(family, log_probs, parent_share)  # exactly `log_probs` for classes without children


def maturation_error(log_probs: torch.Tensor) -> torch.Tensor:
    """Compute the distance of the predicted maturation stages from each label, both (B, classes of the taxonomy).

    It is the squared earth mover's distance on the six stages (Hou et al. 2016, https://arxiv.org/abs/1611.05916), also
    known as the ranked probability score (Epstein, J Appl Meteorol 8, 1969): the sum over the five steps between stages
    of (predicted share before the step - labelled share before it) squared. A certain prediction costs the number of
    stages that it is off; a label without a stage costs nothing. Unlike the expected distance the score is proper: its
    minimum is at the true probabilities, as for cross-entropy.

    - The prediction is the distribution among the classes with a stage. Their total probability, against Lymphocyte or
      a parent, is left to the other loss; if it counted here, predicting a class without a stage would avoid the cost.
    - A parent label leaves the steps among its children open (Immature Granulocyte: stages 2 to 4, Neutrophil: 5 and
      6), and they are not counted. A uniform target would ask for uncertainty even if the cell is clear; so any
      prediction among the children costs nothing, as in `hierarchical_log_probs`.
    """
    before = _BEFORE.to(log_probs.device)
    staged = log_probs.masked_fill(~_HAS_STAGE.to(log_probs.device), -torch.inf).softmax(dim=-1)  # (B, classes)
    predicted = (staged[..., None] * before).sum(dim=1)  # (B, steps); autocast would round a matmul
    return (_DECIDED.to(log_probs.device) * (predicted[:, None] - before) ** 2).sum(dim=-1)


def class_weights(counts: Sequence[int], beta: float) -> torch.Tensor:
    """Compute (1 - beta) / (1 - beta^count) per class, scaled to a mean of 1 over the images; 0 without images.

    `counts`: images of each class. `beta` in [0, 1): 0 weights all classes alike, near 1 by the inverse of their count.
    """
    images = torch.tensor(counts, dtype=torch.float64)
    weights = torch.where(images > 0, (1 - beta) / (1 - beta**images), 0.0)
    return (weights * images.sum() / (weights * images).sum()).float()
