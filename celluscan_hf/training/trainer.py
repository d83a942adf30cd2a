"""The Trainer of transformers with its seams filled: order of images, work on the device, optimiser, what is saved."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch.utils.data import DataLoader
from torchvision.transforms import v2
from transformers import (
    EvalPrediction,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer import TRAINING_ARGS_NAME

from .. import taxonomy
from ..errors import CelluScanError
from ..evaluation.wbc_metrics.wbc_metrics import figures
from .augmentation import View
from .images import Batch, CellImages, as_batch
from .losses import CellLoss, class_weights
from .optimisation import MuonWithAdamW, averaging, parameter_groups
from .sampling import CellSampler
from .settings import TrainingSettings
from .streaming import StreamedCells

SCALARS = ("n", "accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")


class CellTrainer(Trainer):  # type: ignore[misc]
    """Trains a `CelluScanForImageClassification` on the images of a built data set.

    Batches hold stored pixels; they are augmented and scaled on the device. Where weights are averaged, what is
    evaluated and saved as `model.safetensors` are the averages.

    Args:
        model: With the classes of the taxonomy.
        args: The settings of one stage.
        train: The images to train on.
        validation: The images to choose the checkpoint by.
        view: What the model sees of an image.
        **options: For `Trainer`, such as `callbacks`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingSettings,
        train: CellImages | StreamedCells,
        validation: CellImages,
        view: View,
        **options: Any,
    ) -> None:
        self.view = view
        self.augmentation = args.augmentation
        self.augmentation.check(view)
        self.mixing = _mixing(args)
        counts = np.bincount(train.labels, minlength=len(taxonomy.NAMES)).tolist()
        weights = class_weights(counts, args.class_balanced_beta) if args.loss == "class_balanced" else None
        super().__init__(
            model=model,
            args=args,
            data_collator=as_batch,
            train_dataset=train,
            eval_dataset=validation,
            compute_loss_func=CellLoss(args.loss, args.label_smoothing_factor, args.focal_gamma, weights),
            compute_metrics=_metrics,
            **options,
        )
        self.add_callback(_EpochOrder(self))
        if (args.muon or args.ema_decay) and (self.is_deepspeed_enabled or (args.muon and self.is_fsdp_enabled)):
            raise CelluScanError(
                "Muon needs whole matrices, and averaged weights need the optimiser, which this launcher splits or "
                "replaces: give --muon false --ema_decay 0, or use scripts/accelerate/ddp.yaml"
            )

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """As the library's; a streamed split deals out its own batches."""
        if not isinstance(self.train_dataset, StreamedCells):
            return super().get_train_dataloader()
        self.order = self.train_dataset
        args = self.args
        return DataLoader(
            self.train_dataset,
            batch_size=None,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> CellSampler:
        args = self.args
        batch = args.train_batch_size * args.world_size
        self.order = CellSampler(self.train_dataset.labels.tolist(), args.sampler, args.seed, batch)
        return self.order

    def _prepare_inputs(self, inputs: Batch) -> dict[str, Any]:
        batch = super()._prepare_inputs(inputs)
        pixels, labels = batch["pixels"], batch["labels"]
        if "draws" not in batch:
            return {"pixel_values": self.view(pixels), "labels": labels}
        pixel_values = self.augmentation(pixels, batch["draws"], self.view)
        if self.mixing is not None:
            pixel_values, labels = self.mixing(pixel_values, labels)
        return {"pixel_values": pixel_values, "labels": labels}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As the library's, with our groups, and the average of weights where it is wanted."""
        if self.optimizer is None:
            args = self.args
            groups = parameter_groups(
                model or self.model, args.learning_rate, args.weight_decay, args.layer_decay, args.muon
            )
            kind, options = self.get_optimizer_cls_and_kwargs(args, self.model)
            kind = MuonWithAdamW if args.muon else kind
            self.optimizer = (averaging(kind, args.ema_decay) if args.ema_decay else kind)(groups, **options)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves what would be evaluated, and no pickle of the arguments.

        Raises:
            Diverged: The loss is not a number; what was saved before stays.
        """
        self.check_loss(self._tr_loss)
        self.optimizer.eval()
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As the library's; stops where the loss is not a number."""
        super().log(logs, start_time)
        if "loss" in logs:
            self.check_loss(torch.tensor(logs["loss"]))

    def check_loss(self, loss: torch.Tensor) -> None:
        """Raises `Diverged` where the loss is not a finite number."""
        if not torch.isfinite(loss):
            saved = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
            good = f"{saved[-1]} is the last good checkpoint" if saved else "no checkpoint was saved before"
            raise Diverged(
                f"the loss is {loss.item()} at step {self.state.global_step}: training stopped, {good}; lower "
                "--learning_rate, or raise --warmup_steps"
            )


class _EpochOrder(TrainerCallback):  # type: ignore[misc]
    """Tells the order of images its epoch, also where a resumed epoch has wrapped it deeper than the library looks."""

    def __init__(self, trainer: CellTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.order.set_epoch(int(state.epoch or 0))


class Diverged(CelluScanError):
    """The loss is not a number any more."""


def _mixing(args: TrainingSettings) -> v2.Transform | None:
    classes = len(taxonomy.NAMES)
    chosen = [v2.MixUp(alpha=args.mixup_alpha, num_classes=classes)] if args.mixup_alpha else []
    chosen += [v2.CutMix(alpha=args.cutmix_alpha, num_classes=classes)] if args.cutmix_alpha else []
    return v2.RandomChoice(chosen) if chosen else None


def _metrics(seen: EvalPrediction) -> dict[str, float]:
    probabilities = softmax(seen.predictions.astype(np.float64), axis=-1)
    found = figures(probabilities, seen.label_ids, taxonomy.NAMES, resamples=0)
    return {name: found[name] for name in SCALARS}
