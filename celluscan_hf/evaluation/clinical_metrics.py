"""Metrics a haematologist asks for: distance in maturation stages, detection of abnormal cells, confused classes."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import taxonomy
from .intervals import bootstrap, proportion
from .predictions import Predictions

THRESHOLD = 0.5  # a cell counts as abnormal from this summed probability on
# Classes that the original CelluScan project confused most, by its last confusion matrix.
HARD_SETS: dict[str, tuple[str, ...]] = {
    "/".join(codes): tuple(taxonomy.lookup(code).name for code in codes)
    for codes in (("PMY", "MY", "MMY"), ("BNE", "SNE"), ("EO", "NEU"))
}
ABNORMAL = tuple(cell.name for cell in taxonomy.CLASSES if cell.abnormal_in_blood)
_LAST_STAGE = max(cell.stage or 0 for cell in taxonomy.CLASSES)


def maturation(cells: Predictions) -> dict[str, Any] | None:
    """Count mistakes in maturation stages, Myeloblast (1) to Segmented Neutrophil (6); None if no cell has a stage.

    - `n`: cells whose true class has a stage; `with_stage`: those of them whose predicted class has one, too.
    - `exact`, `adjacent`, `distant`: cells of `with_stage` predicted 0, 1, or more stages off; `distances`: all counts.
    - `mean_distance`: mean of the absolute distance in stages, over `with_stage`.
    - `without_stage`: the other cells of `n`; `to_parent`: those of them predicted as the parent of their class, which
      is not wrong but coarser.
    - `adjacent_share`: share of the mistakes of `with_stage` that are one stage off, with `ci95`; None without any.
    - `rates`: `exact`, `adjacent`, `distant` and `without_stage` as shares of `n`, with `ci95` of each.
    """
    stages = np.array([cell.stage or 0 for cell in cells.classes])  # 0: no stage
    true, predicted = stages[cells.labels], stages[cells.predicted]
    staged = true > 0
    with_stage = staged & (predicted > 0)
    if not staged.any():
        return None
    distance = np.abs(true - predicted)
    mistakes = with_stage & (distance > 0)
    counts = np.bincount(distance[with_stage], minlength=_LAST_STAGE).tolist()
    return {
        "n": int(staged.sum()),
        "with_stage": int(with_stage.sum()),
        "exact": counts[0],
        "adjacent": counts[1],
        "distant": sum(counts[2:]),
        "distances": {str(stages): count for stages, count in enumerate(counts)},
        "mean_distance": float(distance[with_stage].mean()) if with_stage.any() else None,
        "without_stage": int((staged & ~with_stage).sum()),
        "to_parent": int((staged & (_parents(cells)[cells.labels] == cells.predicted)).sum()),
        "adjacent_share": float((distance[mistakes] == 1).mean()) if mistakes.any() else None,
        "ci95": proportion(distance[mistakes] == 1, cells.groups[mistakes]),
        "rates": _rates(distance[staged], with_stage[staged], cells.groups[staged]),
    }


def _rates(distance: NDArray[np.int64], with_stage: NDArray[np.bool_], groups: NDArray[np.int64]) -> dict[str, Any]:
    """Shares of the cells with a stage by distance of the predicted stage, with intervals."""
    outcomes = {
        "exact": with_stage & (distance == 0),
        "adjacent": with_stage & (distance == 1),
        "distant": with_stage & (distance > 1),
        "without_stage": ~with_stage,
    }
    rates: dict[str, Any] = {name: float(hits.mean()) for name, hits in outcomes.items()}
    return rates | {"ci95": {name: proportion(hits, groups) for name, hits in outcomes.items()}}


def related_names(cells: Predictions) -> dict[str, Any]:
    """Count cells predicted as the parent or a child of their class: `n`, `accuracy` with these as right, `ci95`.

    If a source says only "neutrophil", Segmented Neutrophil is not known to be wrong.
    """
    related = is_related(cells)
    right = related | (cells.predicted == cells.labels)
    return {
        "n": int(related.sum()),
        "accuracy": float(right.mean()),
        "ci95": proportion(right, cells.groups),
    }


def is_related(cells: Predictions) -> NDArray[np.bool_]:
    """Whether each cell was predicted as the parent or a child of its class, (n,)."""
    true, predicted, parents = cells.labels, cells.predicted, _parents(cells)
    related: NDArray[np.bool_] = (parents[true] == predicted) | (parents[predicted] == true)
    return related


def _parents(cells: Predictions) -> NDArray[np.int64]:
    """The number of the parent of each class, (classes,); -1 if it has none among them."""
    return np.array([cells.names.index(cells.parents[name]) if name in cells.parents else -1 for name in cells.names])


def abnormal(cells: Predictions, resamples: int) -> dict[str, Any] | None:
    """Measure detection of cells that are abnormal in adult blood, by the summed probability of their classes.

    Sensitivity and specificity at `THRESHOLD`, the area under the ROC curve, and `ci95` of each; None if the cells are
    all abnormal, or all normal, or a class is not ours.
    """
    if not set(cells.names) <= set(taxonomy.NAMES):
        return None
    positive, score = abnormal_truth(cells), abnormal_score(cells)
    if positive.all() or not positive.any():
        return None
    flagged = score >= THRESHOLD
    return {
        "classes": list(ABNORMAL),
        "threshold": THRESHOLD,
        "n_abnormal": int(positive.sum()),
        "n_normal": int((~positive).sum()),
        "sensitivity": float(flagged[positive].mean()),
        "specificity": float((~flagged[~positive]).mean()),
        "auc": area_under_roc(positive, score),
        "ci95": {
            "sensitivity": proportion(flagged[positive], cells.groups[positive]),
            "specificity": proportion(~flagged[~positive], cells.groups[~positive]),
            "auc": bootstrap(partial(area_under_roc, positive, score), cells.groups, resamples),
        },
    }


def abnormal_truth(cells: Predictions) -> NDArray[np.bool_]:
    """Whether each cell is of a class that is abnormal in adult blood, (n,)."""
    truth: NDArray[np.bool_] = _is_abnormal(cells)[cells.labels]
    return truth


def _is_abnormal(cells: Predictions) -> NDArray[np.bool_]:
    return np.array([cell.abnormal_in_blood for cell in cells.classes])


def abnormal_score(cells: Predictions) -> NDArray[np.float64]:
    """The summed probability of the abnormal classes, (n,)."""
    score: NDArray[np.float64] = cells.probabilities[:, _is_abnormal(cells)].sum(axis=1, dtype=np.float64)
    return score


def area_under_roc(
    positive: NDArray[np.bool_], score: NDArray[np.float64], weights: NDArray[np.float64] | None = None
) -> float:
    """Area under the ROC curve of weighted cells, all (n,); nan if all weight is on one of the two kinds.

    It is the share of pairs of a positive and another cell in which the positive has the higher score; ties count half.
    scikit-learn's function checks so much that a bootstrap with it took most of an evaluation.
    """
    weights = np.ones(len(score)) if weights is None else weights
    _, place = np.unique(score, return_inverse=True)
    positives, others = (np.bincount(place, weights * kind) for kind in (positive, ~positive))
    pairs = positives.sum() * others.sum()
    return float(positives @ (others.cumsum() - others / 2) / pairs) if pairs else float("nan")


def hard_sets(cells: Predictions) -> dict[str, dict[str, Any]]:
    """Count outcomes of the cells in each of `HARD_SETS`; sets without cells, or with a class that the model does not
    have, are left out.

    - `n` = `right` + `confused` (predicted as another class of the set) + `left` (as a class outside of it).
    - `accuracy_within`: right / (right + confused), None if both are 0.
    - `recall` and `support` of each class; `confusions`: {true class: {predicted class: count}} inside the set.
    """
    counts = {name: _count_set(cells, members) for name, members in hard_sets_of(cells.names).items()}
    return {name: outcomes for name, outcomes in counts.items() if outcomes["n"]}


def hard_sets_of(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Those of `HARD_SETS` whose classes are all among `names`."""
    return {title: members for title, members in HARD_SETS.items() if set(members) <= set(names)}


def _count_set(cells: Predictions, members: Sequence[str]) -> dict[str, Any]:
    ids = [cells.names.index(name) for name in members]
    inside = np.isin(cells.labels, ids)
    labels, predicted = cells.labels[inside], cells.predicted[inside]
    right, stayed = predicted == labels, np.isin(predicted, ids)
    return {
        "n": len(labels),
        "right": int(right.sum()),
        "confused": int((stayed & ~right).sum()),
        "left": int((~stayed).sum()),
        "accuracy_within": float(right.sum() / stayed.sum()) if stayed.any() else None,
        "support": {name: int((labels == label).sum()) for name, label in zip(members, ids, strict=True)},
        "recall": {
            name: float(right[labels == label].mean()) if (labels == label).any() else None
            for name, label in zip(members, ids, strict=True)
        },
        "confusions": {
            true: {
                other: int(((labels == true_id) & (predicted == other_id)).sum())
                for other, other_id in zip(members, ids, strict=True)
            }
            for true, true_id in zip(members, ids, strict=True)
        },
    }
