"""How far a trained model relies on background and acquisition: covered cells, random backgrounds, a linear probe."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor, PreTrainedModel

from .. import taxonomy
from ..augmentation import background
from ..augmentation.draws import uniform
from ..curation.splits import SPLITS
from ..dataset import shortcuts
from ..dataset.reading import CellDataset
from ..evaluation.cells import Cell, load_cells_of_split
from ..evaluation.job import describe_model
from ..evaluation.predictions import columns_of
from ..evaluation.wbc_metrics.wbc_metrics import Outcomes
from ..inference.prediction import ReadImage, probabilities
from ..modeling.reliability_celluscan import head_of
from ..reliability.examine import outputs_of
from ..workers import progress
from . import derived
from .background_accuracy import background_accuracy

ORIGINS = ("source", "acquisition")
IMAGES = ("untouched", "covered", "background_randomized")  # changes of the test images
COVERED = 0.56  # diameter of the disc as a share of the image side; a cell takes up a third to a half
_MIN_CELLS = 10  # train cells of a source or acquisition for the probe
Change = Callable[[Image.Image, int], Image.Image]  # of an image, with its number
Columns = Mapping[str, NDArray[Any]]


def model_metrics(
    data: CellDataset, model: PreTrainedModel, processor: BaseImageProcessor, seed: int, num_proc: int
) -> dict[str, Any]:
    """Measure one model.

    Returns:
        `weights`, their SHA-256; `view`, the share of the image side that it sees; `border`, `as_is` and `randomized`:
        the ring of `background_accuracy`, but of the part that it sees; each of `IMAGES`: balanced accuracy on such
        test images, that of chance, the recall of each class, and macro-F1; `validation`, the same on untouched
        validation images; and `acquisition_probe_accuracy`.
    """
    view = view_share(processor)
    border = {
        kind: background_accuracy(data, share, view, seed, num_proc, ("ring",))["ring"]
        for kind, share in {"as_is": 0.0, "randomized": 1.0}.items()
    }
    changed = accuracy_on_changed_images(data, model, processor, seed)
    probe = _probe_features(data, model, processor, seed)
    weights = describe_model(model.name_or_path, model, processor)["sha256"]
    return {"weights": weights, "view": view, "border": border, **changed, "acquisition_probe_accuracy": probe}


def view_share(processor: BaseImageProcessor) -> float:
    """Share of the image side, around its middle, that a model sees."""
    if not getattr(processor, "do_center_crop", False):
        return 1.0
    side = processor.size.get("height") or processor.size.get("shortest_edge")
    share: float = round(processor.crop_size["height"] / side, 4)
    return share


def accuracy_on_changed_images(
    data: CellDataset, model: PreTrainedModel, processor: BaseImageProcessor, seed: int
) -> dict[str, Any]:
    mean, _ = data.channel_statistics
    red, green, blue = (round(255 * level) for level in mean)
    changes: tuple[Change, ...] = (
        lambda image, number: image,
        lambda image, number: cover(image, (red, green, blue)),
        lambda image, number: randomize_background(image, number, seed),
    )
    test, validation = (load_cells_of_split(str(data.folder), split).kept for split in (SPLITS[2], SPLITS[1]))
    metrics = {
        kind: _accuracy(test, kind, change, model, processor) for kind, change in zip(IMAGES, changes, strict=True)
    }
    return metrics | {"validation": _accuracy(validation, "validation", changes[0], model, processor)}


def _accuracy(
    cells: Sequence[Cell], kind: str, change: Change, model: PreTrainedModel, processor: BaseImageProcessor
) -> dict[str, Any]:
    columns, labels = columns_of(model), np.array([cell.label for cell in cells])
    images = (partial(_changed, change, cell.read, number) for number, cell in enumerate(cells))
    predicted = np.empty(len(cells), np.int64)
    with progress(kind, len(cells), "cell") as advance:
        for row, answer in enumerate(probabilities(images, model, processor)):
            predicted[row] = np.asarray(answer)[columns].argmax()
            advance(1)
    scalars = Outcomes(predicted, labels, len(taxonomy.NAMES)).scalars(np.ones((1, len(labels))))
    return shortcuts.recall_metrics(labels, predicted) | {"macro_f1": round(float(scalars["macro_f1"][0]), 4)}


def _changed(change: Change, read: ReadImage, number: int) -> Image.Image:
    return change(read(), number)


def randomize_background(image: Image.Image, number: int, seed: int) -> Image.Image:
    """Change colour and contrast of the background, drawn from the seed and the number of the image."""
    draws = uniform(torch.tensor([number]), background.DRAWS, seed)
    pixels = background.randomize_background(functional.pil_to_tensor(image)[None], draws, share=1.0)[0]
    changed: Image.Image = functional.to_pil_image(pixels.round().to(torch.uint8))
    return changed


def cover(image: Image.Image, colour: tuple[int, int, int]) -> Image.Image:
    """Cover the middle of an image by a disc of `COVERED` of its side."""
    covered, (width, height) = image.copy(), image.size
    radius = COVERED * min(width, height) / 2
    box = (width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius)
    ImageDraw.Draw(covered).ellipse(box, fill=colour)
    return covered


def _probe_features(
    data: CellDataset, model: PreTrainedModel, processor: BaseImageProcessor, seed: int
) -> dict[str, Any]:
    features, columns, width = [], [], head_of(model).in_features
    for split in (SPLITS[0], SPLITS[2]):
        cells = load_cells_of_split(str(data.folder), split).kept
        with progress(f"features of {split}", len(cells), "cell") as advance:
            outputs = outputs_of((_counted(cell.read, advance) for cell in cells), model, processor)
        features.append(np.stack([output.features[:width] for output in outputs if output.features is not None]))
        rows = data.split(derived.CONFIG, split)
        columns.append({name: np.array(rows[name], object) for name in ("label", *ORIGINS)})
    return acquisition_probe_accuracy(features[0], columns[0], features[1], columns[1], seed)


def _counted(read: ReadImage, advance: Callable[[int], object]) -> ReadImage:
    advance(1)
    return read


def acquisition_probe_accuracy(
    train: NDArray[np.float32], train_rows: Columns, test: NDArray[np.float32], test_rows: Columns, seed: int
) -> dict[str, Any]:
    """How well a linear probe predicts source and acquisition of a test cell from a model's features (n, D).

    Only classes that occur with each value are used, and every pair of class and value has the same weight in fitting
    and in testing: else the class alone would give a part of the answer.

    Returns:
        For each of `ORIGINS` with two values or more that have enough cells: `balanced_accuracy`, `chance`, `recall`
        of each value (mean over classes), `classes`, `n` test cells of each value.
    """
    metrics = {}
    for origin in ORIGINS:
        values = [value for value, count in Counter(train_rows[origin]).items() if count >= _MIN_CELLS]
        classes = [set(rows["label"][rows[origin] == value]) for rows in (train_rows, test_rows) for value in values]
        shared = set.intersection(*classes) if len(values) > 1 else set()
        if not shared:
            continue
        in_train, in_test = (
            np.isin(rows["label"], list(shared)) & np.isin(rows[origin], values) for rows in (train_rows, test_rows)
        )
        predicted = _probe(
            train[in_train], train_rows["label"][in_train], train_rows[origin][in_train], test[in_test], seed
        )
        recall = _recall(test_rows["label"][in_test], test_rows[origin][in_test], predicted)
        metrics[origin] = {
            "balanced_accuracy": round(float(np.mean(list(recall.values()))), 4),
            "chance": round(1 / len(recall), 4),
            "recall": recall,
            "classes": sorted(taxonomy.NAMES[label] for label in shared),
            "n": dict(Counter(test_rows[origin][in_test])),
        }
    return metrics


def _recall(labels: NDArray[Any], origins: NDArray[Any], predicted: NDArray[Any]) -> dict[str, float]:
    """Recall of each origin, as a mean over classes."""
    recall = {}
    for value in sorted(set(origins)):
        of_class = [(predicted == value)[(origins == value) & (labels == label)].mean() for label in set(labels)]
        recall[value] = round(float(np.mean(of_class)), 4)
    return recall


def _probe(
    train: NDArray[np.float32], labels: NDArray[Any], origins: NDArray[Any], test: NDArray[np.float32], seed: int
) -> NDArray[Any]:
    from sklearn.linear_model import LogisticRegression  # takes a second
    from sklearn.preprocessing import StandardScaler

    pairs = list(zip(labels, origins, strict=True))
    counts = Counter(pairs)
    weights = np.array([len(pairs) / len(counts) / counts[pair] for pair in pairs])
    scaler = StandardScaler().fit(train)
    linear = LogisticRegression(C=0.1, max_iter=1000, random_state=seed)
    linear.fit(scaler.transform(train), origins.astype(str), sample_weight=weights)
    predicted: NDArray[Any] = linear.predict(scaler.transform(test))
    return predicted
