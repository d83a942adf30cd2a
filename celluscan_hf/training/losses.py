"""Losses over class scores, for hard labels and for the mixed ones of MixUp and CutMix.

Two parts know the taxonomy. `hierarchical` lets an image that is labelled with a parent be explained by the parent or
any of its children, so that sources of different depth train together. The maturation term, beside any of the losses,
makes a mistake along the line of maturation cost more the more stages it is off.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from .. import taxonomy

LOSSES = ("cross_entropy", "class_balanced", "focal", "hierarchical")

# (classes, classes): whether a label, the row, is explained by a class, the column: itself, or a child of it
_EXPLAINED_BY = torch.tensor(
    [[name in (cell.name, cell.parent) for cell in taxonomy.CLASSES] for name in taxonomy.NAMES]
)
_STAGED = torch.tensor([cell.stage is not None for cell in taxonomy.CLASSES])  # (classes,): not so the parents
# (classes, steps): which share of the stages that a label leaves open lies before each of the five steps of the line
_BEFORE = torch.tensor(
    [
        [sum(stage <= step for stage in open_) / max(len(open_), 1) for step in range(1, 6)]
        for open_ in map(taxonomy.stages, taxonomy.NAMES)
    ]
)
# (classes, steps): where a label leaves no doubt of that
_SAYS = torch.tensor([[bool(taxonomy.stages(name))] for name in taxonomy.NAMES]) & ((_BEFORE == 0) | (_BEFORE == 1))


@dataclass(frozen=True)
class CellLoss:
    """The loss of a batch, as `Trainer(compute_loss_func=…)` calls it.

    - `kind`: `cross_entropy`; `class_balanced`, which weighs classes by the inverse effective number of their images
      (Cui et al. 2019, https://arxiv.org/abs/1901.05555); `focal`, which lowers the weight of images that are already
      told well (Lin et al. 2017, https://arxiv.org/abs/1708.02002); or `hierarchical`, see `explained`.
    - `label_smoothing`: share of the target that is spread evenly over all classes.
    - `focal_gamma`: how fast `focal` lowers the weight; 0 is cross-entropy.
    - `class_weights` (classes,): of `class_balanced`.
    - `parent_share`: of `hierarchical`, see `explained`.
    - `maturation_weight`: of `maturation_error`, which is added to any kind; 0 leaves it out. It takes the labels
      without smoothing, which would pull every stage to the middle, and with the weights of `class_balanced`.
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
        """Mean over `num_items_in_batch` images (by default those of this batch).

        `outputs.logits` (B, classes); `labels` (B,) classes, or (B, classes) shares.
        """
        logs = functional.log_softmax(outputs.logits.float(), dim=-1)
        classes = logs.shape[-1]
        shares = (functional.one_hot(labels, classes) if labels.ndim == 1 else labels).to(logs.dtype)
        targets = shares * (1 - self.label_smoothing) + self.label_smoothing / classes
        if self.kind == "class_balanced" and self.class_weights is not None:
            weights = self.class_weights.to(logs.device)
            shares, targets = shares * weights, targets * weights
        if self.kind == "focal":
            targets = targets * (1 - logs.exp()).clamp_min(1e-6) ** self.focal_gamma
        scores = hierarchical_log_probs(logs, self.parent_share) if self.kind == "hierarchical" else logs
        total = -(targets * scores).sum()
        if self.maturation_weight:
            total = total + self.maturation_weight * (shares * maturation_error(logs)).sum()
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def hierarchical_log_probs(logs: torch.Tensor, parent_share: float) -> torch.Tensor:
    """How well each label is explained by what was predicted, both (B, classes of the taxonomy), as logarithms.

    A class without children by its own probability p, as in cross-entropy; a parent, with `parent_share` a, by

        a log p(parent) + (1 - a) log (p(parent) + sum of p(children)).

    The sum alone (a = 0) tells a Neutrophil from all but its children. Among the three it wants nothing: a step raises
    each in proportion to the probability that it has, so the image goes where images of finer sources have put its
    like, and no image teaches the model to say Neutrophil. With a = 1 it is cross-entropy: Neutrophil, and neither
    child. In between, of cells that look alike and bear the names in shares t, the best answer has p(parent)
    proportional to a t(parent) and p(child) to t(child): a child wins where its share is above a t(parent).

    Shares of several labels (MixUp, CutMix, smoothing) each have their own explanation, weighed by the share. The sum
    is taken of logarithms, so that it keeps a gradient where all three probabilities are too small for a float.
    """
    unexplaining = ~_EXPLAINED_BY.to(logs.device)
    family = logs[:, None].masked_fill(unexplaining, -torch.inf).logsumexp(dim=-1)  # (B, classes)
    return torch.lerp(family, logs, parent_share)  # exactly `logs` where there are no children


def maturation_error(logs: torch.Tensor) -> torch.Tensor:
    """How far the predicted stages are from those of each label, both (B, classes of the taxonomy), in stages.

    The squared earth mover's distance on the six stages (Hou et al. 2016, https://arxiv.org/abs/1611.05916), known
    before as the ranked probability score (Epstein, J Appl Meteorol 8, 1969): over the five steps between the stages,
    the sum of (share predicted before the step - share labelled before it) squared. A sure answer costs as many as it
    is stages off; a label off the line costs nothing. The score is proper: unlike the expected distance it is least
    for honest probabilities, so it asks for nothing that cross-entropy does not ask for.

    - Predicted is how the classes with a stage share what they have together. How much that is, against Lymphocyte or
      a parent, is left to the loss beside it; were it counted here, leaving the line would be a way out of the cost.
    - A label that is a parent leaves the steps among its children open (Immature Granulocyte stages 2 to 4, Neutrophil
      5 and 6), and they are not counted. Spread evenly over the children, it would ask for doubt where the cell may be
      clear; so any answer among them costs nothing, as in `explained`.
    """
    before = _BEFORE.to(logs.device)
    line = logs.masked_fill(~_STAGED.to(logs.device), -torch.inf).softmax(dim=-1)  # (B, classes)
    predicted = (line[..., None] * before).sum(dim=1)  # (B, steps); autocast would round a matmul
    return (_SAYS.to(logs.device) * (predicted[:, None] - before) ** 2).sum(dim=-1)


def class_weights(counts: Sequence[int], beta: float) -> torch.Tensor:
    """(1 - beta) / (1 - beta^count) per class, scaled so that the mean over the images is 1; 0 without images.

    `counts`: images of each class. `beta` in [0, 1): 0 weighs all classes alike, near 1 by the inverse of their count.
    """
    images = torch.tensor(counts, dtype=torch.float64)
    weights = torch.where(images > 0, (1 - beta) / (1 - beta**images), 0.0)
    return (weights * images.sum() / (weights * images).sum()).float()
