"""`celluscan adapt`: a model for another microscope from some of its cells, labelled or not.

The ways to do it are tried in the order of what they cost: the head alone, then layers too. What held-out cells favour
is fitted to all cells, calibrated on the held-out answers, and written as a model folder like any other.
"""

import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ..atomic_io import atomic_write, atomic_write_folder
from ..errors import CelluScanError
from ..inference.loading import load_classifier, load_reliability
from ..inference.prediction import Read, best_device
from ..inference.target_statistics import batch_norms, use_target_statistics
from ..modeling.checkpoints import start_model
from ..modeling.exporting import export_hand_built, export_native
from ..modeling.low_rank import add_adapters, merge
from ..modeling.reliability_celluscan import FACTS, Reliability
from ..reliability.calibrate import write
from ..training.record import ASKED, CURVES, DONE
from ..workers import progress
from .calibration import fitted_reliability, with_scorers
from .card import render
from .cells import (
    LabelledCells,
    TrainedOn,
    check_output,
    processors,
    read_cells,
    unlabelled_reads,
    usable_pixels,
    view_of,
)
from .expectation import expected, what_helps
from .head import DEFAULT_STRENGTH, LinearHead
from .layers import RANK, Schedule, train_layers
from .settings import AdaptationSettings
from .trials import Floats, Trial, Trials, Way, batches, head_for, with_head

RECORD = "adaptation.json"
LAYERS = ("full", "lora")
SCHEDULE = Schedule()
_PROBED_STEPS = 2
_MOST_FOLDS, _LEAST_FOLDS = 5, 3  # of a trial of layers


@dataclass(frozen=True)
class Start:
    """A model to adapt: hand-built, also if it was saved as `native`; with its processor and calibration."""

    folder: Path
    model: PreTrainedModel
    processor: BaseImageProcessor
    reliability: Reliability
    native: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Its classes, in its order."""
        return tuple(self.model.config.id2label[number] for number in range(self.model.config.num_labels))


def load_start(folder: Path) -> Start:
    """Load the model of a folder. Raises a `CelluScanError` if it is not a ViT, or was not calibrated."""
    if not folder.is_dir():
        onnx = " (an ONNX file cannot be adapted: give the folder that it was exported from)"
        raise CelluScanError(f"{folder} is not a directory of a model{onnx if folder.suffix == '.onnx' else ''}")
    if (folder / "model.onnx").is_file() and not (folder / "model.safetensors").is_file():
        raise CelluScanError(f"{folder} holds an ONNX file, which cannot be adapted: give the folder it was made from")
    classifier, processor = load_classifier(folder)
    reliability = load_reliability(classifier)
    if reliability is None:
        raise CelluScanError(f"{folder} has no {FACTS}: run celluscan calibrate {folder} --dataset FOLDER first")
    model = start_model(str(folder), classifier.config.id2label).to(best_device()).eval()
    if model.device.type == "cpu":  # where the backward pass of fused attention is slower
        model.set_attn_implementation("eager")
    return Start(folder, model, processor, reliability, native=type(classifier) is not type(model))


@dataclass(frozen=True)
class Adapted:
    """An adapted model, calibrated, with what its answers are worth; the trial that it comes from, and all trials."""

    model: PreTrainedModel
    reliability: Reliability
    chosen: Trial
    tried: list[Trial]


@dataclass
class Adapter:
    """Chooses and fits one way to adapt a model to labelled cells.

    `method` is one of `METHODS`; `minutes` limit what `auto` tries; `unlabelled` are more images of the same
    microscope; `unchanged` is how the model looks at the cells as it is.
    """

    start: Start
    cells: LabelledCells
    unlabelled: Sequence[Read] = ()
    method: str = "auto"
    minutes: float = 5.0
    seed: int = 0
    schedule: Schedule = field(default_factory=lambda: SCHEDULE)
    notes: list[str] = field(default_factory=list)
    unchanged: Way | None = None

    def __post_init__(self) -> None:
        self._started = time.perf_counter()
        self.trials = Trials(self.cells, head_for(self.start.model, self.cells.names), self.seed)

    def adapted(self) -> Adapted:
        """Choose a way, and fit it to all cells."""
        chosen, tried = self.choose()
        model, features = self.fit(chosen)
        reliability = fitted_reliability(chosen, self.start.reliability, self.cells.names, features)
        return Adapted(model, reliability, chosen, tried)

    def choose(self) -> tuple[Trial, list[Trial]]:
        """Try what the method allows; return the trial that held-out cells favour, and all trials."""
        unchanged = self.unchanged or Way(self.start.processor, self.start.model, False, self.cells.pixels)
        tried = [self.trials.unchanged(unchanged)]
        if self.method == "calibration":
            tried.append(self.trials.calibrated(unchanged))
            return tried[1], tried
        heads = [self.trials.head(way) for way in self._ways(unchanged)]
        head = min(heads, key=lambda trial: trial.score)
        tried += heads
        if self.method == "auto":
            tried.append(self.trials.calibrated(unchanged))
        if self.method in LAYERS:
            tried.append(self._layers(self.method, head, _MOST_FOLDS))
            return tried[-1], tried
        if self.method == "auto":
            tried += self._layers_in_time(head)
        allowed = tried if self.method == "auto" else heads
        return (min(allowed, key=lambda trial: trial.score) if head.held_out.any() else head), tried

    def _ways(self, unchanged: Way) -> list[Way]:
        """The best of the views by a quick trial, with the model's statistics and with those of the new images."""
        views = [unchanged]
        others = [] if self.start.model.config.crops else processors(self.start.processor)[1:]
        for processor in others:  # a model with crops looks at all of them
            pixels = usable_pixels(self.cells.reads, processor)
            if len(pixels) != len(self.cells):
                raise CelluScanError(
                    "images that were read before can no longer be read: leave them in place, and retry"
                )
            views.append(Way(processor, self.start.model, False, pixels))
        quick = {id(way): self.trials.heads(way, [DEFAULT_STRENGTH])[0].score for way in views}
        best = min(views, key=lambda way: quick[id(way)])
        if not batch_norms(self.start.model):
            if self.unlabelled:
                self.notes.append("the images without labels were not used: the model has no batch norm")
            return [best]
        model = deepcopy(self.start.model)
        images = torch.cat((best.pixels, usable_pixels(self.unlabelled, best.processor)))
        use_target_statistics(model, lambda: batches(images, best.view, model.device))
        return [best, Way(best.processor, model, True, best.pixels)]

    def _layers_in_time(self, head: Trial) -> list[Trial]:
        """Try the kinds of layers for which the time is enough."""
        if not head.held_out.any():
            self.notes.append("layers were not trained: with one cell a class nothing can be held out to judge it by")
            return []
        trials = []
        kinds = LAYERS if find_spec("peft") else LAYERS[:1]
        for kind in kinds:
            seconds = self._seconds_of_a_fit(kind, head)
            left = 60 * self.minutes - (time.perf_counter() - self._started)
            affordable = int(left / seconds) - 1  # one fit to all cells at the end
            if affordable < _LEAST_FOLDS:
                self.notes.append(
                    f"{kind} was not tried: {_LEAST_FOLDS + 1} fits of {seconds:.0f} s do not fit into the "
                    f"{max(left, 0):.0f} s that are left; give more --minutes"
                )
                continue
            trials.append(self._layers(kind, head, min(affordable, _MOST_FOLDS)))
        return trials

    def _seconds_of_a_fit(self, kind: str, head: Trial) -> float:
        started = time.perf_counter()
        probe = Schedule(_PROBED_STEPS, self.schedule.batch_size)
        self._trained(kind, self.trials.source, np.arange(len(self.cells)), head.way, probe, lambda steps: None)
        return (time.perf_counter() - started) / _PROBED_STEPS * self.schedule.steps

    def _layers(self, kind: str, head: Trial, count: int) -> Trial:
        with progress(f"trying {kind}", self.schedule.steps * count, "step") as advance:
            return self.trials.layers(
                kind,
                head,
                count,
                lambda start, rows: self._trained(kind, start, rows, head.way, self.schedule, advance),
            )

    def _trained(
        self,
        kind: str,
        head: LinearHead,
        rows: Any,
        way: Way,
        schedule: Schedule,
        advance: Callable[[int], object],
    ) -> PreTrainedModel:
        """Train layers of a copy of the model from a head on, on some cells."""
        model = with_head(way.model, head, self.cells.names)
        adapters = add_adapters(model, RANK) if kind == "lora" else None
        train_layers(model, way.pixels[rows], self.cells.labels[rows], way.training_view, schedule, self.seed, advance)
        return model if adapters is None else merge(adapters)

    def facts(self, adapted: Adapted) -> dict[str, Any]:
        """What `adaptation.json` says: cells, method, what was tried, and what to expect."""
        chosen, tried = adapted.chosen, adapted.tried
        before = tried[0]
        heads = [trial for trial in tried if trial.method == "head" and trial.way is chosen.way]
        return {
            "method": chosen.method,
            "statistics": chosen.way.statistics,
            "crop_pct": round(chosen.way.view.crop_pct, 3),
            "strength": chosen.strength,
            "schedule": asdict(self.schedule) if chosen.method in LAYERS else None,
            "classes": list(self.cells.names),
            "cells": {
                "n": len(self.cells),
                "groups": len(np.unique(self.cells.groups)),
                "counts": self.cells.counts,
                "unchecked": [name for name in self.cells.names if name not in self.cells.counts],
                "dropped": dict(Counter(item.reason for item in self.cells.dropped)),
                **self.cells.described,
            },
            "before": expected(before, self.cells, as_it_is=True),
            "expected": expected(chosen, self.cells),
            "more_would_help": what_helps(self.trials, heads[0]) if heads else [],
            "tried": [
                {
                    "method": trial.method,
                    "statistics": trial.way.statistics,
                    "crop_pct": round(trial.way.view.crop_pct, 3),
                    "strength": trial.strength,
                    "score": trial.score if np.isfinite(trial.score) else None,
                    "balanced_accuracy": expected(trial, self.cells)["balanced_accuracy"],
                    "seconds": round(trial.seconds, 1),
                }
                for trial in tried
            ],
            "notes": self.notes,
        }

    def fit(self, chosen: Trial) -> tuple[PreTrainedModel, Floats]:
        """Fit the chosen way to all cells: the model, calibrated, and its features with colours (n, D + 9)."""
        way = chosen.way
        head, model, features = self.trials.final_head(chosen), way.model, way.features
        if chosen.method in LAYERS:
            every = np.arange(len(self.cells))
            with progress(f"fitting {chosen.method}", self.schedule.steps, "step") as advance:
                model = self._trained(chosen.method, head, every, way, self.schedule, advance)
            features = way.run(model)[1]
            head = head_for(model, self.cells.names)
        cooled = LinearHead(head.weight / chosen.temperature, head.bias / chosen.temperature)
        return with_head(model, cooled, self.cells.names), features


def adapt(settings: AdaptationSettings) -> dict[str, Any]:
    """Write the folder of an adapted model; return its `adaptation.json`.

    Raises:
        CelluScanError: The model, the cells or the output cannot be used.
    """
    started = time.perf_counter()
    check_output(settings.output)
    start = load_start(settings.model)
    unlabelled = unlabelled_reads(settings.unlabelled)
    record: dict[str, Any] = {"from": settings.model.name, "command": settings.command, "unlabelled": len(unlabelled)}
    if not settings.sources:
        model, reliability, facts = _by_statistics(start, unlabelled)
        processor, temperature = start.processor, 1.0
    else:
        with tempfile.TemporaryDirectory() as scratch:
            own = settings.classes == "own"
            trained_on = TrainedOn.of(settings.model)
            cells = read_cells(settings.sources, start.names, own, start.processor, Path(scratch), trained_on)
            adapter = Adapter(start, cells, unlabelled, settings.method, settings.minutes, settings.seed)
            adapted = adapter.adapted()
        model, reliability, chosen = adapted.model, adapted.reliability, adapted.chosen
        processor, facts = chosen.way.processor, adapter.facts(adapted)
        temperature = (
            adapter.trials.adjustment(chosen.way).temperature if chosen.method == "calibration" else chosen.temperature
        )
    record |= facts | {"seconds": round(time.perf_counter() - started, 1), "seed": settings.seed}
    with atomic_write_folder(settings.output) as partial:
        (export_native if start.native else export_hand_built)(model, partial, processor)
        total = start.reliability.record["total_temperature"] * temperature
        kept = {name: start.reliability.record[name] for name in ("validation", "data")}
        write(partial, model, reliability, 1.0, kept | {"temperature": temperature, "total_temperature": total})
        for name in (ASKED, DONE, CURVES):  # of the training that this goes on from
            if (settings.model / name).is_file():
                shutil.copyfile(settings.model / name, partial / name)
        (partial / "README.md").write_text(render(record, settings.output), "utf-8")
        with atomic_write(partial / RECORD) as file:
            file.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return record


def _by_statistics(start: Start, unlabelled: Sequence[Read]) -> tuple[PreTrainedModel, Reliability, dict[str, Any]]:
    """Take the statistics of the images, and fit the OOD score to them, with the model's answers as labels."""
    model, view = deepcopy(start.model), view_of(start.processor)
    pixels = usable_pixels(unlabelled, start.processor)
    use_target_statistics(model, lambda: batches(pixels, view, model.device))
    way = Way(start.processor, model, True, pixels)
    logits, features = way.run(model)
    trial = Trial("none", way, None, np.zeros(len(logits), np.int64), logits.argmax(axis=1), logits, features)
    return model, with_scorers(trial, start.reliability, features), {"method": "none", "statistics": True}
