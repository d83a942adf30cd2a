"""Metrics of a classifier of blood cells: accuracy, balanced accuracy, macro-F1, likelihood and calibration.

Each scalar is one entry of `SCALARS`; reports, summaries and training logs list what stands there. It comes with a
95 % interval: percentiles of a bootstrap (Efron & Tibshirani 1993, chapter 13) over groups, since cells of one patient,
slide or cluster of duplicates are not independent. Calibration is the expected calibration error over 15 equal bins of
the highest probability (Guo et al. 2017, https://arxiv.org/abs/1706.04599).

This file is an `evaluate` metric that stands alone: `evaluate.load("<this folder>")` works offline.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray

BINS = 15
RESAMPLES = 1000
INTERVAL = (2.5, 97.5)  # percentiles
TINY = 1e-12  # the smallest probability whose logarithm is taken
# of taxonomy.py, written here by scripts/tables.py
LABEL_NAMES = (
    "Band Neutrophil",
    "Basophil",
    "Eosinophil",
    "Erythroblast",
    "Immature Granulocyte",
    "Lymphocyte",
    "Metamyelocyte",
    "Monocyte",
    "Myeloblast",
    "Myelocyte",
    "Neutrophil",
    "Platelet",
    "Promyelocyte",
    "Segmented Neutrophil",
)

INPUTS = """
Args:
    predictions: Probabilities (n, classes), rows that sum to one; or class indices (n,), which give no nll and no ece.
    references: True class indices (n,).
    label_names: All classes, in their order; by default the 14 of CelluScan.
    groups: The group of each image (n,), such as its patient; by default every image is a group of its own.
    sources: The dataset of each image (n,); by default `per_source` is left out.
    resamples: Number of bootstrap resamples; 0 leaves `ci95` out.
    seed: Seed of the bootstrap.
    parents: The coarser class of each class that has one, {name: name}; by default `parent_level` is left out.
Returns:
    n; accuracy; balanced_accuracy and macro_f1, over the classes that occur among the references; nll, in nats, and
    ece; ci95 {metric: [low, high]}; per_class {name: precision, recall, f1, support}, None where not defined;
    confusion_matrix {labels, matrix}, true classes as rows; per_source {source: n, the scalars, ci95};
    parent_level {classes, n, the scalars, ci95, per_class, confusion_matrix}: the same with each class replaced by its
    parent; probabilities of one parent are summed, and the class with the largest sum is the predicted one.
"""


class WBCMetrics(evaluate.Metric):
    """An `evaluate` metric; `INPUTS` describes what it takes and returns."""

    def _info(self) -> evaluate.MetricInfo:
        probabilities = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description=INPUTS,
            features=[
                datasets.Features({"predictions": predicted, "references": datasets.Value("int64")})
                for predicted in (probabilities, datasets.Value("int64"))
            ],
        )

    def _compute(
        self, predictions: Any, references: Any, label_names: Sequence[str] | None = None, **options: Any
    ) -> dict[str, Any]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        if label_names is None:
            label_names = _default_names(predictions, references)
        return compute_metrics(predictions, references, label_names, **options)


def _default_names(predictions: NDArray[Any], references: NDArray[np.int64]) -> Sequence[str]:
    """Return the 14 classes. Raises a ValueError if columns or class indices do not fit them."""
    classes = len(LABEL_NAMES)
    indices = [references, predictions] if predictions.ndim == 1 else [references]
    largest = max(values.max(initial=0) for values in indices)
    got = f"class indices up to {largest}" if largest >= classes else ""
    if predictions.ndim == 2 and predictions.shape[1] != classes:
        got = f"{predictions.shape[1]} columns of predictions"
    if got:
        raise ValueError(
            f"label_names: expected the names of all classes, as {got} do not fit the {classes} of CelluScan"
        )
    return LABEL_NAMES


def compute_metrics(
    predictions: NDArray[Any],
    references: NDArray[np.int64],
    label_names: Sequence[str],
    groups: Sequence[Any] | None = None,
    sources: Sequence[Any] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    parents: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compute all metrics of one evaluation, without `evaluate` around them. Arguments and result: see `INPUTS`.

    Raises:
        ValueError: No images; lengths, classes, groups or parents that do not fit; or rows that are not probabilities.
    """
    _check(predictions, references, len(label_names), groups, sources)
    _check_parents(parents or {}, label_names)
    outcomes = Outcomes(predictions, references, len(label_names))
    result = {"n": len(references)} | _with_intervals(outcomes, groups, resamples, seed)
    matrix = outcomes.confusion(np.ones((1, len(references))))[0]
    result["per_class"] = _per_class(matrix, label_names)
    result["confusion_matrix"] = {"labels": list(label_names), "matrix": matrix.astype(int).tolist()}
    if sources is not None:
        result["per_source"] = {
            str(source): {"n": int(inside.sum())} | _with_intervals(outcomes.rows(inside), members, resamples, seed)
            for source in sorted(set(sources))
            for inside in [np.asarray(sources) == source]
            for members in [None if groups is None else np.asarray(groups)[inside].tolist()]
        }
    if parents is not None:
        merged, true, classes = merge_children(predictions, references, label_names, parents)
        coarse = compute_metrics(merged, true, classes, groups, resamples=resamples, seed=seed)
        result["parent_level"] = {"classes": classes} | coarse
    return result


def merge_children(
    predictions: NDArray[Any], references: NDArray[np.int64], label_names: Sequence[str], parents: Mapping[str, str]
) -> tuple[NDArray[Any], NDArray[np.int64], list[str]]:
    """Replace each class by its parent: predictions, references, and the remaining classes in their order."""
    classes = [name for name in label_names if name not in parents]
    becomes = np.array([classes.index(parents.get(name, name)) for name in label_names])
    if predictions.ndim == 1:
        return becomes[predictions], becomes[references], classes
    return predictions @ np.eye(len(classes))[becomes], becomes[references], classes


@dataclass(frozen=True)
class Resamples:
    """R weightings of n images, summed up for `SCALARS`.

    - `weights` (R, n), `total` (R,): weight of each image and of all of them.
    - `right`, `true`, `predicted` (R, classes): weight of the images of each class that were recognised, that are of
      it, and that were predicted as it.
    - `nll` (n,): negative log-likelihood of each image, in nats.
    - `gaps` (n, BINS): hit minus confidence, in the column of the bin of the image.
    """

    weights: NDArray[np.float64]
    right: NDArray[np.float64]
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]
    nll: NDArray[np.float64]
    gaps: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        return self.weights.sum(axis=1)

    def mean_over_classes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Average (R, classes) over the classes that occur among the references: (R,)."""
        occurs = np.where(self.true > 0, 1.0, np.nan)
        mean: NDArray[np.float64] = np.nanmean(occurs * values, axis=1)
        return mean


@dataclass(frozen=True)
class Scalar:
    """A scalar metric: its title in tables, how `Resamples` give R values of it, whether it needs probabilities.

    `short` is its title where columns are narrow, if the title has more than eleven characters.
    """

    title: str
    compute: Callable[[Resamples], NDArray[np.float64]]
    needs_probabilities: bool = False
    short: str = ""


SCALARS = {  # a new scalar is one entry here
    "accuracy": Scalar("accuracy", lambda r: r.right.sum(axis=1) / r.total),
    "balanced_accuracy": Scalar(
        "balanced accuracy", lambda r: r.mean_over_classes(r.right / np.maximum(r.true, TINY)), short="balanced"
    ),
    "macro_f1": Scalar("macro-F1", lambda r: r.mean_over_classes(2 * r.right / np.maximum(r.true + r.predicted, TINY))),
    "nll": Scalar("NLL", lambda r: r.weights @ r.nll / r.total, needs_probabilities=True),
    "ece": Scalar("ECE", lambda r: np.abs(r.weights @ r.gaps).sum(axis=1) / r.total, needs_probabilities=True),
}


class Outcomes:
    """The outcome of each image, from which any weighting of the images gives its metrics."""

    def __init__(self, predictions: NDArray[Any], references: NDArray[np.int64], classes: int) -> None:
        self.predictions = predictions
        self.references = references
        self.classes = classes
        self.has_probabilities = predictions.ndim == 2
        self.predicted: NDArray[np.int64] = predictions.argmax(axis=1) if self.has_probabilities else predictions
        self.nll, self.gaps = np.empty(len(references)), np.empty((len(references), 0))
        if self.has_probabilities:
            true, confidence = predictions[np.arange(len(references)), references], predictions.max(axis=1)
            self.nll = -np.log(np.maximum(true, TINY))
            bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
            self.gaps = np.eye(BINS)[bins] * ((self.predicted == references) - confidence)[:, None]

    def rows(self, inside: NDArray[np.bool_]) -> "Outcomes":
        return Outcomes(self.predictions[inside], self.references[inside], self.classes)

    def confusion(self, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Weights of images (R, n) -> R matrices of classes x classes, true classes as rows."""
        cells = self.references * self.classes + self.predicted
        counted = [np.bincount(cells, row, self.classes**2) for row in weights]
        return np.stack(counted).astype(float).reshape(-1, self.classes, self.classes)

    def scalars(self, weights: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
        """Weights of images (R, n) -> R values of each scalar."""
        matrices = self.confusion(weights)
        right = np.diagonal(matrices, axis1=1, axis2=2)
        resamples = Resamples(weights, right, matrices.sum(axis=2), matrices.sum(axis=1), self.nll, self.gaps)
        return {
            name: scalar.compute(resamples)
            for name, scalar in SCALARS.items()
            if self.has_probabilities or not scalar.needs_probabilities
        }


def _with_intervals(outcomes: Outcomes, groups: Sequence[Any] | None, resamples: int, seed: int) -> dict[str, Any]:
    count = len(outcomes.references)
    result: dict[str, Any] = {name: float(values[0]) for name, values in outcomes.scalars(np.ones((1, count))).items()}
    if resamples:
        _, member_of = np.unique(np.arange(count) if groups is None else np.asarray(groups), return_inverse=True)
        sizes = int(member_of.max()) + 1
        rng = np.random.default_rng(seed)
        resampled = [outcomes.scalars(_resample(rng, sizes)[member_of][None]) for _ in range(resamples)]
        result["ci95"] = {
            name: [float(end) for end in np.percentile([scalars[name][0] for scalars in resampled], INTERVAL)]
            for name in resampled[0]
        }
    return result


def _resample(rng: np.random.Generator, groups: int) -> NDArray[np.float64]:
    """Draw as many groups as there are, with replacement; return how often each was drawn, (groups,)."""
    return np.bincount(rng.integers(0, groups, groups), minlength=groups).astype(float)


def _per_class(matrix: NDArray[np.float64], label_names: Sequence[str]) -> dict[str, dict[str, Any]]:
    right, true, predicted = np.diagonal(matrix), matrix.sum(axis=1), matrix.sum(axis=0)

    def ratio(part: float, total: float) -> float | None:
        return float(part / total) if total else None

    return {
        name: {
            "precision": ratio(right[index], predicted[index]),
            "recall": ratio(right[index], true[index]),
            "f1": ratio(2 * right[index], true[index] + predicted[index]) if true[index] else None,
            "support": int(true[index]),
        }
        for index, name in enumerate(label_names)
    }


def _check(
    predictions: NDArray[Any],
    references: NDArray[np.int64],
    classes: int,
    groups: Sequence[Any] | None,
    sources: Sequence[Any] | None,
) -> None:
    """Raise a ValueError that says what was expected and what came."""
    count = len(references)
    if count == 0:
        raise ValueError("expected at least one image, got none")
    given = {"predictions": predictions, "groups": groups, "sources": sources}
    for name, values in given.items():
        if values is not None and len(values) != count:
            raise ValueError(f"{name}: expected {count}, one for each of references, got {len(values)}")
    indices = {"references": references} | ({"predictions": predictions} if predictions.ndim == 1 else {})
    for name, values in indices.items():
        if values.min() < 0 or values.max() >= classes:
            raise ValueError(
                f"{name}: expected class indices from 0 to {classes - 1}, got {values.min()} to {values.max()}"
            )
    if predictions.ndim == 1:
        return
    if predictions.shape != (count, classes):
        raise ValueError(f"predictions: expected the shape ({count}, {classes}), got {predictions.shape}")
    if not (predictions >= 0).all() or np.abs(predictions.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError("predictions: expected probabilities, rows that sum to one, got others; apply a softmax first")


def _check_parents(parents: Mapping[str, str], label_names: Sequence[str]) -> None:
    """Raise a ValueError if a class or its parent is unknown, or a parent has a parent."""
    for name, parent in parents.items():
        if name not in label_names or parent not in label_names:
            raise ValueError(f"parents: expected names among label_names, got {name!r}: {parent!r}")
        if parent in parents:
            raise ValueError(f"parents: expected one level, got {name!r}: {parent!r}: {parents[parent]!r}")
