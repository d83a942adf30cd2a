"""Try ways to adapt a model on held-out cells, so that the best can be chosen and what to expect is known.

Each cell is answered by a fit without the cells of its group (cross-validation). A trial is scored by the negative
log-likelihood of its held-out answers, every class weighing the same, after the temperature that suits it best: this
punishes doubt and mistakes, but not sureness, which is calibrated later.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedGroupKFold
from transformers import BaseImageProcessor, PreTrainedModel

from ..augmentation.view import View
from ..modeling.looks_celluscan import looks, symmetries
from ..modeling.reliability_celluscan import COLOURS, colours, forward, head_of
from ..reliability.temperature import TEMPERATURE_SPREAD, Adjustment, fit_adjustment, fit_temperature
from .cells import LabelledCells, view_of
from .head import DEFAULT_STRENGTH, STRENGTHS, LinearHead, balanced_weights, fit_head, fit_heads

MOST_FOLDS = 10
_BATCH = 64  # images in one forward pass
NEVER = -1  # fold of cells that are never held out
Floats = NDArray[np.float64]
TrainLayers = Callable[[LinearHead, NDArray[np.int64]], PreTrainedModel]  # from a head, on some of the cells


def folds(labels: NDArray[np.int64], groups: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """Fold of each cell (n,): a group is in one fold, classes are spread over the folds.

    Cells of a class with one group are `NEVER` held out, as nothing would be left to learn it from; if that leaves
    fewer than two classes, no cell is.
    """
    per_class = {label: len(np.unique(groups[labels == label])) for label in np.unique(labels)}
    held_out = np.isin(labels, [label for label, number in per_class.items() if number > 1])
    fold = np.full(len(labels), NEVER)
    if len(np.unique(labels[held_out])) < 2:
        return fold
    splits = StratifiedGroupKFold(min(count, max(per_class.values())), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes with fewer cells than folds
        for number, (_, rows) in enumerate(splits.split(labels[held_out], labels[held_out], groups[held_out])):
            fold[np.flatnonzero(held_out)[rows]] = number
    before = np.empty_like(fold)
    while not np.array_equal(before, fold):
        before = fold.copy()
        for label in np.unique(labels):  # all cells of a small class may be in one fold
            if len(np.unique(fold[labels == label])) == 1:
                fold[labels == label] = NEVER
        fold[np.isin(groups, groups[fold == NEVER])] = NEVER  # a group is held out as a whole
    if len(np.unique(labels[fold != NEVER])) < 2:
        fold[:] = NEVER
    return fold


@dataclass(frozen=True)
class Way:
    """One way to look at the cells: a processor, which decides how much of a picture is seen, and a model.

    `statistics`: whether the model has batch-norm statistics of the new images. `pixels` (n, 3, resized, resized) uint8
    are of the labelled cells. `known_looks`: their `looks`, if they were computed before.
    """

    processor: BaseImageProcessor
    model: PreTrainedModel
    statistics: bool
    pixels: torch.Tensor
    known_looks: Floats | None = None

    def of(self, rows: NDArray[np.int64]) -> "Way":
        """The same way to look at some of the cells."""
        return replace(self, pixels=self.pixels[rows], known_looks=self.looks[:, rows])

    @property
    def view(self) -> View:
        return view_of(self.processor)

    @property
    def training_view(self) -> View:
        """The view of a training image: the smallest of the model's crops."""
        side = self.model.config.image_size
        return replace(self.view, side=side, crop_pct=side / self.view.resized)

    @cached_property
    def features(self) -> Floats:
        """What the classifier reads, the mean over all looks, and colours: (n, D + 9)."""
        seen = [colours(images).cpu().double().numpy() for images in batches(self.pixels, self.view, self.model.device)]
        return np.concatenate((self.looks.mean(axis=0), np.concatenate(seen)), axis=1)

    @cached_property
    def looks(self) -> Floats:
        """The features of each look at each cell: (looks, n, D). What the classifier reads is their mean."""
        if self.known_looks is not None:
            return self.known_looks
        config, parts = self.model.config, []
        with torch.no_grad():
            for images in batches(self.pixels, self.view, self.model.device):
                crops = looks(images, config.crops, config.image_size) if config.crops else images
                pooled = self.model.vit(symmetries(crops, config.views)).pooler_output
                parts.append(pooled.unflatten(0, (-1, len(images))).float().cpu())
        together: Floats = torch.cat(parts, dim=1).double().numpy()
        return together

    def run(self, model: PreTrainedModel, rows: NDArray[np.int64] | None = None) -> tuple[Floats, Floats]:
        """Logits (n, classes of that model) and features with colours (n, D + 9) of some cells, or all."""
        pixels = self.pixels if rows is None else self.pixels[rows]
        with torch.no_grad():
            parts = [forward(model, images) for images in batches(pixels, self.view, model.device)]
        logits, features = (torch.cat(part).cpu().double().numpy() for part in zip(*parts, strict=True))
        return logits, features


def batches(pixels: torch.Tensor, view: View, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield the `pixel_values` of stored pixels (n, 3, resized, resized) uint8."""
    for start in range(0, len(pixels), _BATCH):
        yield view(pixels[start : start + _BATCH].to(device))


@dataclass(frozen=True)
class Trial:
    """One way to adapt, tried on held-out cells.

    - `method`: as in `celluscan adapt --method`; `way`: which of the ways to look at an image it takes.
    - `strength`: of the head's prior, None if the head is not fitted.
    - `fold` (n,); `logits` (n, classes) and `features` with colours (n, D + 9) of each cell, by the fit without it;
      rows of cells that were not held out are of a fit with them.
    - `seconds` that the trial took.
    """

    method: str
    way: "Way"
    strength: float | None
    fold: NDArray[np.int64]
    labels: NDArray[np.int64]
    logits: Floats
    features: Floats
    seconds: float = 0.0

    @property
    def held_out(self) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = self.fold != NEVER
        return mask

    @cached_property
    def temperature(self) -> float:
        """The temperature that suits the held-out answers, nearer to 1 the fewer; 1 if it was fitted already."""
        if self.method == "calibration":
            return 1.0
        rows = self.held_out
        return fit_temperature(self.logits[rows], self.labels[rows], TEMPERATURE_SPREAD) if rows.any() else 1.0

    @cached_property
    def losses(self) -> Floats:
        """Negative log-likelihood of each held-out cell at the best temperature, every class weighing the same."""
        logits, labels = self.logits[self.held_out], self.labels[self.held_out]
        if len(labels) and self.method != "calibration":
            logits = logits / fit_temperature(logits, labels)
        likelihood = log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
        losses: Floats = -balanced_weights(labels) * likelihood
        return losses

    @property
    def score(self) -> float:
        """Mean of the losses; infinite if nothing is held out."""
        return float(self.losses.mean()) if self.held_out.any() else float("inf")

    def clearly_better(self, other: "Trial", groups: NDArray[np.int64]) -> bool:
        """Whether the mean of the losses is lower, on the same cells, by more than its standard error.

        The error is that of a mean of `groups` (n,), whose cells may err together.
        """
        gain = other.losses - self.losses
        member_of = np.unique(groups[self.held_out], return_inverse=True)[1]
        residuals = np.bincount(member_of, gain - gain.mean()) if len(gain) else np.zeros(0)
        if (number := len(residuals)) < 2:
            return False
        return bool(gain.mean() > np.sqrt(number / (number - 1) * (residuals**2).sum()) / len(gain))


@dataclass(frozen=True)
class Trials:
    """Tries ways to adapt on cells; `source` is the model's head for the classes of the adapted model."""

    cells: LabelledCells
    source: LinearHead
    seed: int = 0

    @cached_property
    def fold(self) -> NDArray[np.int64]:
        return folds(self.cells.labels, self.cells.groups, MOST_FOLDS, self.seed)

    def unchanged(self, way: Way) -> Trial:
        """The model's own head; every cell is held out, since nothing was fitted to it."""
        fold = np.zeros(len(self.cells), np.int64)
        return Trial("none", way, None, fold, self.cells.labels, self.source(deep(way.features)), way.features)

    def calibrated(self, way: Way) -> Trial:
        """The model's own head with a temperature and a bias of each class, both shrunk (`fit_adjustment`)."""
        before = self.unchanged(way)
        fold, labels, logits = self.fold, self.cells.labels, before.logits.copy()
        for number in np.unique(fold):
            inside = fold == number
            train = ~inside if number != NEVER else np.ones(len(fold), bool)
            logits[inside] = fit_adjustment(before.logits[train], labels[train])(before.logits[inside])
        return Trial("calibration", way, None, fold, labels, logits, way.features)

    def head(self, way: Way) -> Trial:
        """A head on frozen features, with a prior of the default strength, or of the best if that is clearly better."""
        trials = self.heads(way, STRENGTHS)
        best, default = min(trials, key=lambda trial: trial.score), trials[STRENGTHS.index(DEFAULT_STRENGTH)]
        return best if best.clearly_better(default, self.cells.groups) else default

    def heads(self, way: Way, strengths: Sequence[float], usable: NDArray[np.bool_] | None = None) -> list[Trial]:
        """Heads with a prior of each strength; cells that are not `usable` (n,) are held out but not learned from."""
        labels, features = self.cells.labels, deep(way.features)
        learned = np.ones(len(labels), bool) if usable is None else usable
        logits = np.empty((len(strengths), len(labels), len(self.source.bias)))
        for number in np.unique(self.fold):
            inside = self.fold == number
            train = learned & (~inside if number != NEVER else True)
            fitted = fit_heads(self.source, way.looks[:, train], labels[train], strengths)
            logits[:, inside] = [head(features[inside]) for head in fitted]
        return [
            Trial("head", way, strength, self.fold, labels, answers, way.features)
            for strength, answers in zip(strengths, logits, strict=True)
        ]

    def layers(self, kind: str, head: Trial, count: int, train: TrainLayers) -> Trial:
        """Train layers from a head like that of `head` on, without each of `count` folds in turn."""
        started = time.perf_counter()
        labels, way = self.cells.labels, head.way
        fold = folds(labels, self.cells.groups, count, self.seed)
        logits, features = head.logits.copy(), head.features.copy()
        for number in np.unique(fold[fold != NEVER]):
            rows, inside = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
            start = fit_head(self.source, way.looks[:, rows], labels[rows], head.strength or DEFAULT_STRENGTH)
            logits[inside], features[inside] = way.run(train(start, rows), inside)
        seconds = time.perf_counter() - started
        return Trial(kind, way, head.strength, fold, labels, logits, features, seconds)

    def adjustment(self, way: Way) -> Adjustment:
        """Temperature and bias for all cells."""
        return fit_adjustment(self.source(deep(way.features)), self.cells.labels)

    def final_head(self, trial: Trial) -> LinearHead:
        """The head of a trial, fitted to all cells."""
        if trial.strength is not None:
            return fit_head(self.source, trial.way.looks, self.cells.labels, trial.strength)
        if trial.method != "calibration":
            return self.source
        adjustment = self.adjustment(trial.way)
        bias = self.source.bias / adjustment.temperature + adjustment.bias
        return LinearHead(self.source.weight / adjustment.temperature, bias)


def deep(features: Floats) -> Floats:
    """The features without the colours."""
    return features[:, :-COLOURS]


def head_for(model: PreTrainedModel, names: tuple[str, ...]) -> LinearHead:
    """The head of a model for other classes: a class that it does not know starts as the mean of those it does."""
    linear = head_of(model)
    weight, bias = (part.detach().cpu().double().numpy() for part in (linear.weight, linear.bias))
    rows = {name: int(number) for number, name in model.config.id2label.items()}
    known = [rows.get(name) for name in names]
    return LinearHead(
        np.stack([weight.mean(axis=0) if row is None else weight[row] for row in known]),
        np.array([bias.mean() if row is None else bias[row] for row in known]),
    )


def with_head(model: PreTrainedModel, head: LinearHead, names: tuple[str, ...]) -> PreTrainedModel:
    """Copy a model with another head."""
    changed = deepcopy(model)
    changed.config.id2label = dict(enumerate(names))
    changed.config.label2id = {name: number for number, name in enumerate(names)}
    linear = head_of(changed)
    linear.out_features = len(names)
    for name, value in (("weight", head.weight), ("bias", head.bias)):
        old = getattr(linear, name)
        setattr(linear, name, torch.nn.Parameter(torch.from_numpy(value).to(old.device, old.dtype)))
    return changed
