"""How much of a figure is leak: the same model, the same budget, the same cells, split before and after augmentation.

Some cells are put aside first: the test split of a built data set, which no experiment sees in training. From all
others two data sets are made. `random` is the protocol of the student project: every class is filled up by
augmentation, then four fifths of all images, picked at random, become train and the rest test, so that copies of one
cell stand on both sides. `grouped` is ours: a fifth of the groups becomes test, and only train is filled up.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from matplotlib.figure import Figure

from ..curation.splits import SPLITS, seeded_order
from ..dataset.reading import CellDataset
from ..dataset.workers import Workers
from ..evaluation import plots
from ..evaluation.folder import PREDICTIONS
from ..evaluation.measure import measure
from ..evaluation.predictions import Predictions
from ..evaluation.wbc_metrics.wbc_metrics import RESAMPLES
from . import derived
from .experiment import judged, summary, trained, training_seconds

TEST_SHARE = 0.2
PROTOCOLS = ("random", "grouped")
AS_STORED = (
    *("--dihedral", "false", "--shift", "0", "--color_jitter", "0"),
    *("--mixup_alpha", "0", "--cutmix_alpha", "0"),
)
TESTS = {"own": "its own test", "own_originals": "originals of its own test", "aside": "cells put aside"}


@dataclass(frozen=True)
class LeakSettings:
    """Settings of the audit.

    - `share`: of the groups that is used at all; with fewer cells the same steps look at each more often.
    - `target_per_class`: classes are filled up to it, as the student project did.
    - `steps`: of training, of both; with the batch of the recipe this is the budget.
    - `as_stored`: whether training shows the pictures as they are stored, as the student project did, so that they can
      be learned by heart; otherwise as the recipe has it.
    """

    output: Path
    recipe: str
    share: float
    target_per_class: int
    steps: int
    as_stored: bool
    seed: int
    num_proc: int


def audit(data: CellDataset, settings: LeakSettings) -> dict[str, Any]:
    """Both protocols, each judged on its own test split and on the cells put aside.

    Augmented pictures are harder than originals, so a test that holds them says little beside one that does not: the
    originals of each own test are judged by themselves too.

    Returns:
        {protocol: {"own", "own_originals", "aside": figures, "optimism": originals of its own test less the cells put
        aside, of accuracy and macro-F1; "train_images"; "related_share"; "training_seconds"}}.
    """
    return {name: _run(name, data, settings) for name in PROTOCOLS}


def _run(name: str, data: CellDataset, settings: LeakSettings) -> dict[str, Any]:
    folder = settings.output / name
    made = data_set(name, data, folder / "data", settings)
    options = AS_STORED if settings.as_stored else ()
    model = trained(settings.recipe, made, folder / "run", settings.steps, settings.seed, *options)
    metrics = judged(model, {"own": made, "aside": data}, folder)
    metrics["own_originals"] = measure(_originals(made, folder / "own" / PREDICTIONS), RESAMPLES)
    figures: dict[str, Any] = {test: summary(metrics[test]) for test in TESTS}
    figures |= kinship(made) | {"training_seconds": training_seconds(model)}
    figures["optimism"] = {
        metric: round(figures["own_originals"][metric] - figures["aside"][metric], 4)
        for metric in ("accuracy", "macro_f1")
    }
    return figures


def _originals(made: CellDataset, predictions: Path) -> Predictions:
    """What was said of the originals of a test split."""
    rows = made.split(derived.CONFIG, SPLITS[2])
    augmented = {name for name, parent in zip(rows["image_id"], rows["parent_id"], strict=True) if parent}
    found = Predictions.read(predictions)
    return found.where([name not in augmented for name in found.image_ids])


def data_set(name: str, data: CellDataset, folder: Path, settings: LeakSettings) -> CellDataset:
    """What a protocol trains and tests on."""
    said = {"protocol": name, "share": settings.share, "target_per_class": settings.target_per_class}
    return derived.derive(folder, data, said, settings.seed, partial(_parts, name, data, settings))


def kinship(made: CellDataset) -> dict[str, Any]:
    """How many images there are, and the share of test images with one of the same group in train."""
    train, test = (made.split(derived.CONFIG, split)["group_id"][:] for split in (SPLITS[0], SPLITS[2]))
    known = set(train)
    related = sum(group in known for group in test)
    return {"train_images": len(train), "related_share": round(related / len(test), 4)}


def _parts(name: str, data: CellDataset, settings: LeakSettings) -> dict[str, pa.Table]:
    rows = derived.originals(data, SPLITS[0], SPLITS[1])
    if settings.share < 1:
        rows, _ = _dealt(rows, settings.share, settings.seed + 1)  # not in the order of the split below
    with Workers(settings.num_proc) as workers:
        split = _random if name == "random" else _grouped
        train, test = split(rows, settings, workers)
    return {SPLITS[0]: train, SPLITS[1]: test, SPLITS[2]: test}  # nothing is chosen on validation


def _random(rows: pa.Table, settings: LeakSettings, workers: Workers) -> tuple[pa.Table, pa.Table]:
    filled = derived.balanced(rows, settings.target_per_class, settings.seed, workers)
    # not in the order of the names alone, by which `balanced` chooses who has one augmented picture more
    order = seeded_order([f"random/{name}" for name in filled["image_id"].to_pylist()], settings.seed)
    held = round(len(order) * TEST_SHARE)
    return filled.take(pa.array(order[held:])), filled.take(pa.array(order[:held]))


def _grouped(rows: pa.Table, settings: LeakSettings, workers: Workers) -> tuple[pa.Table, pa.Table]:
    learned, held = _dealt(rows, 1 - TEST_SHARE, settings.seed)
    return derived.balanced(learned, settings.target_per_class, settings.seed, workers), held


def _dealt(rows: pa.Table, share: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """Rows in two parts, a share and the rest, of whole groups, alike in classes and sources."""
    rest = derived.dealt(rows, (share, 1 - share), seed) == 1
    return rows.filter(pa.array(~rest)), rows.filter(pa.array(rest))


def draw(figures: dict[str, Any], path: Path) -> None:
    """Recall of each class under both protocols: on the protocol's own test, and on the cells put aside."""
    figure = Figure(figsize=(10.4, 4.6), dpi=plots.RESOLUTION, layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), PROTOCOLS, strict=True):
        cells = [cell for cell in plots.ORDER if cell.name in figures[name]["aside"]["per_class"]]
        for test, colour, marker in (("own_originals", plots.VERMILION, "D"), ("aside", plots.BLUE, "o")):
            recall = [figures[name][test]["per_class"].get(cell.name, {}).get("recall") for cell in cells]
            axes.plot(range(len(cells)), recall, marker, color=colour, label=TESTS[test], markersize=6)
        axes.set_xticks(range(len(cells)), [cell.code for cell in cells], rotation=60)
        own, aside = (figures[name][test]["macro_f1"] for test in ("own_originals", "aside"))
        axes.set_title(f"{name}: macro-F1 {own:.3f} on its own test, {aside:.3f} aside")
        axes.grid(axis="y", color="#E0E0E0")
        axes.set_axisbelow(True)
    figure.axes[0].set_ylabel("recall")
    figure.axes[1].legend(loc="lower right")
    plots.save(figure, path)
