"""Run the stages of a recipe one after another, each starting from the weights of the one before."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import BaseImageProcessor, set_seed
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK, TRAINER_STATE_NAME

from .. import taxonomy
from ..augmentation.view import View
from ..bundled_model import NAME, WBC_SMALL
from ..dataset.reading import CellDataset, open_dataset
from ..errors import CelluScanError
from ..evaluation.plots import training_curves
from ..inference.loading import seen_sources, trained_on
from ..modeling.checkpoints import start_model
from ..modeling.configuration_celluscan import CelluScanConfig
from ..modeling.exporting import export_hand_built, export_native, is_native
from ..modeling.low_rank import add_adapters, merge
from ..modeling.modeling_celluscan import CelluScanForImageClassification
from ..modeling.processor import build_image_processor
from ..modeling.reliability_celluscan import ARRAYS, FACTS
from ..reliability.calibrate import calibrate
from . import record
from .callbacks import TrainingTable, check_trackers
from .images import CellImages
from .probe import fit_probe
from .settings import TrainingSettings
from .streaming import StreamedCells
from .trainer import SCALARS, CellTrainer

logger = logging.getLogger(__name__)
LAST = "last"  # value of --resume_from_checkpoint: the last complete checkpoint


def train(recipe: str, stages: Sequence[TrainingSettings]) -> Path:
    """Run all stages and return the folder of the trained model.

    The last stage writes to `output_dir`, the others to `stage-1` and so on below it. With `resume_from_checkpoint`,
    finished stages are skipped, and the interrupted one resumes from its last checkpoint.

    Raises:
        CelluScanError: The dataset, a tracker or another setting cannot be used; the output folder holds another run;
            or the loss is no longer finite.
        WeightsError: The initial weights cannot be loaded.
    """
    output = Path(stages[-1].output_dir)
    resume = stages[-1].resume_from_checkpoint
    for settings in stages:
        check_trackers(settings.report_to)
    if stages[-1].process_index == 0:
        _check_output(output, resume)
    for number, settings in enumerate(stages, 1):
        folder = output if number == len(stages) else output / f"stage-{number}"
        settings.output_dir = str(folder)
        if number > 1:
            settings.start = str(output / f"stage-{number - 1}")
        logger.info("stage %d of %d: %s", number, len(stages), folder)
        _Stage(recipe, settings, last=number == len(stages)).run(resume)
    PartialState().destroy_process_group()  # its threads would abort a process that exits before the others
    return output


def _check_output(output: Path, resume: str | None) -> None:
    patterns = ("checkpoint-*", "stage-*", record.DONE, "config.json")
    started = [path.name for pattern in patterns for path in output.glob(pattern)]
    if started and not resume:
        raise CelluScanError(
            f"{output} holds another run ({started[0]}): choose a new --output_dir, or resume it with "
            "--resume_from_checkpoint last"
        )
    if not resume:
        (output / record.ASKED).unlink(missing_ok=True)  # left by a run that stopped before its first checkpoint
    elif resume != LAST and not (Path(resume) / TRAINER_STATE_NAME).is_file():
        raise CelluScanError(
            f"--resume_from_checkpoint {resume}: expected last, or the folder of a complete checkpoint"
        )


class _Stage:
    """Data, model, trainer and output folder of one stage."""

    def __init__(self, recipe: str, settings: TrainingSettings, last: bool) -> None:
        self.settings = settings
        self.calibrated = last and settings.calibrate
        self.folder = Path(settings.output_dir)
        if settings.probe and settings.world_size > 1:
            raise CelluScanError(f"--probe runs in one process, got {settings.world_size}: start it without a launcher")
        set_seed(settings.seed)
        with settings.main_process_first():  # the others then use its downloads and caches
            data = open_dataset(settings.dataset)
            rows = _rows(data, settings)
            model = _model(settings)
            _warn_of_seen_cells(settings.start, data)
        self.adapters = add_adapters(model, settings.lora_rank) if settings.lora_rank else None
        mean, std = data.channel_statistics
        view = View(model.config.image_size, settings.crop_pct, mean, std)
        seen = _seen(model.config, view)
        train, validation = _train_images(data, rows, settings, view), _images(rows["validation"], settings, seen)
        self.processor = build_image_processor(seen.side, mean, std, seen.resized)
        self.trainer = CellTrainer(model, settings, train, validation, view, seen, processing_class=self.processor)
        if not settings.disable_tqdm:
            self.trainer.remove_callback(DEFAULT_PROGRESS_CALLBACK)  # a different class in notebooks
            self.trainer.add_callback(TrainingTable())
        counts = {"train": len(train.labels), "validation": len(validation)}
        if settings.process_index == 0:
            record.begin(self.folder, record.describe(recipe, settings, data, model.config.to_diff_dict(), counts))

    def run(self, resume: str | None) -> None:
        """Train, then write the model with the best validation score and the results; skip a finished stage."""
        if record.is_finished(self.folder):
            logger.info("already finished: %s", self.folder)
            return
        unpublished = self.folder / "unpublished"
        results = self._fit_probe(unpublished) if self.settings.probe else self._train(resume, unpublished)
        if self.trainer.is_world_process_zero():
            publish(unpublished, self.processor, self.folder)
            along = ("strength", "strength of the head, C") if self.settings.probe else ("epoch", "epoch")
            training_curves(results["history"], self.folder / record.CURVES, *along)
            record.finish(self.folder, results | {"calibration": self._calibrate()})
        self.trainer.accelerator.wait_for_everyone()  # before the next stage reads the model

    def _train(self, resume: str | None, unpublished: Path) -> dict[str, Any]:
        """Train layers, save the weights with the best validation score, and return what `training.json` says."""
        checkpoint = self._checkpoint(resume)
        trained = self.trainer.train(checkpoint)
        if self.adapters is not None:
            self.trainer.optimizer.eval()  # averages, if any, before the parameters that hold them are gone
            merge(self.adapters)
        self.trainer.save_model(str(unpublished))  # gathers weights that are sharded over processes
        return {
            # the next three are measured from there on
            "resumed_from": Path(checkpoint).name if checkpoint else None,
            "seconds": round(trained.metrics["train_runtime"], 3),
            "steps": trained.global_step,
            "images_per_second": round(trained.metrics["train_steps_per_second"] * self.trainer.images_per_step, 1),
            "best_step": self.trainer.state.best_global_step,
            "validation": {name: self.trainer.final_metrics[f"eval_{name}"] for name in SCALARS},
            "history": self.trainer.history,
        }

    def _fit_probe(self, unpublished: Path) -> dict[str, Any]:
        """Fit the head to features, save the model, and return what `training.json` says."""
        started = time.perf_counter()
        model = self.trainer.model.eval()
        history = fit_probe(model, self.processor, self.settings.dataset, self.folder)
        model.save_pretrained(unpublished)
        return {
            "resumed_from": None,
            "seconds": round(time.perf_counter() - started, 3),
            "steps": 0,
            "images_per_second": None,
            "best_step": None,
            "validation": {name: history[-1][f"eval_{name}"] for name in SCALARS},
            "history": history,
        }

    def _calibrate(self) -> dict[str, Any] | None:
        """Calibrate the written model; return its thresholds and the validation metrics before and after."""
        if not self.calibrated:
            return None
        facts = calibrate(self.folder, self.settings.dataset, command="celluscan train")
        thresholds = {name: facts[name] for name in ("temperature", "confidence_threshold", "ood_threshold")}
        return thresholds | facts["validation"]

    def _checkpoint(self, resume: str | None) -> str | None:
        """Choose the checkpoint to resume: the given one if it belongs to this stage, else the last complete one."""
        if not resume:
            return None
        if resume != LAST and Path(resume).resolve().parent == self.folder.resolve():
            return resume
        complete = [path.parent for path in self.folder.glob(f"checkpoint-*/{TRAINER_STATE_NAME}")]  # written last
        return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def _warn_of_seen_cells(start: str, data: CellDataset) -> None:
    """Say if the initial weights know cells of these sources, so that no split of this dataset is new to them."""
    folder = WBC_SMALL if start == NAME else Path(start)
    known = trained_on(folder) if folder.is_dir() else {}
    if seen := seen_sources(known, data.sources, data.fingerprint):
        logger.warning(
            "%s was trained on cells of %s, maybe on some of validation and test here: judge it on other cells",
            start,
            ", ".join(seen),
        )


def _rows(data: CellDataset, settings: TrainingSettings) -> dict[str, Dataset]:
    indexed = {} if settings.streaming else {"train": data.split(settings.dataset_config, "train")}
    return indexed | {"validation": data.split("originals", "validation")}


def _model(settings: TrainingSettings) -> CelluScanForImageClassification:
    model = start_model(settings.start, taxonomy.ID2LABEL, **settings.model_fields)
    convolution = model.config.patch_stem == "convolution"
    if convolution and (settings.freeze or settings.lora_rank):
        option = "--freeze" if settings.freeze else "--lora_rank"
        raise CelluScanError(
            f"{option} does not support a convolution stem, whose batch norms would keep changing: leave it out"
        )
    if settings.freeze:
        model.vit.requires_grad_(False)
    if settings.device.type == "cpu":  # where the backward pass of fused attention is slower
        model.set_attn_implementation("eager")
    elif convolution and settings.world_size > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def _seen(config: CelluScanConfig, view: View) -> View:
    """What the trained model is shown: the view of the training, or the largest crop if it crops by itself."""
    if not config.crops:
        return view
    if view.crop_pct not in config.crops:
        raise CelluScanError(
            f"--crop_pct {view.crop_pct}, at which training looks, must be one of the model's crops, {config.crops}"
        )
    resized = round(config.image_size / config.crops[-1])
    return replace(view, side=config.picture_size, crop_pct=config.picture_size / resized)


def _train_images(
    data: CellDataset, rows: dict[str, Dataset], settings: TrainingSettings, view: View
) -> CellImages | StreamedCells:
    if not settings.streaming:
        return _images(rows["train"], settings, view)
    files = data.checked_files(settings.dataset_config, "train")
    batches = settings.train_batch_size, settings.process_index, settings.world_size
    return StreamedCells(files, view.resized, settings.seed, *batches)


def _images(rows: Dataset, settings: TrainingSettings, view: View) -> CellImages:
    progress = settings.process_index == 0 and not settings.disable_tqdm
    return CellImages(rows, view.resized, settings.cache_images, progress)


def publish(trained: Path, processor: BaseImageProcessor, folder: Path) -> None:
    """Move a trained model to its output folder, in the format for users.

    A plain ViT and a DINOv2 are written for transformers alone, any other model with the code of this package.
    Calibration that an interrupted run left in the folder is removed.
    """
    for name in (FACTS, ARRAYS):
        (folder / name).unlink(missing_ok=True)
    model = start_model(str(trained), taxonomy.ID2LABEL)
    (export_native if is_native(model.config) else export_hand_built)(model, folder, processor)
    shutil.rmtree(trained)
