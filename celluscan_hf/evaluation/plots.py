"""Plots of an evaluation and of a training run, as PNG files.

Classes follow `ORDER`: maturation stages first, so that mistakes between neighbours lie beside the diagonal. Colours
are the colour-blind safe ones of Okabe & Ito (2008, https://jfly.uni-koeln.de/color/); nothing depends on colour alone.
"""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy.special import log_softmax

from .. import taxonomy
from ..atomic_io import atomic_write
from .clinical_metrics import THRESHOLD, abnormal_score, abnormal_truth
from .predictions import Predictions
from .wbc_metrics.wbc_metrics import BINS

Floats = NDArray[np.floating]
RESOLUTION = 120  # dots per inch
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#767676"
_CODES = ("MYO", "PMY", "MY", "MMY", "IG", "BNE", "SNE", "NEU", "EO", "BA", "MO", "LY", "ERB", "PLT")
ORDER = (  # by lineage and stage; classes that are appended to the taxonomy follow
    *(taxonomy.lookup(code) for code in _CODES),
    *(cell for cell in taxonomy.CLASSES if cell.code not in _CODES),
)
_MIN_BIN = 10  # cells; the accuracy of fewer is chance
_DARK = 0.55  # from this share on the text of a field is white
_NO_CELLS = "no cells in this evaluation"


def ordered(names: Sequence[str]) -> list[taxonomy.CellClass]:
    """Return the classes with these names in the order of `ORDER`; those that are not ours follow."""
    known = [cell for cell in ORDER if cell.name in names]
    return known + [cell for cell in taxonomy.classes_of(names) if cell not in known]


def confusion_matrix(metrics: Mapping[str, Any], path: Path) -> None:
    """Draw true classes as rows, predicted ones as columns: number of cells, and percent of the row."""
    labels = metrics["confusion_matrix"]["labels"]
    classes = ordered(labels)
    numbers = [labels.index(cell.name) for cell in classes]
    counts = np.array(metrics["confusion_matrix"]["matrix"])[np.ix_(numbers, numbers)]
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure, axes = _figure(10.4, 8.2)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(counts):
        _field(axes, row, column, counts[row, column], shares[row, column])
    for row in np.flatnonzero(totals.ravel() == 0).tolist():
        axes.text(len(classes) / 2 - 0.5, row, _NO_CELLS, ha="center", va="center", color=GREY, style="italic")
    axes.set_xticks(range(len(classes)), [cell.code for cell in classes])
    axes.set_yticks(range(len(classes)), [_title(cell) for cell in classes])
    axes.set_xticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="#E0E0E0", linewidth=0.6)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(f"{metrics['n']:,} cells: number, and percent of the true class", pad=12)
    bar = figure.colorbar(image, shrink=0.6, format=lambda share, _: f"{100 * share:.0f} %")
    bar.set_label("share of the true class")
    save(figure, path)


def _title(cell: taxonomy.CellClass) -> str:
    return f"{cell.name}  {cell.code}" if cell in taxonomy.CLASSES else cell.name


def _field(axes: Axes, row: int, column: int, count: int, share: float) -> None:
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, lw=1.6 if row == column else 0, ec=BLUE))
    colour = "white" if share >= _DARK else "black"
    axes.text(column, row - 0.12, f"{count:,}", ha="center", va="center", color=colour, fontsize=10)
    axes.text(column, row + 0.26, percent(share), ha="center", va="center", color=colour, fontsize=7)


def recall(metrics: Mapping[str, Any], path: Path) -> None:
    """Draw the recall of each class with its 95 % interval and the number of its cells."""
    figure, axes = _figure(9, 6)
    classes = ordered(list(metrics["per_class"]))
    for row, cell in enumerate(classes):
        scores, interval = metrics["per_class"][cell.name], metrics["recall_ci95"][cell.name]
        if scores["recall"] is None:
            axes.text(0.01, row, _NO_CELLS, va="center", color=GREY, style="italic", bbox=dict(fc="white", lw=0, pad=1))
            continue
        axes.plot(interval, [row, row], color=BLUE, lw=2, solid_capstyle="butt", clip_on=False)
        axes.plot(scores["recall"], row, "o", color=BLUE, ms=7, clip_on=False)
        axes.text(1.03, row, f"{percent(scores['recall'])} of {scores['support']:,}", va="center", fontsize=9)
    mean = metrics["balanced_accuracy"]
    axes.plot([mean, mean], [-0.6, len(classes)], color=VERMILION, ls="--", lw=1.2, zorder=0)
    axes.text(mean, -0.75, f"mean {100 * mean:.1f} %", color=VERMILION, ha="center", va="bottom", fontsize=9)
    axes.set_yticks(range(len(classes)), [_title(cell) for cell in classes])
    axes.set_ylim(len(classes) - 0.4, -1.3)
    axes.set_xlim(0, 1)
    _percent(axes, "x")
    axes.set_xlabel("recall, with 95 % interval")
    axes.grid(axis="x", color="#E0E0E0")
    _bare(axes)
    save(figure, path)


def reliability(metrics: Mapping[str, Any], path: Path) -> None:
    """Draw the reliability diagram: accuracy against confidence in bins, and the number of cells in each bin."""
    figure = blank(5.6, 6.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3.4, 1))
    top.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
    top.text(0.02, 0.05, "perfect", rotation=45, rotation_mode="anchor", color=GREY, fontsize=9)
    for bin in metrics["calibration"]:
        top.plot([bin["confidence"]] * 2, bin["ci95"], color=BLUE, lw=1.6, clip_on=False)
        top.plot(bin["confidence"], bin["accuracy"], "o", color=BLUE, ms=6, clip_on=False)
        bottom.bar(bin["low"], bin["n"], bin["high"] - bin["low"], align="edge", color=BLUE, ec="white")
    top.set_xlim(0, 1)
    top.set_ylim(0, 1)
    top.set_ylabel("accuracy, with 95 % interval")
    top.set_title(f"{metrics['n']:,} cells, expected calibration error {metrics['ece']:.3f}")
    top.grid(color="#E0E0E0")
    _percent(top, "both")
    bottom.set_yscale("log")
    bottom.set_ylim(bottom=0.7)  # a bin of one cell shows
    bottom.yaxis.set_major_formatter("{x:,.0f}")
    bottom.set_ylabel("cells")
    bottom.set_xlabel("confidence: probability of the predicted class")
    for axes in (top, bottom):
        _bare(axes)
    save(figure, path)


def calibration_change(before: Floats, after: Floats, labels: NDArray[np.int64], split: str, path: Path) -> None:
    """Draw reliability before and after calibration: logits (n, classes) each and labels (n,) of a split."""
    figure, axes = _figure(5.6, 5.4)
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
    for logits, name, colour, style in ((before, "before", GREY, "s:"), (after, "after", BLUE, "o-")):
        probabilities = np.exp(log_softmax(logits.astype(np.float64), axis=1))
        confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
        bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
        shown = [bins == bin for bin in np.unique(bins) if (bins == bin).sum() >= _MIN_BIN]
        points = np.array([(confidence[inside].mean(), hit[inside].mean()) for inside in shown]).reshape(-1, 2)
        error = sum(abs((hit - confidence)[bins == bin].sum()) for bin in np.unique(bins)) / len(labels)
        axes.plot(*points.T, style, color=colour, ms=6, clip_on=False, label=f"{name}, calibration error {error:.3f}")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_title(f"{len(labels):,} {split} cells, in bins of {_MIN_BIN} or more")
    axes.set_xlabel("confidence: probability of the predicted class")
    axes.set_ylabel("accuracy")
    axes.legend(loc="lower right", frameon=False)
    axes.grid(color="#E0E0E0")
    _percent(axes, "both")
    _bare(axes)
    save(figure, path)


def risk_coverage(curve: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy among the most confident cells against their share of all cells."""
    figure, axes = _figure(5.6, 4.6)
    axes.plot(curve["share"], curve["accuracy"], color=BLUE, lw=2, clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(min(0.5, *curve["accuracy"]), 1)
    axes.set_title(f"area under the risk–coverage curve {curve['aurc']:.3f}")
    axes.set_xlabel("coverage: share of cells that are answered, most confident first")
    axes.set_ylabel("accuracy among them")
    axes.grid(color="#E0E0E0")
    _percent(axes, "both")
    _bare(axes)
    save(figure, path)


def abnormal_roc(cells: Predictions, detection: Mapping[str, Any], path: Path) -> None:
    """Draw the ROC curve of abnormal cells by their summed probability, and the point of the threshold."""
    from sklearn.metrics import roc_curve  # takes a second to import

    false, true, _ = roc_curve(abnormal_truth(cells), abnormal_score(cells))
    figure, axes = _figure(5.6, 5.4)
    axes.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1)
    axes.text(0.55, 0.5, "chance", rotation=45, rotation_mode="anchor", color=GREY, fontsize=9)
    point = 1 - detection["specificity"], detection["sensitivity"]
    interval = detection["ci95"]["auc"]
    area = f"area {detection['auc']:.3f}" + (f" ({interval[0]:.3f}–{interval[1]:.3f})" if interval else "")
    rates = f"sensitivity {100 * point[1]:.1f} %, specificity {100 * detection['specificity']:.1f} %"
    axes.plot(false, true, color=BLUE, lw=2, label=area)
    axes.plot(*point, "D", color=VERMILION, ms=8, clip_on=False, zorder=3, label=f"threshold {THRESHOLD}:\n{rates}")
    axes.legend(loc="lower right", framealpha=1, edgecolor="white")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    _percent(axes, "both")
    axes.set_xlabel(f"normal cells that were flagged (of {detection['n_normal']:,})")
    axes.set_ylabel(f"abnormal cells that were flagged (of {detection['n_abnormal']:,})")
    axes.grid(color="#E0E0E0")
    _bare(axes)
    save(figure, path)


def training_curves(
    history: Sequence[Mapping[str, float]], path: Path, along: str = "epoch", label: str = "epoch"
) -> None:
    """Draw the loss, and accuracy and macro-F1 on validation, over the epochs of a `Trainer`'s `log_history`.

    `along` is another field of its entries to draw them over, on a logarithmic axis, and `label` what it is called.
    """
    history = sorted((entry for entry in history if along in entry), key=itemgetter(along))
    figure = blank(10, 4.2)
    left, right = figure.subplots(1, 2)
    lines = [
        (left, "loss", "training", BLUE, "-"),
        (left, "eval_loss", "validation", VERMILION, "o-"),
        (right, "eval_accuracy", "accuracy", BLUE, "o-"),
        (right, "eval_macro_f1", "macro-F1", VERMILION, "s--"),
    ]
    for axes, name, title, colour, style in lines:
        points = np.array([(entry[along], entry[name]) for entry in history if name in entry]).reshape(-1, 2)
        if len(points):
            axes.plot(*points.T, style, color=colour, label=title, ms=4, lw=1.6, markevery=_few_marks(points))
    for axes, title in ((left, "loss"), (right, "validation")):
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_xscale("linear" if along == "epoch" else "log")
        axes.grid(color="#E0E0E0")
        _bare(axes)
        if axes.lines:
            axes.legend(frameon=False)
        else:
            axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", color=GREY)
    left.set_ylim(bottom=0)
    if right.lines:
        right.set_ylim(top=1)
        _percent(right, "y")
    save(figure, path)


def _few_marks(points: NDArray[np.float64]) -> int:
    return max(1, len(points) // 25)


def percent(share: float) -> str:
    """Format a share in whole percent; only 0 becomes 0 %, only 1 becomes 100 %."""
    if 0 < share < 0.01:
        return "<1 %"
    return ">99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _percent(axes: Axes, which: str) -> None:
    for axis in (axes.xaxis,) * (which != "y") + (axes.yaxis,) * (which != "x"):
        axis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")


def _bare(axes: Axes) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def blank(width: float, height: float) -> Figure:
    """An empty figure, width and height in inches, drawn without a window."""
    figure = Figure((width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = blank(width, height)
    return figure, figure.subplots()


def save(figure: Figure, path: Path) -> None:
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", dpi=RESOLUTION, metadata={"Software": None})
