"""The Trainer of transformers with our order of images, augmentation on the device, optimiser and checkpoints."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch.distributed.fsdp import FSDPModule
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
from ..augmentation.view import View
from ..errors import CelluScanError
from ..evaluation.wbc_metrics import wbc_metrics
from .images import Batch, CellImages, as_batch
from .optimisation import MuonWithAdamW, averaging, parameter_groups, running_statistics
from .sampling import CellSampler
from .settings import TrainingSettings
from .streaming import StreamedCells

_PARENTS = torch.tensor(sorted({taxonomy.LABEL2ID[parent] for parent in taxonomy.PARENTS.values()}))
SCALARS = ("n", *wbc_metrics.SCALARS)


class CellTrainer(Trainer):
    """Trains a `CelluScanForImageClassification` on the images of a built dataset.

    Batches hold stored pixels, which are augmented and normalized on the device. If weights are averaged, the averages
    are evaluated and saved as `model.safetensors`.

    Private methods of `Trainer` that are overridden, because no public hook exists: `_get_train_sampler` (Trainer
    shards and resumes what it returns), `_prepare_inputs` (outside of autocast), and `_maybe_log_save_evaluate` (the
    gradient norm, before a checkpoint is saved). tests/training/test_trainer.py checks them against transformers.

    Args:
        model: A model for the classes of the taxonomy.
        args: Settings of one stage.
        train: Training images.
        validation: Images on which the checkpoint is chosen.
        view: What the model sees of a training image, before augmentation.
        seen: The evaluation transform.
        **options: Other arguments of `Trainer`, such as `callbacks`.
    """

    optimizer: Any
    order: CellSampler | StreamedCells
    history: list[dict[str, float]]  # the log, set at the end of training
    final_metrics: dict[str, float]  # of the final weights on validation, set at the end of training

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingSettings,
        train: CellImages | StreamedCells,
        validation: CellImages,
        view: View,
        seen: View,
        **options: Any,
    ) -> None:
        self.view, self.seen = view, seen
        self.augmentation = args.augmentation
        self.augmentation.check(view)
        self.mixing = _mixing(args)
        super().__init__(
            model=model,
            args=args,
            data_collator=as_batch,
            train_dataset=train,
            eval_dataset=validation,
            compute_loss_func=args.loss_function(train.labels),
            compute_metrics=_metrics,
            **options,
        )
        self.add_callback(_EpochHooks(self))
        self.callback_handler.callbacks.insert(0, _FinalEvaluation(self))  # before a tracker closes its run
        if args.n_gpu > 1:
            raise CelluScanError(
                f"{args.n_gpu} GPUs but one process: start one process per GPU (accelerate launch --config_file "
                "scripts/accelerate/ddp.yaml scripts/train.py …), or select one GPU with CUDA_VISIBLE_DEVICES=0"
            )
        self._check_sharding()

    def _check_sharding(self) -> None:
        """Raise a `CelluScanError` for what does not work with a model or optimiser that is split over processes."""
        args = self.args
        if (args.muon or args.ema_decay) and (self.is_deepspeed_enabled or (args.muon and self.is_fsdp_enabled)):
            raise CelluScanError(
                "Muon needs complete matrices and averaged weights need our optimiser, but this launcher shards or "
                "replaces them: give --muon false --ema_decay 0, or use scripts/accelerate/ddp.yaml"
            )
        if not self.is_fsdp_enabled:
            return
        if args.ema_decay and running_statistics(self.model):
            raise CelluScanError(
                "--ema_decay averages the statistics of the convolution stem too, which FSDP does not hand to the "
                "optimiser: give --ema_decay 0, or use scripts/accelerate/ddp.yaml"
            )
        plugin = self.accelerator.state.fsdp_plugin
        if not self.accelerator.is_fsdp2 or "FULL_STATE_DICT" not in str(plugin.state_dict_type):
            raise CelluScanError(
                f"FSDP {plugin.fsdp_version} with {plugin.state_dict_type} is not supported: give fsdp_version: 2 and "
                "fsdp_state_dict_type: FULL_STATE_DICT, as in scripts/accelerate/fsdp.yaml"
            )

    def get_train_dataloader(self) -> DataLoader[Batch]:
        """Return the library's data loader, or the batches of a streamed split."""
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
        data = self.train_dataset
        sampler = CellSampler(data.labels.tolist(), args.sampler, args.seed, batch, data.sources)
        self.order = sampler
        return sampler

    def _prepare_inputs(self, inputs: Batch) -> dict[str, Any]:
        batch = super()._prepare_inputs(inputs)
        pixels, labels = batch["pixels"], batch["labels"]
        if "draws" not in batch:
            return {"pixel_values": self.seen(pixels), "labels": labels}
        at_home = None if self.args.augment_parents else torch.isin(labels, _PARENTS.to(labels.device))
        pixel_values = self.augmentation(pixels, batch["draws"], self.view, at_home)
        if self.mixing is not None:
            pixel_values, labels = self.mixing(pixel_values, labels)
        return {"pixel_values": pixel_values, "labels": labels}

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the optimiser with our parameter groups, Muon and averaged weights."""
        if self.optimizer is None:
            args = self.args
            groups = parameter_groups(
                model or self.model, args.learning_rate, args.weight_decay, args.layer_decay, args.muon
            )
            optimizer, options = self.get_optimizer_cls_and_kwargs(args, self.model)
            optimizer = MuonWithAdamW if args.muon else optimizer
            if args.ema_decay:
                optimizer = averaging(optimizer, args.ema_decay)
                groups += running_statistics(model or self.model)
            self.optimizer = optimizer(groups, **options)
        return self.optimizer

    def evaluate(self, *arguments: Any, **options: Any) -> dict[str, float]:
        """Evaluate, and let go of weights that FSDP2 has gathered: averages would stay in them for the next step."""
        metrics = super().evaluate(*arguments, **options)
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights that are evaluated, without the pickled arguments."""
        self.optimizer.eval()
        _name_as_unsharded(type(self.model))
        super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            Path(output_dir or self.args.output_dir, TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _maybe_log_save_evaluate(
        self, tr_loss: torch.Tensor, grad_norm: torch.Tensor | float | None, *others: Any, **options: Any
    ) -> None:
        if self.control.should_log or self.control.should_evaluate or self.control.should_save:
            self.check_finite(tr_loss, grad_norm)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *others, **options)

    def check_finite(self, loss: torch.Tensor, grad_norm: torch.Tensor | float | None) -> None:
        """Raise `Diverged` on every process if on any of them the loss or the gradient norm is not finite.

        Called before anything is logged, evaluated or saved, so that the last checkpoint is from before.
        """
        values = [float(loss)]
        if grad_norm is not None and self.args.mixed_precision != "fp16":  # whose loss scaler expects overflows
            values.append(float(grad_norm))
        if torch.isfinite(self.accelerator.gather(torch.tensor(values, device=loss.device))).all():
            return
        saved = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda path: path.stat().st_mtime)
        last = f"{saved[-1]} is the last good checkpoint" if saved else "no checkpoint was saved before"
        raise Diverged(
            f"the loss or its gradient is not finite at step {self.state.global_step}: training stopped, {last}; "
            "lower --learning_rate, or raise --warmup_steps"
        )

    @property
    def images_per_step(self) -> int:
        """Images per optimiser step, over all processes."""
        return int(self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size)

    def num_examples(self, dataloader: DataLoader[Batch]) -> int:
        """Number of images in an epoch; the items of a streamed split are batches."""
        dataset = dataloader.dataset
        return len(dataset.labels) if isinstance(dataset, StreamedCells) else super().num_examples(dataloader)


def _name_as_unsharded(model: type) -> None:
    """Give the class that FSDP2 derives from a model's the name of that one, by which its code is saved and found."""
    if issubclass(model, FSDPModule):
        original = next(base for base in model.__mro__[1:] if not issubclass(base, FSDPModule))
        model.__name__, model.__module__ = original.__name__, original.__module__


class _EpochHooks(TrainerCallback):
    """Set the epoch of the order of images, which the library does not after a resume; end epochs on the averages."""

    def __init__(self, trainer: CellTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.order.set_epoch(int(state.epoch or 0))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.optimizer.eval()  # or a later swap would overwrite the best weights, loaded at the end


class _FinalEvaluation(TrainerCallback):
    """Evaluate the final weights while the trackers' runs are open; logging later would start new runs."""

    def __init__(self, trainer: CellTrainer) -> None:
        self.trainer = trainer

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.history = list(state.log_history)
        self.trainer.final_metrics = self.trainer.evaluate()


class Diverged(CelluScanError):
    """The loss or its gradient is no longer finite."""


def _mixing(args: TrainingSettings) -> v2.Transform | None:
    classes = len(taxonomy.NAMES)
    transforms = [v2.MixUp(alpha=args.mixup_alpha, num_classes=classes)] if args.mixup_alpha else []
    transforms += [v2.CutMix(alpha=args.cutmix_alpha, num_classes=classes)] if args.cutmix_alpha else []
    return v2.RandomChoice(transforms) if transforms else None


def _metrics(outputs: EvalPrediction) -> dict[str, float]:
    probabilities = softmax(outputs.predictions.astype(np.float64), axis=-1)
    metrics = wbc_metrics.compute_metrics(probabilities, outputs.label_ids, taxonomy.NAMES, resamples=0)
    return {name: metrics[name] for name in SCALARS}
