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
from ..evaluation.wbc_metrics import wbc_metrics
from .augmentation import View
from .images import Batch, CellImages, as_batch
from .losses import CellLoss, class_weights
from .optimisation import MuonWithAdamW, averaging, parameter_groups, running_statistics
from .sampling import CellSampler
from .settings import TrainingSettings
from .streaming import StreamedCells

SCALARS = ("n", *wbc_metrics.SCALARS)


class CellTrainer(Trainer):
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

    optimizer: Any
    order: CellSampler | StreamedCells
    history: list[dict[str, float]]  # what was logged in training, once it has ended
    final_metrics: dict[str, float]  # of the weights that training leaves, on validation

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
            compute_loss_func=CellLoss(
                args.loss,
                args.label_smoothing_factor,
                args.focal_gamma,
                weights,
                parent_share=args.parent_share,
                maturation_weight=args.maturation_weight,
            ),
            compute_metrics=_metrics,
            **options,
        )
        self.add_callback(_EpochOrder(self))
        self.callback_handler.callbacks.insert(0, _FinalEvaluation(self))  # before a tracker closes its run
        if args.n_gpu > 1:
            raise CelluScanError(
                f"{args.n_gpu} GPUs and one process: start one for each, accelerate launch --config_file "
                "scripts/accelerate/ddp.yaml scripts/train.py …, or show one alone by CUDA_VISIBLE_DEVICES=0"
            )
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
        sampler = CellSampler(self.train_dataset.labels.tolist(), args.sampler, args.seed, batch)
        self.order = sampler
        return sampler

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
            if args.ema_decay:
                kind = averaging(kind, args.ema_decay)
                groups += [] if self.is_fsdp_enabled else running_statistics(model or self.model)
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves what would be evaluated, and no pickle of the arguments."""
        self.optimizer.eval()
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _load_best_model(self) -> None:
        self.optimizer.eval()  # or a later swap would put the last averages over the best
        super()._load_best_model()

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: torch.Tensor | float | None, *others: Any, **options: Any
    ) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.check_finite(tr_loss, grad_norm)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *others, **options)

    def check_finite(self, loss: torch.Tensor, grad_norm: torch.Tensor | float | None) -> None:
        """Raises `Diverged` on every process where on any of them the loss or the gradient is not a finite number.

        Called before anything is logged, evaluated or saved, so that what was saved before stays the last.
        """
        seen = [float(loss)]
        if grad_norm is not None and self.args.mixed_precision != "fp16":  # whose scaler expects some to overflow
            seen.append(float(grad_norm))
        if torch.isfinite(self.accelerator.gather(torch.tensor(seen, device=loss.device))).all():
            return
        saved = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        good = f"{saved[-1]} is the last good checkpoint" if saved else "no checkpoint was saved before"
        raise Diverged(
            f"the loss or its gradient is not a number at step {self.state.global_step}: training stopped, {good}; "
            "lower --learning_rate, or raise --warmup_steps"
        )

    @property
    def images_per_step(self) -> int:
        """Images of one step of the optimiser over all processes."""
        return int(self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size)

    def num_examples(self, dataloader: DataLoader[Batch]) -> int:
        """Images of an epoch; a streamed split has batches as items."""
        dataset = dataloader.dataset
        return len(dataset.labels) if isinstance(dataset, StreamedCells) else super().num_examples(dataloader)


class _EpochOrder(TrainerCallback):
    """Tells the order of images its epoch, also where a resumed epoch has wrapped it deeper than the library looks."""

    def __init__(self, trainer: CellTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.order.set_epoch(int(state.epoch or 0))


class _FinalEvaluation(TrainerCallback):
    """Evaluate the weights that training leaves while the trackers' runs are open; a later log would begin new runs."""

    def __init__(self, trainer: CellTrainer) -> None:
        self.trainer = trainer

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.history = list(state.log_history)
        self.trainer.final_metrics = self.trainer.evaluate()


class Diverged(CelluScanError):
    """The loss or its gradient is not a number any more."""


def _mixing(args: TrainingSettings) -> v2.Transform | None:
    classes = len(taxonomy.NAMES)
    chosen = [v2.MixUp(alpha=args.mixup_alpha, num_classes=classes)] if args.mixup_alpha else []
    chosen += [v2.CutMix(alpha=args.cutmix_alpha, num_classes=classes)] if args.cutmix_alpha else []
    return v2.RandomChoice(chosen) if chosen else None


def _metrics(seen: EvalPrediction) -> dict[str, float]:
    probabilities = softmax(seen.predictions.astype(np.float64), axis=-1)
    found = wbc_metrics.compute_metrics(probabilities, seen.label_ids, taxonomy.NAMES, resamples=0)
    return {name: found[name] for name in SCALARS}
