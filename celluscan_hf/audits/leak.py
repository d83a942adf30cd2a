"""Measure how much a leak inflates metrics: same model, budget and cells, split before or after augmentation.

The test split of a built dataset is held out first; no experiment trains on it. From all other cells two datasets are
made. `random` is the protocol of the student project: every class is filled up by augmentation, then a random four
fifths of all images become train and the rest test, so that copies of one cell are in both. `grouped` is ours: a fifth
of the groups becomes test, and only train is filled up.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from ..curation.splits import SPLITS, seeded_order
from ..dataset.reading import CellDataset
from ..evaluation import plots
from ..evaluation.folder import PREDICTIONS
from ..evaluation.measure import measure
from ..evaluation.predictions import Predictions
from ..evaluation.wbc_metrics.wbc_metrics import RESAMPLES
from ..workers import LocalWorkers, Workers
from . import derived
from .experiment import evaluate_on, summary, train_recipe, training_seconds

TEST_SHARE = 0.2
PROTOCOLS = ("random", "grouped")
NO_AUGMENTATION = (
    *("--rotate", "none", "--shift", "0", "--color_jitter", "0", "--augmented_share", "0"),
    *("--mixup_alpha", "0", "--cutmix_alpha", "0"),
)
TESTS = {"own": "its own test", "own_originals": "originals of its own test", "held_out": "held-out cells"}


@dataclass(frozen=True)
class LeakSettings:
    """Settings of the audit.

    - `share`: share of the groups to use; with fewer cells the same steps show each more often.
    - `target_per_class`: images that each class is filled up to, as the student project did.
    - `steps`: training steps of each protocol.
    - `no_online_augmentation`: train on the images as stored, without the augmentation of the recipe, as the student
      project did, so that they can be memorized.
    """

    output: Path
    recipe: str
    share: float
    target_per_class: int
    steps: int
    no_online_augmentation: bool
    seed: int
    num_proc: int


def audit(data: CellDataset, settings: LeakSettings) -> dict[str, Any]:
    """Run both protocols, each evaluated on its own test split and on the held-out cells.

    Augmented images are harder than originals, so a test set with them is not comparable to one without: the originals
    of each own test are also evaluated separately.

    Returns:
        {protocol: {"own", "own_originals", "held_out": metrics, "optimism": originals of its own test minus held-out
        cells, for accuracy and macro-F1; "train_images"; "related_share"; "training_seconds"}}.
    """
    return {name: _run(name, data, settings) for name in PROTOCOLS}


def _run(name: str, data: CellDataset, settings: LeakSettings) -> dict[str, Any]:
    folder = settings.output / name
    derived_data = protocol_dataset(name, data, folder / "data", settings)
    options = NO_AUGMENTATION if settings.no_online_augmentation else ()
    model = train_recipe(settings.recipe, derived_data, folder / "run", settings.steps, settings.seed, *options)
    metrics = evaluate_on(model, {"own": derived_data, "held_out": data}, folder)
    metrics["own_originals"] = measure(_originals(derived_data, folder / "own" / PREDICTIONS), RESAMPLES)
    results: dict[str, Any] = {test: summary(metrics[test]) for test in TESTS}
    results |= group_overlap(derived_data) | {"training_seconds": training_seconds(model)}
    results["optimism"] = {
        metric: round(results["own_originals"][metric] - results["held_out"][metric], 4)
        for metric in ("accuracy", "macro_f1")
    }
    return results


def _originals(data: CellDataset, path: Path) -> Predictions:
    """Read the predictions of the originals of a test split."""
    rows = data.split(derived.CONFIG, SPLITS[2])
    augmented = {name for name, parent in zip(rows["image_id"], rows["parent_id"], strict=True) if parent}
    predictions = Predictions.read(path)
    return predictions.where([name not in augmented for name in predictions.image_ids])


def protocol_dataset(name: str, data: CellDataset, folder: Path, settings: LeakSettings) -> CellDataset:
    """Derive the dataset that a protocol trains and tests on."""
    facts = {"protocol": name, "share": settings.share, "target_per_class": settings.target_per_class}
    return derived.derive(folder, data, facts, settings.seed, partial(_parts, name, data, settings))


def group_overlap(data: CellDataset) -> dict[str, Any]:
    """Count train images, and the share of test images with one of the same group in train."""
    train, test = (data.split(derived.CONFIG, split)["group_id"][:] for split in (SPLITS[0], SPLITS[2]))
    train_groups = set(train)
    related = sum(group in train_groups for group in test)
    return {"train_images": len(train), "related_share": round(related / len(test), 4)}


def _parts(name: str, data: CellDataset, settings: LeakSettings) -> dict[str, pa.Table]:
    rows = derived.originals(data, SPLITS[0], SPLITS[1])
    if settings.share < 1:
        rows, _ = _split(rows, settings.share, settings.seed + 1)  # not in the order of the split below
    with LocalWorkers(settings.num_proc) as workers:
        split = _random if name == "random" else _grouped
        train, test = split(rows, settings, workers)
    return {SPLITS[0]: train, SPLITS[1]: test, SPLITS[2]: test}  # nothing is chosen on validation


def _random(rows: pa.Table, settings: LeakSettings, workers: Workers) -> tuple[pa.Table, pa.Table]:
    filled = derived.balanced(rows, settings.target_per_class, settings.seed, workers)
    # not by name alone, by which `balanced` chooses the parents with one augmented image more
    order = seeded_order([f"random/{name}" for name in filled["image_id"].to_pylist()], settings.seed)
    held = round(len(order) * TEST_SHARE)
    return filled.take(pa.array(order[held:])), filled.take(pa.array(order[:held]))


def _grouped(rows: pa.Table, settings: LeakSettings, workers: Workers) -> tuple[pa.Table, pa.Table]:
    learned, held = _split(rows, 1 - TEST_SHARE, settings.seed)
    return derived.balanced(learned, settings.target_per_class, settings.seed, workers), held


def _split(rows: pa.Table, share: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """Split rows in a share and the rest, by whole groups, stratified by class and source."""
    rest = derived.split_groups(rows, (share, 1 - share), seed) == 1
    return rows.filter(pa.array(~rest)), rows.filter(pa.array(rest))


def draw(metrics: dict[str, Any], path: Path) -> None:
    """Draw the recall of each class under both protocols: on the protocol's own test, and on held-out cells."""
    figure = Figure(figsize=(10.4, 4.6), dpi=plots.RESOLUTION, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), PROTOCOLS, strict=True):
        cells = [cell for cell in plots.ORDER if cell.name in metrics[name]["held_out"]["per_class"]]
        for test, colour, marker in (("own_originals", plots.VERMILION, "D"), ("held_out", plots.BLUE, "o")):
            recall = [metrics[name][test]["per_class"].get(cell.name, {}).get("recall") for cell in cells]
            axes.plot(range(len(cells)), recall, marker, color=colour, label=TESTS[test], markersize=6)
        axes.set_xticks(range(len(cells)), [cell.code for cell in cells], rotation=60)
        own, held_out = (metrics[name][test]["macro_f1"] for test in ("own_originals", "held_out"))
        axes.set_title(f"{name}: macro-F1 {own:.3f} on its own test, {held_out:.3f} on held-out cells")
        axes.grid(axis="y", color="#E0E0E0")
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("recall")
    figure.axes[1].legend(loc="lower right")
    plots.save(figure, path)
