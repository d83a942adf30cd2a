"""How well the class of a cell is told from what is not the cell: a shortcut that a model can take.

A forest is trained on the train originals and judged on those of test, from nothing but the outer ring of pixels, its
colour, the size of the file's image, its coding, or its source. In a data set without shortcuts all of them stay at
the balanced accuracy of chance. The forest is extremely randomised trees (Geurts et al. 2006,
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

_REDUCED = 56  # pixels a side that an image has when its ring is described
_WIDTH = 16  # the ring is one such part of the side
_QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
RING_FEATURES = 3 * (2 + len(_QUANTILES) + 4)
_MEDIANS = slice(6 + 3 * _QUANTILES.index(0.5), 9 + 3 * _QUANTILES.index(0.5))
_TREES, _LEAF, _MOST_ROWS = 200, 2, 20_000
WORDS = {
    "ring": "outer ring of pixels",
    "background": "colour of the background",
    "size": "width and height of the file's image",
    "coding": "its format and compression",
    "source": "source",
    "all": "all of these",
}
Features = NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """What is seen of some originals beside their cells: their rows (columns of the data set) and their rings."""

    rows: pa.Table
    rings: Features

    @property
    def labels(self) -> NDArray[np.int64]:
        labels: NDArray[np.int64] = self.rows["label"].to_numpy()
        return labels

    def features(self, like: "Seen | None" = None) -> dict[str, Features]:
        """By what it is, (rows, features) each; names are told as those of `like`."""
        known = (like or self).rows
        sizes = [self.rows[name].to_numpy() for name in ("width", "height")]
        return {
            "ring": self.rings,
            "background": self.rings[:, _MEDIANS],
            "size": np.stack(sizes, axis=1).astype(np.float32),
            "coding": _one_hot(_coding(self.rows), _coding(known)),
            "source": _one_hot(self.rows["source"].to_pylist(), known["source"].to_pylist()),
        }


def _coding(rows: pa.Table) -> list[str]:
    return [text.split("/")[1] for text in rows["acquisition"].to_pylist()]


def _one_hot(values: Sequence[str], known: Sequence[str]) -> Features:
    told: Features = (np.array(values, object)[:, None] == np.array(sorted(set(known)), object)).astype(np.float32)
    return told


def ring(content: Image.Image) -> Features:
    """The outer ring of an RGB image without its padding, (`RING_FEATURES`,) in [0, 255].

    Mean, deviation and quantiles of each channel, and the mean colour of each of the four sides.
    """
    pixels = np.asarray(content.reduce(max(1, min(content.size) // _REDUCED)), np.float32)
    width = max(1, min(pixels.shape[:2]) // _WIDTH)
    sides = [band.reshape(-1, 3) for band in (pixels[:width], pixels[-width:], pixels[:, :width], pixels[:, -width:])]
    values = np.sort(np.concatenate(sides), axis=0)
    quantiles = values[[int(share * (len(values) - 1)) for share in _QUANTILES]]
    described = (values.mean(axis=0), values.std(axis=0), quantiles.ravel(), *(side.mean(axis=0) for side in sides))
    return np.concatenate(described).astype(np.float32)


def audit(train: Seen, test: Seen, seed: int, num_proc: int, asked: Sequence[str] = tuple(WORDS)) -> dict[str, Any]:
    """What tells the class without the cell; empty where train or test has fewer than two classes.

    Returns:
        For each that is asked of `ring`, `background`, `size`, `coding`, `source`, and `all` of them:
        `balanced_accuracy` on test over its classes, `chance`, and `recall` of each class that is ever told right.
    """
    if min(len(set(seen.labels)) for seen in (train, test)) < 2:
        return {}
    order = seeded_order([str(number) for number in range(len(train.labels))], seed)[:_MOST_ROWS]
    learned, judged = train.features(), test.features(like=train)
    learned["all"], judged["all"] = (np.concatenate(list(seen.values()), axis=1) for seen in (learned, judged))
    return {
        name: _told(learned[name][order], train.labels[order], judged[name], test.labels, seed, num_proc)
        for name in asked
    }


def _told(
    train: Features, labels: NDArray[Any], test: Features, true: NDArray[Any], seed: int, num_proc: int
) -> dict[str, Any]:
    from sklearn.ensemble import ExtraTreesClassifier  # takes a second

    forest = ExtraTreesClassifier(
        _TREES, min_samples_leaf=_LEAF, class_weight="balanced", random_state=seed, n_jobs=num_proc
    )
    return recalled(true, forest.fit(train, labels).predict(test))


def recalled(true: NDArray[Any], told: NDArray[Any]) -> dict[str, Any]:
    """`balanced_accuracy` over the classes that are there, `chance`, and `recall` of each that is ever told right."""
    recalls = {taxonomy.NAMES[label]: float((told == true)[true == label].mean()) for label in np.unique(true)}
    return {
        "balanced_accuracy": round(float(np.mean(list(recalls.values()))), 4),
        "chance": round(1 / len(recalls), 4),
        "recall": {name: round(recall, 4) for name, recall in recalls.items() if recall > 0},
    }


def table_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What was seen, its balanced accuracy and that of chance, for a table."""
    return [
        (WORDS[name], f"{figures['balanced_accuracy']:.2f}", f"{figures['chance']:.2f}")
        for name, figures in found.items()
    ]
