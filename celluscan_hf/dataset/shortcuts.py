"""Measure shortcuts: how well the class of a cell is predicted from features other than the cell.

A forest is trained on the train originals and evaluated on those of test, with no input but the outer ring of pixels,
its colour, the size of the original image, its file coding, or its source. In a dataset without shortcuts all of them
stay at chance. The forest is extremely randomised trees (Geurts et al. 2006,
https://doi.org/10.1007/s10994-006-6226-1), of scikit-learn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from .. import taxonomy
from ..curation.splits import seeded_order

_REDUCED = 56  # pixels: side to which an image is reduced before its ring is measured
_WIDTH = 16  # the ring is 1/16 of the side
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
RING_FEATURES = 3 * (2 + len(_QUANTILES) + 4)
_MEDIANS = slice(6 + 3 * _QUANTILES.index(0.5), 9 + 3 * _QUANTILES.index(0.5))
_TREES, _LEAF, _MAX_ROWS = 200, 2, 20_000
_PREDICTED = 65_536  # rows whose features are in memory at a time
COLUMNS = ["label", "width", "height", "acquisition", "source"]
WORDS = {
    "ring": "outer ring of pixels",
    "background": "colour of the background",
    "size": "width and height of the original image",
    "coding": "its format and compression",
    "source": "source",
    "all": "all of these",
}
Features = NDArray[np.float32]


@dataclass(frozen=True)
class CellContext:
    """Data of originals without their cells: rows (`COLUMNS` of the dataset) and ring features, (rows, features)."""

    rows: pa.Table
    rings: Features

    @property
    def labels(self) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self.rows["label"].to_numpy()
        return labels

    def categories(self) -> dict[str, list[str]]:
        """Return the values of the file coding and of the source, sorted."""
        return {
            "coding": sorted(set(map(_coding, self.rows["acquisition"].unique().to_pylist()))),
            "source": sorted(self.rows["source"].unique().to_pylist()),
        }

    def features(self, name: str, chosen: NDArray[np.int64], categories: dict[str, list[str]]) -> Features:
        """Return a feature matrix of the `chosen` rows, (chosen, features), by its name in `WORDS`."""
        if name == "all":
            single = (self.features(other, chosen, categories) for other in WORDS if other != name)
            return np.concatenate(list(single), axis=1)
        if name in ("ring", "background"):
            rings = self.rings[chosen]
            return rings if name == "ring" else rings[:, _MEDIANS]
        rows = self.rows.take(pa.array(chosen))
        if name == "size":
            sizes = [rows[side].to_numpy() for side in ("width", "height")]
            return np.stack(sizes, axis=1).astype(np.float32)
        values = rows["acquisition" if name == "coding" else name].to_pylist()
        return _one_hot(list(map(_coding, values)) if name == "coding" else values, categories[name])


def _coding(acquisition: str) -> str:
    return acquisition.split("/")[1]


def _one_hot(values: Sequence[str], categories: Sequence[str]) -> Features:
    return np.asarray(np.array(values, object)[:, None] == np.array(categories, object), np.float32)


def ring(content: Image.Image) -> Features:
    """Compute features of the outer ring of an RGB image without padding, (`RING_FEATURES`,) in [0, 255].

    Mean, standard deviation and quantiles of each channel, and the mean colour of each of the four sides.
    """
    pixels = np.asarray(content.reduce(max(1, min(content.size) // _REDUCED)), np.float32)
    width = max(1, min(pixels.shape[:2]) // _WIDTH)
    sides = [band.reshape(-1, 3) for band in (pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:])]
    values = np.sort(np.concatenate(sides), axis=0)
    quantiles = values[[int(share * (len(values) - 1)) for share in _QUANTILES]]
    parts = (values.mean(axis=0), values.std(axis=0), quantiles.ravel(), *(side.mean(axis=0) for side in sides))
    return np.concatenate(parts).astype(np.float32)


def audit(
    train: CellContext, test: CellContext, seed: int, num_proc: int, names: Sequence[str] = tuple(WORDS)
) -> dict[str, Any]:
    """Predict the class without the cell; empty if train or test has fewer than two classes.

    Returns:
        For each of `names` (`ring`, `background`, `size`, `coding`, `source`, `all`): the result of
        `recall_metrics` on test.
    """
    if min(len(np.unique(cells.labels)) for cells in (train, test)) < 2:
        return {}
    numbers = pa.array(np.arange(len(train.labels))).cast(pa.string())
    chosen = seeded_order(numbers, seed)[:_MAX_ROWS]
    return {name: _probe(name, train, chosen, test, seed, num_proc) for name in names}


def _probe(
    name: str, train: CellContext, chosen: NDArray[np.int64], test: CellContext, seed: int, num_proc: int
) -> dict[str, Any]:
    from sklearn.ensemble import ExtraTreesClassifier  # takes a second

    forest = ExtraTreesClassifier(
        _TREES, min_samples_leaf=_LEAF, class_weight="balanced", random_state=seed, n_jobs=num_proc
    )
    categories = train.categories()
    forest.fit(train.features(name, chosen, categories), train.labels[chosen])
    tested = np.arange(len(test.labels))
    parts = np.split(tested, range(_PREDICTED, len(tested), _PREDICTED))
    predicted = [forest.predict(test.features(name, part, categories)) for part in parts]
    return recall_metrics(test.labels, np.concatenate(predicted))


def recall_metrics(true: NDArray[Any], predicted: NDArray[Any]) -> dict[str, Any]:
    """Compute `balanced_accuracy` over the classes present, `chance`, and the non-zero `recall` of each class."""
    recalls = {taxonomy.NAMES[label]: float((predicted == true)[true == label].mean()) for label in np.unique(true)}
    return {
        "balanced_accuracy": round(float(np.mean(list(recalls.values()))), 4),
        "chance": round(1 / len(recalls), 4),
        "recall": {name: round(recall, 4) for name, recall in recalls.items() if recall > 0},
    }


def table_rows(results: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Format the name, balanced accuracy and chance level of each result for a table."""
    return [
        (WORDS[name], f"{metrics['balanced_accuracy']:.2f}", f"{metrics['chance']:.2f}")
        for name, metrics in results.items()
    ]
