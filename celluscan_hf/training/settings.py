"""What a training can be told: the arguments of transformers, and ours, with all defaults in one place."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from ..dataset.settings import cores
from ..errors import CelluScanError
from .augmentation import Augmentation
from .losses import LOSSES
from .sampling import SAMPLERS

_MOST_WORKERS = 16


@dataclass
class TrainingSettings(TrainingArguments):
    """Settings of one stage: every field of `transformers.TrainingArguments`, with other defaults, and ours.

    Raises:
        CelluScanError: A value is out of range, or two exclude each other; the message names the option.
    """

    dataset: str = field(default="", metadata={"help": "a built data set folder, or its name on the Hub"})
    dataset_config: str = field(
        default="default", metadata={"help": "what is trained on: default, originals, subset_5 or subset_20"}
    )
    streaming: bool = field(
        default=False, metadata={"help": "read train from its files, shuffled in a window, instead of in any order"}
    )
    start: str = field(
        default="scratch",
        metadata={"help": "weights to begin with: scratch, torchvision:vit_b_16, a folder, or a ViT on the Hub"},
    )
    model: str = field(
        default="{}", metadata={"help": "fields of CelluScanConfig, in JSON: '{\"drop_path_rate\": 0.1}'"}
    )
    freeze: bool = field(default=False, metadata={"help": "train the head alone"})
    crop_pct: float = field(default=1.0, metadata={"help": "share of the image's side that the model sees"})
    dihedral: bool = field(default=True, metadata={"help": "turn and mirror images at random, eight ways"})
    shift: float = field(default=0.0, metadata={"help": "move the cut-out by up to this share of its side"})
    color_jitter: float = field(default=0.0, metadata={"help": "scale brightness, contrast, saturation by 1 ± this"})
    background_randomization: float = field(
        default=0.0, metadata={"help": "repaint what lies around the cell in this share of images"}
    )
    mixup_alpha: float = field(default=0.0, metadata={"help": "mix pairs of images (Zhang et al. 2018); 0 for not"})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "paste boxes of others (Yun et al. 2019); 0 for not"})
    loss: Literal["cross_entropy", "class_balanced", "focal", "hierarchical"] = field(
        default="cross_entropy",
        metadata={"help": "focal: more of hard images; hierarchical: a parent's label is met by it or any child"},
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "of --loss focal"})
    class_balanced_beta: float = field(default=0.999, metadata={"help": "of --loss class_balanced"})
    parent_share: float = field(
        default=0.1,
        metadata={"help": "of --loss hierarchical: how far a parent's label asks for the parent itself, 0 to 1"},
    )
    maturation_weight: float = field(
        default=0.0, metadata={"help": "mistakes on the maturation line cost more the further they are off; 0 for not"}
    )
    sampler: Literal["natural", "balanced"] = field(
        default="natural", metadata={"help": "every image once per epoch, or every class equally often"}
    )
    layer_decay: float = field(default=1.0, metadata={"help": "each block learns this much slower than the next"})
    muon: bool = field(default=False, metadata={"help": "update the matrices of the blocks by Muon, the rest by AdamW"})
    ema_decay: float = field(
        default=0.0, metadata={"help": "evaluate and save a running average of weights; 0 for not"}
    )
    calibrate: bool = field(
        default=True, metadata={"help": "at the end, fit temperature, sets and abstention on validation"}
    )
    cache_images: bool = field(default=False, metadata={"help": "decode all images once and keep them in memory"})

    bf16: bool = False
    eval_strategy: str = "epoch"
    save_strategy: str = "epoch"
    save_total_limit: int | None = 2
    load_best_model_at_end: bool = True
    metric_for_best_model: str | None = "macro_f1"
    greater_is_better: bool | None = True
    logging_steps: float = 20
    logging_nan_inf_filter: bool = False
    lr_scheduler_type: str = "cosine"
    per_device_train_batch_size: int = 32
    per_device_eval_batch_size: int = 128
    dataloader_num_workers: int = field(
        default=-1,
        metadata={"help": "processes that decode images; -1: the cores, at most 16, none with cached images"},
    )
    accelerator_config: dict[str, Any] | str | None = None
    ddp_find_unused_parameters: bool | None = False
    remove_unused_columns: bool = False
    label_names: list[str] | None = field(default_factory=lambda: ["labels"])

    def __post_init__(self) -> None:
        self._check()
        accelerated = torch.accelerator.is_available()
        if self.bf16 and not accelerated:
            self.use_cpu = True
        if self.dataloader_num_workers < 0:
            self.dataloader_num_workers = 0 if self.cache_images else min(cores(), _MOST_WORKERS)
        self.dataloader_persistent_workers = self.dataloader_num_workers > 0 and not self.streaming
        self.dataloader_pin_memory &= accelerated and not self.use_cpu
        if self.accelerator_config is None and self.dataloader_pin_memory:
            self.accelerator_config = {"non_blocking": True}
        super().__post_init__()

    @property
    def augmentation(self) -> Augmentation:
        """What is done to each image in training."""
        return Augmentation(self.dihedral, self.shift, self.color_jitter, self.background_randomization, self.seed)

    @property
    def model_fields(self) -> dict[str, Any]:
        """What `--model` says."""
        try:
            parsed = json.loads(self.model)
        except json.JSONDecodeError as error:
            raise CelluScanError(f"--model {self.model}: expected a JSON object of CelluScanConfig fields") from error
        if not isinstance(parsed, dict):
            raise CelluScanError(f"--model {self.model}: expected a JSON object of CelluScanConfig fields")
        return parsed

    def _check(self) -> None:
        if not self.dataset:
            raise CelluScanError("no --dataset given; expected a built data set folder, or its name on the Hub")
        if not self.output_dir:
            raise CelluScanError("no --output_dir given; expected the folder for checkpoints and the trained model")
        _ = self.model_fields
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise CelluScanError(f"--{name} {getattr(self, name)}: expected {low} to {high}")
        if self.cache_images and self.dataloader_num_workers > 0:
            raise CelluScanError(
                "--cache_images keeps decoded images in the training process, where workers cannot add to them: "
                "leave --dataloader_num_workers out, or give 0"
            )
        if self.streaming and (self.cache_images or self.sampler != "natural"):
            raise CelluScanError("--streaming reads images in order: give --cache_images false --sampler natural")
        if self.streaming and self.auto_find_batch_size:
            raise CelluScanError("--streaming deals out batches of one size: leave --auto_find_batch_size out")
        for name, known in (("loss", LOSSES), ("sampler", SAMPLERS)):  # a recipe passes by the parser's own check
            if getattr(self, name) not in known:
                raise CelluScanError(f"--{name} {getattr(self, name)}: expected one of {', '.join(known)}")
        if self.freeze and self.muon:
            raise CelluScanError("--freeze leaves no matrix for --muon to update; give --muon false")
        if self.data_seed is not None:
            raise CelluScanError("--data_seed: order and augmentation follow --seed alone")
        if self.muon and not str(self.optim).startswith("adamw_torch"):
            raise CelluScanError(f"--muon leaves the rest to AdamW: leave --optim {self.optim} out")
        if self.dataloader_drop_last:
            raise CelluScanError("--dataloader_drop_last would leave cells out of validation; training always drops it")
        if self.train_sampling_strategy != "random":
            raise CelluScanError(f"--train_sampling_strategy {self.train_sampling_strategy}: use --sampler instead")


_RANGES = (
    ("background_randomization", 0.0, 1.0),
    ("mixup_alpha", 0.0, 10.0),
    ("cutmix_alpha", 0.0, 10.0),
    ("focal_gamma", 0.0, 10.0),
    ("parent_share", 0.0, 1.0),
    ("maturation_weight", 0.0, 10.0),
    ("class_balanced_beta", 0.0, 0.999999),
    ("layer_decay", 0.0, 1.0),
    ("ema_decay", 0.0, 0.999999),
    ("label_smoothing_factor", 0.0, 0.999),
)
