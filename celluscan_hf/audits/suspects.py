"""Cells whose label may be wrong: equal images with two labels, and labels with a low out-of-fold probability.

The second kind is found by confident learning (Northcutt et al., JAIR 2021, https://arxiv.org/abs/1911.00068): from
labels and out-of-fold probabilities it estimates how many cells of each class belong to which other one, and picks as
many, the least probable first. It is a list for review, not a correction: rare or difficult cells are listed as well as
wrong ones.
"""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import taxonomy
from ..curation.splits import seeded_order
from ..dataset.reading import CellDataset
from ..errors import CelluScanError
from ..evaluation.predictions import Predictions

CONFLICT, CONFIDENCE = "conflict", "confidence"
Integers = NDArray[np.int64]
Ranked = Callable[..., Integers]


@dataclass(frozen=True)
class Suspect:
    """A cell to review; the fields are columns of `labels.csv`.

    - `split`: empty if the build has excluded the cell.
    - `suggested`: the class the model predicts instead, or that of the equal image; several are separated by " | ".
    - `p_label`, `p_suggested`: out-of-fold probabilities; None if the cell is in no split.
    - `reason`: `CONFLICT` or `CONFIDENCE`; `others`: the image_ids of the images it is in conflict with.
    - `original_label`: the class it had before its label was changed for a trial, else empty.
    """

    image_id: str
    source: str
    split: str
    label: str
    suggested: str
    p_label: float | None
    p_suggested: float | None
    reason: str
    others: str = ""
    original_label: str = ""


def finder() -> Ranked:
    """Import cleanlab's search. Raises a `CelluScanError` if it is not installed."""
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise CelluScanError('cleanlab is not installed: pip install "celluscan_hf[labels]"') from error
    search: Ranked = find_label_issues
    return search


def likely_errors(labels: Integers, probabilities: NDArray[np.floating[Any]]) -> tuple[Integers, Integers]:
    """Find rows whose label is likely wrong, the least probable first, and the most probable class of each: (n,) both.

    From `labels` (N,) and out-of-fold `probabilities` (N, classes). Classes without cells are left out: their
    probability is distributed over the others.
    """
    present = np.unique(labels)
    shares = probabilities[:, present].astype(np.float64) + np.finfo(np.float32).tiny  # of a row of zeros, equal ones
    shares /= shares.sum(axis=1, keepdims=True)
    numbers = np.searchsorted(present, labels)
    rows = finder()(numbers, shares, return_indices_ranked_by="self_confidence", n_jobs=1)
    return rows, present[shares[rows].argmax(axis=1)]


def doubted(
    cells: Predictions, splits: Mapping[str, str], original_labels: Mapping[str, str]
) -> tuple[list[Suspect], list[Suspect]]:
    """List the `likely_errors` of out-of-fold predictions, separated from those predicted as parent or child.

    The latter are not errors: one name is only coarser than the other. `splits` gives the split of each image_id,
    `original_labels` the class before of those with a corrupted label.
    """
    listed: list[Suspect] = []
    related: list[Suspect] = []
    for row, predicted in zip(*likely_errors(cells.labels, cells.probabilities), strict=True):
        name, label, suggested = cells.image_ids[row], taxonomy.NAMES[cells.labels[row]], taxonomy.NAMES[predicted]
        p_label, p_suggested = (float(cells.probabilities[row, number]) for number in (cells.labels[row], predicted))
        suspect = Suspect(
            name, cells.sources[row], splits[name], label, suggested, p_label, p_suggested, CONFIDENCE,
            original_label=original_labels.get(name, ""),
        )  # fmt: skip
        (related if compatible(label, suggested) else listed).append(suspect)
    return listed, related


def compatible(first: str, second: str) -> bool:
    """Whether both names can be right for one cell: they are equal, or one is the parent of the other."""
    return taxonomy.finest({first, second}) is not None


def conflicts(data: CellDataset, cells: Predictions, splits: Mapping[str, str]) -> list[Suspect]:
    """List equal images with incompatible labels, which the build has excluded; then near duplicates.

    Near duplicates with two labels stay in the dataset, in one split; each cell is listed once.

    Raises:
        CelluScanError: The dataset lacks the reports of its build.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for row in _build_report(data, "label_conflicts.csv", ("conflict", "image_id", "label")):
        groups.setdefault(row["conflict"], []).append((row["image_id"], row["label"]))
    columns = ("kind", "image_id", "label", "duplicate_of", "label_of_other")
    near = [
        [(row["duplicate_of"], row["label_of_other"]), (row["image_id"], row["label"])]
        for row in _build_report(data, "duplicates.csv", columns)
        if row["kind"] == "near" and not compatible(row["label"], row["label_of_other"])
    ]
    places = {name: row for row, name in enumerate(cells.image_ids)}
    labels: dict[str, str] = {}
    differing: dict[str, dict[str, str]] = {}
    for group in (*groups.values(), *near):
        for name, label in group:
            labels[name] = label
            differing.setdefault(name, {}).update(
                {other: given for other, given in group if not compatible(given, label)}
            )
    return [
        _conflicting(name, labels[name], list(others.items()), cells, places.get(name), splits)
        for name, others in differing.items()
        if others
    ]


def _conflicting(
    name: str,
    label: str,
    differing: list[tuple[str, str]],
    cells: Predictions,
    row: int | None,
    splits: Mapping[str, str],
) -> Suspect:
    suggested = sorted({other for _, other in differing})
    p_label = p_suggested = None
    if row is not None:
        p_label, *others_p = (float(cells.probabilities[row, taxonomy.LABEL2ID[name]]) for name in (label, *suggested))
        p_suggested = max(others_p, default=None)
    others = " | ".join(other for other, _ in differing)
    source = name.partition("/")[0]
    return Suspect(
        name, source, splits.get(name, ""), label, " | ".join(suggested), p_label, p_suggested, CONFLICT, others
    )


def _build_report(data: CellDataset, name: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    path: Path = data.folder / "curation" / name
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
    except OSError as error:
        raise CelluScanError(f"{path} cannot be read; expected a dataset of celluscan build") from error
    if missing := set(columns) - set(reader.fieldnames or ()):
        raise CelluScanError(
            f"{path} lacks the columns {', '.join(sorted(missing))}; build the dataset again with celluscan build"
        )
    return rows


def corrupt_labels(rows: pa.Table, share: float, seed: int) -> dict[str, int]:
    """Choose a wrong class for a share of the rows, {image_id: class number}: present, no parent or child.

    Raises:
        CelluScanError: A class of a cell does not exist.
    """
    names, labels = rows["image_id"].to_pylist(), rows["label"].to_numpy()
    present = np.unique(labels).tolist()
    wrong = {
        label: [other for other in present if not compatible(taxonomy.NAMES[label], taxonomy.NAMES[other])]
        for label in present
    }
    if share and not all(wrong.values()):
        raise CelluScanError(
            "--corrupt-labels needs cells of at least two classes of which none is the parent of another"
        )
    # the prefix decides which labels are chosen, so published results depend on it
    chosen = seeded_order([f"plant|{name}" for name in names], seed)[: round(share * len(names))]
    draw = np.random.default_rng(seed)
    return {names[row]: int(draw.choice(wrong[labels[row]])) for row in chosen}
