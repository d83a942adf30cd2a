"""Accuracy of adapted models against the number of labelled cells of each class, on laboratories not trained on.

For each source and number, cells are drawn by group, a model is adapted to them as `celluscan adapt` does, and judged
on cells of other groups. Each outcome is a line of `draws.jsonl` in `--output`, so that a run goes on where it stopped.
"""

import argparse
import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import t as student

from .. import taxonomy
from ..adaptation.adapt import LAYERS, SCHEDULE, Adapted, Adapter, Start, load_start
from ..adaptation.cells import LabelledCells, read_cells, usable_pixels, with_names_of_cells
from ..adaptation.expectation import expected, right
from ..adaptation.layers import train_layers
from ..adaptation.trials import Way, deep, head_for
from ..evaluation import plots
from ..evaluation.five_classes import FIVE
from ..evaluation.job import describe_model
from ..evaluation.selective_metrics import calibration_metrics
from ..modeling.checkpoints import start_model

OUTCOMES, CURVES = "draws.jsonl", "adaptation.png"
_TRAINED = ("auto", "full", "lora", "scratch")  # methods with `--training-draws` instead of `--draws`
_SCRATCH = replace(SCHEDULE, steps=4 * SCHEDULE.steps, learning_rate=1e-3)
_MOST_JUDGED = 300  # cells of a draw
_LINES = {
    "auto": ("adapted (auto)", plots.BLUE, "-o"),
    "head": ("adapted (head)", plots.BLUE, "--s"),
    "full": ("adapted (all layers)", plots.BLUE, ":D"),
    "lora": ("adapted (low-rank adapters)", plots.BLUE, "-.*"),
    "calibration": ("calibrated only", plots.VERMILION, "-^"),
    "scratch": ("trained on these cells alone", plots.GREY, ":v"),
}
_SHAPE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_dropout_prob", "image_size",
    "patch_size", "patch_stem", "pooling", "input_norm", "views", "crops",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """One draw of `shots` cells of each class of a source: how a model that was adapted to them by `method` does.

    `weights` are the SHA-256 of the model's, and `minutes` what `auto` may take: a run with others starts anew.
    `n` cells of other groups were judged; `expected` is the balanced accuracy that the adaptation announced; `seconds`
    are of choosing and fitting, without the model's first look at the cells.
    """

    weights: str
    minutes: float
    source: str
    shots: int
    method: str
    draw: int
    n: int
    balanced_accuracy: float
    accuracy: float
    ece: float
    coverage: float | None
    expected: float | None
    seconds: float
    chosen: str


def adaptation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure each source, number of cells and method; return means and intervals over draws."""
    start = load_start(arguments.model)
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / OUTCOMES
    same = {
        "weights": describe_model(str(arguments.model), start.model, start.processor)["sha256"],
        "minutes": arguments.minutes,
    }
    lines = file.read_text("utf-8").splitlines() if file.is_file() else []
    done = [Outcome(**record) for line in lines if same.items() <= (record := json.loads(line)).items()]
    known = {(outcome.source, outcome.method, outcome.shots, outcome.draw) for outcome in done}
    with tempfile.TemporaryDirectory() as scratch:
        for spec in arguments.source:
            source = spec.partition("=")[0]
            own = source in arguments.own
            cells = read_cells([spec], start.names, own, start.processor, Path(scratch))
            cells = of_classes(cells, arguments.own_classes if own else FIVE)
            cells = with_names_of_cells(cells) if own else cells
            laboratory = Laboratory(start, cells, Way(start.processor, start.model, False, cells.pixels))
            for method, shots, draw in _wanted(arguments):
                support, others = deal(cells, shots, draw)
                if len(others) and (source, method, shots, draw) not in known:
                    facts = laboratory.outcome(method, support, others, arguments.minutes, draw)
                    done.append(Outcome(**same, source=source, shots=shots, method=method, draw=draw, **facts))
                    with file.open("a", encoding="utf-8") as stream:
                        stream.write(json.dumps(asdict(done[-1])) + "\n")
    asked = {spec.partition("=")[0] for spec in arguments.source}
    rows = summary([outcome for outcome in done if outcome.source in asked])
    draw_curves(rows, arguments.output / CURVES)
    return same | {"rows": rows}


def _wanted(arguments: argparse.Namespace) -> list[tuple[str, int, int]]:
    """Method, number of cells a class, and number of each draw."""
    return [
        (method, shots, draw)
        for shots in arguments.shots
        for method in (arguments.methods if shots else ["none"])
        for draw in range((arguments.training_draws if method in _TRAINED else arguments.draws) if shots else 1)
    ]


def of_classes(cells: LabelledCells, names: Sequence[str]) -> LabelledCells:
    """The cells of some classes and their children."""
    rows = [
        row
        for row, label in enumerate(cells.labels)
        if cells.names[label] in names or taxonomy.PARENTS.get(cells.names[label]) in names
    ]
    return subset(cells, np.array(rows, np.int64))


def subset(cells: LabelledCells, rows: NDArray[np.int64]) -> LabelledCells:
    """Some of the cells, in that order."""
    reads = [cells.reads[row] for row in rows]
    return replace(cells, reads=reads, pixels=cells.pixels[rows], labels=cells.labels[rows], groups=cells.groups[rows])


def deal(cells: LabelledCells, shots: int, draw: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deal cells out: rows of `shots` cells of each class, and rows of cells of other groups, at most `_MOST_JUDGED`.

    No row is judged if a class has too few cells for both.
    """
    order = np.random.default_rng([draw, shots]).permutation(len(cells))
    classes = np.unique(cells.labels)
    support = np.concatenate([order[cells.labels[order] == label][:shots] for label in classes])
    others = order[~np.isin(cells.groups[order], cells.groups[support])][:_MOST_JUDGED]
    if len(support) < shots * len(classes) or not np.isin(classes, cells.labels[others]).all():
        others = others[:0]
    return support, others


@dataclass(frozen=True)
class Laboratory:
    """The cells of one source, and how the model looks at them as it is, which is computed once for all draws."""

    start: Start
    cells: LabelledCells
    unchanged: Way

    def outcome(
        self, method: str, support: NDArray[np.int64], others: NDArray[np.int64], minutes: float, draw: int
    ) -> dict[str, Any]:
        """Adapt the model to the cells `support`, and judge it on `others`: the fields of an `Outcome`."""
        unchanged = self.unchanged.of(support)
        started = time.perf_counter()
        names, labels = self.cells.names, self.cells.labels[others]
        known, sets, seconds, chosen = None, None, 0.0, method
        if method == "none":
            logits = head_for(self.start.model, names)(deep(self.unchanged.of(others).features))
        elif method == "scratch":
            logits = self._from_scratch(support, others, draw)
            seconds = time.perf_counter() - started
        else:
            given = subset(self.cells, support)
            adapter = Adapter(self.start, given, method=method, minutes=minutes, seed=draw, unchanged=unchanged)
            adapted = adapter.adapted()
            seconds, chosen = time.perf_counter() - started, adapted.chosen.method
            known = expected(adapted.chosen, given)["balanced_accuracy"]
            logits = self._logits(adapted, others)
            sets = adapted.reliability.sets(softmax(logits, axis=1))
        hits = right(logits, labels, names)
        return {
            "n": len(others),
            "balanced_accuracy": float(np.mean([hits[labels == label].mean() for label in np.unique(labels)])),
            "accuracy": float(hits.mean()),
            "ece": calibration_metrics(logits, labels)["ece"],
            "coverage": None if sets is None else float(sets[np.arange(len(labels)), labels].mean()),
            "expected": known,
            "seconds": round(seconds, 1),
            "chosen": chosen,
        }

    def _from_scratch(self, support: NDArray[np.int64], others: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
        """Logits (n, classes) by a network of the same shape that has learned from the cells `support` alone.

        Nothing is held out, so it is not calibrated.
        """
        model, names, given = self.start.model, self.cells.names, self.unchanged.of(support)
        fields = {name: value for name, value in model.config.to_dict().items() if name in _SHAPE}
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fresh = start_model("scratch", dict(enumerate(names)), **fields).to(model.device)
        fresh.set_attn_implementation(model.config._attn_implementation)
        labels, view = self.cells.labels[support], given.training_view
        train_layers(fresh, given.pixels, labels, view, _SCRATCH, seed, keep_statistics=False)
        return self.unchanged.run(fresh, others)[0]

    def _logits(self, adapted: Adapted, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits (n, classes) of an adapted model."""
        way = adapted.chosen.way
        if (
            way.model is self.start.model
            and way.processor is self.start.processor
            and adapted.chosen.method not in LAYERS
        ):
            return head_for(adapted.model, self.cells.names)(deep(self.unchanged.of(rows).features))
        judged = subset(self.cells, rows)
        same = way.processor is self.start.processor
        pixels = judged.pixels if same else usable_pixels(judged.reads, way.processor)
        return Way(way.processor, adapted.model, way.statistics, pixels).run(adapted.model)[0]


def summary(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """For each source, method and number of cells, the mean over draws of each measure, and its 95 % interval.

    The interval is that of Student's t over draws, whose cells overlap: it is too narrow for a new laboratory.
    """
    groups: dict[tuple[str, str, int], list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        groups[outcome.source, outcome.method, outcome.shots].append(outcome)
    rows = []
    for (source, method, shots), members in sorted(groups.items()):
        row: dict[str, Any] = {"source": source, "method": method, "shots": shots, "draws": len(members)}
        for name in ("balanced_accuracy", "accuracy", "ece", "coverage", "expected", "seconds"):
            values = [value for member in members if (value := getattr(member, name)) is not None]
            row[name] = float(np.mean(values)) if values else None
        scores = np.array([member.balanced_accuracy for member in members])
        if len(scores) > 1:
            half = float(student.ppf(0.975, len(scores) - 1) * scores.std(ddof=1) / len(scores) ** 0.5)
            row["ci95"] = [row["balanced_accuracy"] - half, row["balanced_accuracy"] + half]
        rows.append(row | {"chosen": dict(Counter(member.chosen for member in members))})
    return rows


def draw_curves(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw balanced accuracy against the number of labelled cells of a class: a panel for each source."""
    lines = {method: line for method, line in _LINES.items() if method in {row["method"] for row in rows}}
    sources, shots = list(dict.fromkeys(row["source"] for row in rows)), sorted({row["shots"] for row in rows})
    figure = Figure(figsize=(1 + 3.4 * len(sources), 3.6), dpi=plots.RESOLUTION, layout="constrained")
    panels = figure.subplots(1, len(sources), sharey=True, squeeze=False)[0]
    for axes, source in zip(panels, sources, strict=True):
        of_source = [row for row in rows if row["source"] == source]
        for method, (label, colour, marker) in lines.items():
            if method not in {row["method"] for row in of_source}:
                continue
            begins = "none" if method != "scratch" else ""
            line = sorted((row for row in of_source if row["method"] in (begins, method)), key=itemgetter("shots"))
            places = [shots.index(row["shots"]) for row in line]
            axes.plot(places, [row["balanced_accuracy"] for row in line], marker, color=colour, label=label)
            bounds = [row.get("ci95", 2 * [row["balanced_accuracy"]]) for row in line]
            axes.fill_between(places, *zip(*bounds, strict=True), color=colour, alpha=0.15)
        axes.set_xticks(range(len(shots)), [str(number) for number in shots])
        axes.set_title(source)
        axes.set_xlabel("labelled cells of each class")
        axes.grid(color="#E0E0E0")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("balanced accuracy")
    panels[0].set_ylim(0, 1)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    plots.save(figure, path)


def check_needs(arguments: argparse.Namespace) -> None:
    """Check nothing: what is missing is reported when it is used."""
