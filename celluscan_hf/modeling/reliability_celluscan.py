"""What a model says of a cell beyond its scores: which classes it may be, whether to answer at all, and why not.

- **Prediction sets** are split conformal (Vovk et al. 2005; Angelopoulos & Bates 2021, https://arxiv.org/abs/2107.07511)
  with the score of Sadinle et al. 2019 (https://arxiv.org/abs/1609.00451), one minus the probability of a class; of the
  likeliest class it is 0, so that no set is empty. A set holds the true class as often as asked, of cells that come as
  those did on which the model was calibrated.
- **Strangeness** is the squared distance of Mahalanobis from the nearest of some centres (Lee et al. 2018,
  https://arxiv.org/abs/1807.03888; one centre and no classes: Ren et al. 2021, https://arxiv.org/abs/2106.09022), of
  what the classifier reads, or of the colours of the picture, whichever is larger: a model that was taught to overlook
  the colour of the field reads little of a stain that it does not know.
- **The verdict** names a class, or its parent where children compete, or says that it would be a guess.

Two files beside the weights hold what was measured on validation: `reliability.json`, to be read, and
`reliability.safetensors`. This file is shipped with every checkpoint as remote code, so it stands alone: it imports
nothing of this package.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from torch import nn
from transformers.utils.hub import cached_file

FACTS, ARRAYS = "reliability.json", "reliability.safetensors"
VERSION = 3  # of what the two files hold
PARTS = ("features", "colours")  # by which a picture may be strange
COLOURS = 9  # numbers that tell of the colours of a picture
COVERAGE = 0.9  # of a set, unless asked otherwise
SURE = 0.7  # from this probability on an answer is given without doubt, where nothing was measured
COMPETES = 0.1  # a child with less is not named
ABNORMAL = 0.5  # from this sum of probabilities on a cell is flagged; not tuned
_SAME_HEAD = 0.01  # by which half precision may change the norm of a head
Floats = NDArray[np.floating[Any]]


class CellFacts(Protocol):
    """What is known of a class; `stage` is 1 to 6 on the line of neutrophil maturation."""

    @property
    def name(self) -> str: ...
    @property
    def code(self) -> str: ...
    @property
    def parent(self) -> str | None: ...
    @property
    def lineage(self) -> str: ...
    @property
    def stage(self) -> int | None: ...
    @property
    def abnormal_in_blood(self) -> bool: ...


@dataclass(frozen=True)
class StoredFacts:
    """`CellFacts` as `reliability.json` holds them."""

    name: str
    code: str
    parent: str | None
    lineage: str
    stage: int | None
    abnormal_in_blood: bool


FACT_NAMES = ("code", "lineage", "stage", "parent", "abnormal_in_blood")  # of an answer, in this order


class Certainty(Enum):
    """How far a verdict goes."""

    CLASS = "sure of the class"
    PARENT = "sure of the parent class only"
    UNSURE = "unsure"
    OUT_OF_DISTRIBUTION = "out of distribution"


@dataclass(frozen=True)
class Decision:
    """What is said of one cell.

    - `label`: a class; where children compete, their parent; where unsure, the likeliest class.
    - `score`: its probability, of a parent that of its family together.
    - `competing`: the children between which the model is unsure, likeliest first.
    - `reason`: why it is no plain answer, in words; empty where it is one.
    """

    certainty: Certainty
    label: str
    score: float
    competing: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        if self.certainty is Certainty.PARENT:
            return f"children of {self.label} compete"
        return "low confidence" if self.certainty is Certainty.UNSURE else ""


def decide(ranking: Sequence[tuple[CellFacts, float]], confidence_threshold: float = SURE) -> Decision:
    """Decide on an answer from classes and their probabilities, likeliest first."""
    best, probability = ranking[0]
    if probability >= confidence_threshold:
        return Decision(Certainty.CLASS, best.name, probability)
    parent = best.parent or best.name
    family = [(cell, share) for cell, share in ranking if parent in (cell.name, cell.parent)]
    together = sum(share for _, share in family)
    if len(family) > 1 and together >= confidence_threshold:
        competing = tuple(cell.name for cell, share in family if cell.name != parent and share >= COMPETES)
        return Decision(Certainty.PARENT, parent, together, competing)
    return Decision(Certainty.UNSURE, best.name, probability)


def conformity(probabilities: Floats) -> NDArray[np.float64]:
    """How badly each class fits each cell, (n, classes) in [0, 1]: low is good, and 0 the likeliest class."""
    scores = 1 - probabilities.astype(np.float64)
    scores[np.arange(len(scores)), probabilities.argmax(axis=1)] = 0
    return scores


def threshold(scores: Floats, coverage: float) -> float:
    """What a share `coverage` of cells like these stays within: the ceil((n + 1) coverage)-th of the n scores.

    It is infinite where they are too few to tell.
    """
    place = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.9 * 10 is a bit more than 9
    return float(np.partition(scores, place - 1)[place - 1]) if place <= len(scores) else math.inf


@dataclass(frozen=True)
class Reliability:
    """What was measured of a model on cells that it was not trained on.

    - `classes`: what is known of each of its classes, in its order.
    - `scores`, `labels` (n,): conformity of the true class of each of these cells, and its number.
    - `nearby`: where known cells lie, by what the classifier reads (D numbers), and by colours (`COLOURS`); by each
      few validation cells have a distance above 1.
    - `ood_threshold`: the ood_score above which a picture is no cell that the model knows.
    - `confidence_threshold`: the least probability of an answer.
    - `record`: all of `reliability.json`.
    """

    classes: tuple[CellFacts, ...]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    nearby: tuple["MahalanobisScorer", ...]
    ood_threshold: float
    confidence_threshold: float
    record: dict[str, Any] = field(default_factory=dict)

    def thresholds(self, coverage: float = COVERAGE, by_class: bool = False) -> NDArray[np.float64]:
        """The worst conformity of a class that enters a set, (classes,).

        By class, each class is covered as often as asked; one with too few cells takes the threshold of all.

        Raises:
            ValueError: `coverage` is not between 0 and 1.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be above 0 and below 1, such as 0.9, got {coverage}")
        found = np.full(len(self.classes), threshold(self.scores, coverage))
        if by_class:
            own = [threshold(self.scores[self.labels == number], coverage) for number in range(len(found))]
            found = np.where(np.isfinite(own), own, found)
        return found

    def sets(self, probabilities: Floats, coverage: float = COVERAGE, by_class: bool = False) -> NDArray[np.bool_]:
        """Which classes each cell may be: probabilities (n, classes) -> (n, classes)."""
        within: NDArray[np.bool_] = conformity(probabilities) <= self.thresholds(coverage, by_class)
        return within

    def ood_score(self, features: Floats) -> NDArray[np.float64]:
        """How far what is read of pictures, (n, D + `COLOURS`) as `forward` gives it, lies from known cells: (n,)."""
        farthest: NDArray[np.float64] = self.distances(features).max(axis=0)
        return farthest

    def distances(self, features: Floats) -> NDArray[np.float64]:
        """The same by each of `PARTS`: (2, n)."""
        ends = np.cumsum([part.centres.shape[1] for part in self.nearby])
        parts = np.split(features, ends[:-1], axis=1)
        return np.stack([part.distance(values) for part, values in zip(self.nearby, parts, strict=True)])

    def answer(
        self,
        probabilities: Floats,
        features: Floats,
        coverage: float = COVERAGE,
        by_class: bool = False,
        top_k: int = 5,
    ) -> dict[str, Any]:
        """All that is said of one cell, from its probabilities (classes,) and what was read of it (D + `COLOURS`,).

        `label` and `score` (as `Decision`), `code`, `lineage`, `stage`, `parent`, `abnormal_in_blood` of that label;
        `abnormal`, the summed probability of abnormal classes; `set`, the classes it may be, likeliest first;
        `abstain`, whether no plain answer can be given, and `reason`, why, or None; `ood_score`, over 1 for what the
        model does not know; `top`, the `top_k` likeliest classes with their scores.
        """
        order = np.argsort(-probabilities, kind="stable").tolist()
        ranking = [(self.classes[number], float(probabilities[number])) for number in order]
        within = self.sets(probabilities[None], coverage, by_class)[0]
        ood_score = float(self.ood_score(features[None])[0] / self.ood_threshold)
        said = decide(ranking, self.confidence_threshold)
        reason = "out of distribution" if ood_score > 1 else said.reason
        return {
            "label": said.label,
            "score": said.score,
            **facts_of(said.label, self.classes),
            "abnormal": sum(share for cell, share in ranking if cell.abnormal_in_blood),
            "set": [self.classes[number].name for number in order if within[number]],
            "abstain": bool(reason),
            "reason": reason or None,
            "ood_score": ood_score,
            "top": [{"label": cell.name, "score": share} for cell, share in ranking[:top_k]],
        }


@dataclass(frozen=True)
class MahalanobisScorer:
    """Known cells: `centres` (k, D), and `whitening` (D, D), after which their spread is round."""

    centres: NDArray[np.float64]
    whitening: NDArray[np.float64]

    def distance(self, values: Floats) -> NDArray[np.float64]:
        """The squared distance of values (n, D) from the nearest centre: (n,), 0 or more."""
        wide = values.astype(np.float64)
        away = [(((wide - centre) @ self.whitening) ** 2).sum(axis=1) for centre in self.centres]
        nearest: NDArray[np.float64] = np.min(away, axis=0)
        return nearest


def facts_of(label: str, classes: Sequence[CellFacts]) -> dict[str, Any]:
    """What is known of a label, by `FACT_NAMES`; None of one that is not among the classes."""
    cell = next((cell for cell in classes if cell.name == label), None)
    return {name: getattr(cell, name, None) for name in FACT_NAMES}


def stored(classes: Sequence[CellFacts]) -> list[dict[str, Any]]:
    """Classes as `reliability.json` holds them."""
    return [asdict(StoredFacts(cell.name, **facts_of(cell.name, classes))) for cell in classes]


def head_of(model: nn.Module) -> nn.Linear:
    """The linear map at the end of a classifier: of the library's ViT, or of ours.

    Raises:
        ValueError: It ends in something else.
    """
    head = getattr(model, "classifier", None)
    head = getattr(head, "linear", head)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model).__name__} does not end in one linear classifier, as a ViT does")
    return head


def head_norm(model: nn.Module) -> float:
    """The norm of the head's weights, by which files of other weights are told."""
    return float(head_of(model).weight.detach().double().norm())


def same_head(model: nn.Module, norm: float) -> bool:
    """Whether a head has the norm that was recorded."""
    return math.isclose(head_norm(model), norm, rel_tol=_SAME_HEAD)


@contextmanager
def watched(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """A list that takes, of every forward pass within, what the classifier reads: (B, D) of float32."""
    found: list[torch.Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda head, inputs: found.append(inputs[0].float()))
    try:
        yield found
    finally:
        hook.remove()


def forward(model: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward pass: logits (B, classes), and what is read: by the classifier, and colours (B, D + `COLOURS`).

    Both of float32.
    """
    with watched(model) as read:
        logits = model(pixel_values=pixel_values).logits
    return logits.float(), torch.cat((read[0], colours(pixel_values)), dim=1)


def colours(pixel_values: torch.Tensor) -> torch.Tensor:
    """Of each picture (B, 3, H, W) the mean and deviation of the channels, and how they go together: (B, `COLOURS`)."""
    values = pixel_values.float().flatten(2)  # (B, 3, pixels)
    mean, deviation = values.mean(dim=2), values.std(dim=2)
    scaled = (values - mean[..., None]) / (deviation[..., None] + 1e-3)  # a plain picture has no deviation
    together = (scaled @ scaled.mT / values.shape[2])[:, [0, 0, 1], [1, 2, 2]]  # red and green, red and blue, …
    return torch.cat((mean, deviation, together), dim=1)


def find(model: Any) -> Reliability | None:
    """What is stored beside the weights that a model was loaded from; None where nothing is.

    Raises:
        ValueError: It cannot be read, or is of other weights.
    """
    name, revision = model.name_or_path, getattr(model.config, "_commit_hash", None)
    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    facts, arrays = (cached_file(name, file, **options) if name else None for file in (FACTS, ARRAYS))
    if facts is None or arrays is None:
        return None
    found = read(Path(facts), Path(arrays))
    if [cell.name for cell in found.classes] != [label for _, label in sorted(model.config.id2label.items())]:
        raise ValueError(f"{name}: {FACTS} is of other classes than the model; calibrate it again")
    if not same_head(model, found.record["head_norm"]):
        raise ValueError(f"{name}: {FACTS} is of other weights than the model has; calibrate it again")
    return found


def read(facts: Path, arrays: Path) -> Reliability:
    """The two files. Raises a `ValueError` where they cannot be read."""
    try:
        record = json.loads(facts.read_text("utf-8"))
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']}, expected {VERSION}")
        held = {name: values.astype(np.float64) for name, values in load_file(arrays).items()}
        return Reliability(
            tuple(StoredFacts(**cell) for cell in record["classes"]),
            held["scores"],
            held["labels"].astype(np.int64),
            tuple(MahalanobisScorer(held[f"{part}_centres"], held[f"{part}_whitening"]) for part in PARTS),
            record["ood_threshold"]["threshold"],
            record["confidence_threshold"]["threshold"],
            record,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{facts} cannot be used ({error!r}); calibrate the model again") from error
