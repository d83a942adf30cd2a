"""A run: the stages of a recipe one after another, each beginning with what the one before has learned."""

import logging
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from transformers import BaseImageProcessor, set_seed
from transformers.trainer_callback import ProgressCallback
from transformers.trainer_utils import get_last_checkpoint

from .. import taxonomy
from ..dataset.reading import CellDataset, open_dataset
from ..errors import CelluScanError
from ..evaluation.plots import training_curves
from ..modeling.checkpoints import start_model
from ..modeling.exporting import export_hand_built, export_native
from ..modeling.processor import build_image_processor
from . import record
from .augmentation import View
from .callbacks import TrainingTable
from .images import CellImages
from .settings import TrainingSettings
from .streaming import StreamedCells
from .trainer import SCALARS, CellTrainer

logger = logging.getLogger(__name__)


def train(recipe: str, stages: Sequence[TrainingSettings]) -> Path:
    """Run all stages; the folder of the trained model.

    The last stage writes to `output_dir`, the others to `stage-1` and so on below it. With `resume_from_checkpoint`,
    finished stages are left as they are, and the one that was cut goes on at its last checkpoint.

    Raises:
        CelluScanError: The data set or a setting cannot be used, the output folder holds a run, or the loss is not a
            number any more.
        WeightsError: The weights to begin with cannot be had.
    """
    output = Path(stages[-1].output_dir)
    resume = stages[-1].resume_from_checkpoint
    if stages[-1].process_index == 0:
        _check_output(output, resume)
    for number, settings in enumerate(stages, 1):
        folder = output if number == len(stages) else output / f"stage-{number}"
        settings.output_dir = str(folder)
        if number > 1:
            settings.start = str(output / f"stage-{number - 1}")
        if record.read(folder) is None:
            logger.info("stage %d of %d: %s", number, len(stages), folder)
            _Stage(recipe, number, settings).run(resume)
    return output


def _check_output(output: Path, resume: str | None) -> None:
    started = [
        path.name for name in ("checkpoint-*", "stage-*", record.NAME, "config.json") for path in output.glob(name)
    ]
    if started and not resume:
        raise CelluScanError(
            f"{output} holds another run ({started[0]}): choose a new --output_dir, or go on with it by "
            "--resume_from_checkpoint last"
        )


class _Stage:
    """One stage: its data, model and trainer, and the folder it leaves."""

    def __init__(self, recipe: str, number: int, settings: TrainingSettings) -> None:
        self.settings = settings
        self.folder = Path(settings.output_dir)
        set_seed(settings.seed)
        with settings.main_process_first():  # the others find downloads and caches ready
            data = open_dataset(settings.dataset)
            model = start_model(settings.start, taxonomy.ID2LABEL, **settings.model_fields)
            if settings.freeze:
                model.vit.requires_grad_(False)
            mean, std = data.channel_statistics
            view = View(model.config.image_size, settings.crop_pct, mean, std)
            train, validation = _train_images(data, settings, view), _images(data, "validation", settings, view)
        rows = {"train": len(train.labels), "validation": len(validation)}
        self.record = record.describe(recipe, number, settings, data, model.config.to_diff_dict(), rows)
        self.processor = build_image_processor(view.side, mean, std, view.resized)
        self.trainer = CellTrainer(model, settings, train, validation, view, processing_class=self.processor)
        if not settings.disable_tqdm:
            self.trainer.remove_callback(ProgressCallback)
            self.trainer.add_callback(TrainingTable())

    def run(self, resume: str | None) -> None:
        """Train, then publish the model that validation chose, and the record."""
        began = time.perf_counter()
        done = self.trainer.train(self._checkpoint(resume))
        seconds = time.perf_counter() - began
        history = list(self.trainer.state.log_history)
        figures = self.trainer.evaluate()
        unpublished = self.folder / "unpublished"
        self.trainer.save_model(str(unpublished))  # whole, also where processes hold parts of the weights
        if not self.trainer.is_world_process_zero():
            return
        publish(unpublished, self.processor, self.folder)
        training_curves(history, self.folder / "curves.png")
        self.record |= {
            "seconds": round(seconds, 1),
            "steps": done.global_step,
            "images_per_second": round(done.metrics["train_steps_per_second"] * self._images_per_step, 1),
            "best_step": self.trainer.state.best_global_step,
            "validation": {name: figures[f"eval_{name}"] for name in SCALARS},
            "history": history,
        }
        record.write(self.folder, self.record)

    @property
    def _images_per_step(self) -> int:
        settings = self.settings
        return settings.train_batch_size * settings.gradient_accumulation_steps * settings.world_size

    def _checkpoint(self, resume: str | None) -> str | None:
        """Where to go on: the checkpoint that was named, where it is of this stage, else the last one, if any."""
        if not resume or not self.folder.is_dir():
            return None
        if Path(resume).is_dir() and Path(resume).resolve().parent == self.folder.resolve():
            return resume
        return get_last_checkpoint(str(self.folder))


def _train_images(data: CellDataset, settings: TrainingSettings, view: View) -> CellImages | StreamedCells:
    if not settings.streaming:
        return _images(data, "train", settings, view)
    files = data.files(settings.dataset_config, "train")
    share = settings.train_batch_size, settings.process_index, settings.world_size
    return StreamedCells(files, view.resized, settings.seed, *share)


def _images(data: CellDataset, split: str, settings: TrainingSettings, view: View) -> CellImages:
    shown = settings.process_index == 0 and not settings.disable_tqdm
    return CellImages(data.split(settings.dataset_config, split), view.resized, settings.cache_images, shown)


def publish(trained: Path, processor: BaseImageProcessor, folder: Path) -> None:
    """Writes the trained model of a folder into another, and removes the first.

    As a plain ViT, which needs transformers alone, or as ours where it is none.
    """
    model = start_model(str(trained), taxonomy.ID2LABEL)
    plain = model.config.patch_stem == "linear" and model.config.pooling == "cls"
    (export_native if plain else export_hand_built)(model, folder, processor)
    shutil.rmtree(trained)
