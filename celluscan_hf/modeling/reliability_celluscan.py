"""Prediction sets, abstention and out-of-distribution scores of a calibrated model.

- **Prediction sets** are split conformal (Vovk et al. 2005; Angelopoulos & Bates 2021, https://arxiv.org/abs/2107.07511)
  with the score of Sadinle et al. 2019 (https://arxiv.org/abs/1609.00451), one minus the probability of a class; for
  the likeliest class it is 0, so that no set is empty. Sets reach the requested coverage for cells from the same
  distribution as the calibration cells.
- **The OOD score** is the squared Mahalanobis distance from the nearest of some centres (Lee et al. 2018,
  https://arxiv.org/abs/1807.03888; one centre and no classes: Ren et al. 2021, https://arxiv.org/abs/2106.09022), in
  the features that the classifier reads or in the colours of the image, whichever is larger: a model trained to ignore
  the colour of the background hardly reacts to an unknown stain.
  It does not refuse an image: other microscopes and stains exceed it too, so that the answer gets a hint. Whether an
  image shows a stained cell at all is decided in `stain_celluscan.py`.
- **The decision** names a class, or its parent if children compete, or abstains.

Two files beside the weights hold what was measured on validation: `reliability.json`, readable, and
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
VERSION = 3  # file format
PARTS = ("features", "colours")  # each has its own OOD scorer
COLOURS = 9  # numbers that describe the colours of an image
COVERAGE = 0.9  # default coverage of a prediction set
CONFIDENCE_THRESHOLD = 0.7  # least probability of a confident answer, for models that were not calibrated
COMPETES = 0.1  # a child with a lower probability is not named
NOT_A_CELL = "not a stained cell"  # a reason to abstain
OTHER_LABORATORY = (
    "Unlike the cells that the model was trained on, as of another microscope or stain, or cut out in another way: "
    "adapt it with some labelled cells of yours"
)
ABNORMAL = 0.5  # summed probability from which a cell is flagged; not tuned
_SAME_HEAD = 0.01  # relative change of a head's norm that half precision may cause
Floats = NDArray[np.floating[Any]]


class CellFacts(Protocol):
    """Facts on a class; `stage` is the neutrophil maturation stage, 1 to 6."""

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
    """`CellFacts` as stored in `reliability.json`."""

    name: str
    code: str
    parent: str | None
    lineage: str
    stage: int | None
    abnormal_in_blood: bool


FACT_NAMES = ("code", "lineage", "stage", "parent", "abnormal_in_blood")  # in an answer, in this order


class Certainty(Enum):
    """How specific a decision is."""

    CLASS = "sure of the class"
    PARENT = "sure of the parent class only"
    UNSURE = "unsure"


@dataclass(frozen=True)
class Decision:
    """The decision for one cell.

    - `label`: a class; if children compete, their parent; if unsure, the likeliest class.
    - `score`: its probability; for a parent, summed over the parent and its children.
    - `competing`: the children between which the model is unsure, likeliest first.
    - `reason`: why the model abstains; empty if it does not.
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


def decide(ranking: Sequence[tuple[CellFacts, float]], confidence_threshold: float = CONFIDENCE_THRESHOLD) -> Decision:
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
    """Compute nonconformity scores, (n, classes) in [0, 1]: 0 for the likeliest class, higher for a worse fit."""
    scores = 1 - probabilities.astype(np.float64)
    scores[np.arange(len(scores)), probabilities.argmax(axis=1)] = 0
    return scores


def threshold(scores: Floats, coverage: float) -> float:
    """Compute the conformal threshold: the ceil((n + 1) coverage)-th smallest of n scores.

    It is infinite if there are too few scores for this coverage.
    """
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # 0.9 * 10 is a bit more than 9
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


@dataclass(frozen=True)
class Reliability:
    """Calibration of a model, measured on cells that it was not trained on.

    - `classes`: facts on the model's classes, in its order.
    - `scores`, `labels` (n,): for each calibration cell, the nonconformity score of its true class and that class's id.
    - `scorers`: one for the classifier's features (D,) and one for the colours (`COLOURS`,); both are scaled so that
      few validation cells have a distance above 1.
    - `ood_threshold`: the distance above which an image is out of distribution.
    - `confidence_threshold`: least probability of a confident answer.
    - `record`: the content of `reliability.json`.
    - `other_temperature`: temperature of the probabilities for an image that is out of distribution, 1 or more.
    """

    classes: tuple[CellFacts, ...]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    scorers: tuple["MahalanobisScorer", ...]
    ood_threshold: float
    confidence_threshold: float
    record: dict[str, Any] = field(default_factory=dict)
    other_temperature: float = 1.0

    def thresholds(self, coverage: float = COVERAGE, by_class: bool = False) -> NDArray[np.float64]:
        """Compute the largest nonconformity score that enters a set, (classes,).

        With `by_class`, each class reaches the coverage by itself; one with too few cells takes the overall threshold.

        Raises:
            ValueError: `coverage` is not between 0 and 1.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must be above 0 and below 1, such as 0.9, got {coverage}")
        thresholds = np.full(len(self.classes), threshold(self.scores, coverage))
        if by_class:
            own = [threshold(self.scores[self.labels == class_id], coverage) for class_id in range(len(thresholds))]
            thresholds = np.where(np.isfinite(own), own, thresholds)
        return thresholds

    def sets(self, probabilities: Floats, coverage: float = COVERAGE, by_class: bool = False) -> NDArray[np.bool_]:
        """Compute prediction sets: probabilities (n, classes) -> membership (n, classes)."""
        within: NDArray[np.bool_] = conformity(probabilities) <= self.thresholds(coverage, by_class)
        return within

    def ood_score(self, features: Floats) -> NDArray[np.float64]:
        """Compute OOD scores (n,) from features (n, D + `COLOURS`), as `forward` returns them."""
        scores: NDArray[np.float64] = self.distances(features).max(axis=0)
        return scores

    def distances(self, features: Floats) -> NDArray[np.float64]:
        """Compute the distance by each of `PARTS`: (2, n)."""
        ends = np.cumsum([part.centres.shape[1] for part in self.scorers])
        parts = np.split(features, ends[:-1], axis=1)
        return np.stack([part.distance(values) for part, values in zip(self.scorers, parts, strict=True)])

    def adjust(self, probabilities: Floats, features: Floats) -> tuple[Floats, float, str | None]:
        """Allow for an image unlike those of the training laboratories: nothing else depends on its OOD score.

        Takes the probabilities (classes,) and features (D + `COLOURS`,) of one image; returns the probabilities to
        answer with, the OOD score as a multiple of its threshold, and a hint or None.
        """
        ood_score = float(self.ood_score(features[None])[0] / self.ood_threshold)
        if ood_score <= 1:
            return probabilities, ood_score, None
        cooled = probabilities.astype(np.float64) ** (1 / self.other_temperature)
        return cooled / cooled.sum(), ood_score, OTHER_LABORATORY

    def answer(
        self,
        probabilities: Floats,
        features: Floats,
        coverage: float = COVERAGE,
        by_class: bool = False,
        top_k: int = 5,
        refusal: str | None = None,
    ) -> dict[str, Any]:
        """Answer for one cell, from its probabilities (classes,) and features (D + `COLOURS`,).

        `refusal` says why the image does not show a stained cell, if it does not (`stain_celluscan.refusal`).

        `label` and `score` (see `Decision`), and `code`, `lineage`, `stage`, `parent`, `abnormal_in_blood` of that
        label; `abnormal`, the summed probability of abnormal classes; `set`, the prediction set, likeliest first;
        `abstain`, and its `reason` or None; `hint`, what to know about the image or None; `ood_score`, above 1 for an
        out-of-distribution image; `top`, the `top_k` likeliest classes with their scores.
        """
        probabilities, ood_score, hint = self.adjust(probabilities, features)
        order = np.argsort(-probabilities, kind="stable").tolist()
        ranking = [(self.classes[class_id], float(probabilities[class_id])) for class_id in order]
        within = self.sets(probabilities[None], coverage, by_class)[0]
        decision = decide(ranking, self.confidence_threshold)
        reason = NOT_A_CELL if refusal else decision.reason
        return {
            "label": decision.label,
            "score": decision.score,
            **facts_of(decision.label, self.classes),
            "abnormal": sum(share for cell, share in ranking if cell.abnormal_in_blood),
            "set": [self.classes[class_id].name for class_id in order if within[class_id]],
            "abstain": bool(reason),
            "reason": reason or None,
            "hint": refusal or hint,
            "ood_score": ood_score,
            "top": [{"label": cell.name, "score": share} for cell, share in ranking[:top_k]],
        }


@dataclass(frozen=True)
class MahalanobisScorer:
    """Mahalanobis distance from training cells: `centres` (k, D) and a `whitening` matrix (D, D)."""

    centres: NDArray[np.float64]
    whitening: NDArray[np.float64]

    def distance(self, values: Floats) -> NDArray[np.float64]:
        """Compute the squared distance of values (n, D) from the nearest centre: (n,)."""
        values = values.astype(np.float64)
        distances = [(((values - centre) @ self.whitening) ** 2).sum(axis=1) for centre in self.centres]
        nearest: NDArray[np.float64] = np.min(distances, axis=0)
        return nearest


def facts_of(label: str, classes: Sequence[CellFacts]) -> dict[str, Any]:
    """Return the facts on a label, by `FACT_NAMES`; None for a label that is not among the classes."""
    cell = next((cell for cell in classes if cell.name == label), None)
    return {name: getattr(cell, name, None) for name in FACT_NAMES}


def stored(classes: Sequence[CellFacts]) -> list[dict[str, Any]]:
    """Convert classes to the records of `reliability.json`."""
    return [asdict(StoredFacts(cell.name, **facts_of(cell.name, classes))) for cell in classes]


def head_of(model: nn.Module) -> nn.Linear:
    """Return the linear layer at the end of a classifier: the library's ViT, or ours.

    Raises:
        ValueError: The model ends in something else.
    """
    head = getattr(model, "classifier", None)
    head = getattr(head, "linear", head)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"{type(model).__name__} does not end in one linear classifier, as a ViT does")
    return head


def head_norm(model: nn.Module) -> float:
    """Compute the norm of the head's weights, which identifies the weights that were calibrated."""
    return float(head_of(model).weight.detach().double().norm())


def same_head(model: nn.Module, norm: float) -> bool:
    """Whether a model's head has the recorded norm."""
    return math.isclose(head_norm(model), norm, rel_tol=_SAME_HEAD)


@contextmanager
def capture_features(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Collect what the classifier reads in every forward pass within: a list of (B, D), float32."""
    features: list[torch.Tensor] = []
    hook = head_of(model).register_forward_pre_hook(lambda head, inputs: features.append(inputs[0].float()))
    try:
        yield features
    finally:
        hook.remove()


def forward(model: nn.Module, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the model once: logits (B, classes), and features followed by colours (B, D + `COLOURS`), in float32."""
    with capture_features(model) as features:
        logits = model(pixel_values=pixel_values).logits
    return logits.float(), torch.cat((features[0], colours(pixel_values)), dim=1)


def colours(pixel_values: torch.Tensor) -> torch.Tensor:
    """Compute mean, standard deviation and correlations of the channels of images (B, 3, H, W): (B, `COLOURS`)."""
    values = pixel_values.float().flatten(2)  # (B, 3, pixels)
    mean, std = values.mean(dim=2), values.std(dim=2)
    scaled = (values - mean[..., None]) / (std[..., None] + 1e-3)  # the std of a uniform image is 0
    correlations = (scaled @ scaled.mT / values.shape[2])[:, [0, 0, 1], [1, 2, 2]]  # red and green, red and blue, …
    return torch.cat((mean, std, correlations), dim=1)


def find_reliability(model: Any) -> Reliability | None:
    """Read the calibration stored beside the weights that a model was loaded from; None if there is none.

    Raises:
        ValueError: It cannot be read, or belongs to other weights.
    """
    name, revision = model.name_or_path, getattr(model.config, "_commit_hash", None)
    options = {"revision": revision, "_raise_exceptions_for_missing_entries": False}
    facts, arrays = (cached_file(name, file, **options) if name else None for file in (FACTS, ARRAYS))
    if facts is None or arrays is None:
        return None
    reliability = read(Path(facts), Path(arrays))
    if [cell.name for cell in reliability.classes] != [label for _, label in sorted(model.config.id2label.items())]:
        raise ValueError(f"{name}: {FACTS} belongs to a model with other classes; calibrate this model again")
    if not same_head(model, reliability.record["head_norm"]):
        raise ValueError(f"{name}: {FACTS} belongs to other weights than the model has; calibrate it again")
    return reliability


def read(facts: Path, arrays: Path) -> Reliability:
    """Read the two files. Raises a `ValueError` if they cannot be used."""
    try:
        record = json.loads(facts.read_text("utf-8"))
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']}, expected {VERSION}")
        tensors = {name: values.astype(np.float64) for name, values in load_file(arrays).items()}
        return Reliability(
            tuple(StoredFacts(**cell) for cell in record["classes"]),
            tensors["scores"],
            tensors["labels"].astype(np.int64),
            tuple(MahalanobisScorer(tensors[f"{part}_centres"], tensors[f"{part}_whitening"]) for part in PARTS),
            record["ood_threshold"]["threshold"],
            record["confidence_threshold"]["threshold"],
            record,
            record.get("other_laboratory", {}).get("temperature", 1.0),  # older calibrations have none
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{facts} cannot be used ({error!r}); calibrate the model again") from error
