"""Training settings: those of transformers and ours, with all defaults in one place."""

import json
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

import torch
from transformers import TrainingArguments

from .. import taxonomy
from ..augmentation.batches import Augmentation
from ..dataset.settings import cores
from ..errors import CelluScanError
from .losses import LOSSES, CellLoss, class_weights
from .sampling import SAMPLERS

_MOST_WORKERS = 16


@dataclass
class TrainingSettings(TrainingArguments):
    """Settings of one stage: the fields of `transformers.TrainingArguments`, with some other defaults, and ours.

    Raises:
        CelluScanError: A value is out of range, or two settings exclude each other; the message names the option.
    """

    dataset: str = field(default="", metadata={"help": "a built dataset folder, or its name on the Hub"})
    dataset_config: str = field(
        default="default",
        metadata={"help": "training config of the dataset: default, originals, subset_5 or subset_20"},
    )
    streaming: bool = field(
        default=False, metadata={"help": "read the train split sequentially from its files and shuffle within a window"}
    )
    start: str = field(
        default="scratch",
        metadata={
            "help": "initial weights: scratch, celluscan:wbc-small (which comes with the package), "
            "torchvision:vit_b_16, dinobloom:base, dinov2:base, a folder, or a ViT on the Hub"
        },
    )
    model: str = field(
        default="{}", metadata={"help": "fields of CelluScanConfig as JSON: '{\"drop_path_rate\": 0.1}'"}
    )
    freeze: bool = field(default=False, metadata={"help": "train only the classification head"})
    probe: bool = field(
        default=False,
        metadata={"help": "fit the head alone, by logistic regression on features that are computed once"},
    )
    lora_rank: int = field(
        default=0,
        metadata={"help": "train low-rank adapters (LoRA) of this rank and the head alone; merged at the end; 0: off"},
    )
    crop_pct: float = field(default=1.0, metadata={"help": "share of the image's side that is cropped for the model"})
    rotate: Literal["none", "dihedral", "any"] = field(
        default="dihedral",
        metadata={"help": "random rotations: dihedral: by 90 degrees, and flips; any: by any angle, and flips"},
    )
    shift: float = field(default=0.0, metadata={"help": "random shift of the crop, up to this share of its side"})
    color_jitter: float = field(
        default=0.0, metadata={"help": "random change of brightness, contrast and saturation, up to ± this"}
    )
    background_randomization: float = field(
        default=0.0, metadata={"help": "share of images whose background is randomized"}
    )
    augmented_share: float = field(
        default=1.0, metadata={"help": "share of images that the options from zoom to blur apply to"}
    )
    augment_parents: bool = field(
        default=True,
        metadata={
            "help": "whether these apply to cells labelled by a parent class, such as Neutrophil for a band; if not, "
            "an image as from another laboratory is never of a parent class, and the model names a finer one"
        },
    )
    zoom: list[float] = field(
        default_factory=list,
        metadata={"help": "range of the view's side as a share of the image's, instead of --crop_pct: 0.4 1.0"},
    )
    stain: list[float] = field(
        default_factory=list, metadata={"help": "range of factors on the amount of each dye: 0.65 1.35"}
    )
    white_balance: list[float] = field(
        default_factory=list, metadata={"help": "range of factors on the light of each channel: 0.85 1.15"}
    )
    gamma: list[float] = field(default_factory=list, metadata={"help": "range of exponents of the colours: 0.67 1.5"})
    contrast: list[float] = field(default_factory=list, metadata={"help": "range of factors on contrast: 0.6 1.4"})
    saturation: list[float] = field(default_factory=list, metadata={"help": "range of factors on saturation: 0 1.4"})
    grayscale: float = field(default=0.0, metadata={"help": "share of these images that lose all colour"})
    blur: float = field(default=0.0, metadata={"help": "share of these images that are blurred, by 3 x 3 pixels"})
    mixup_alpha: float = field(default=0.0, metadata={"help": "alpha of MixUp (Zhang et al. 2018); 0: off"})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "alpha of CutMix (Yun et al. 2019); 0: off"})
    loss: str = field(
        default="cross_entropy",
        metadata={
            "help": "focal: more weight on hard images; hierarchical: a child counts as right for its parent's label",
            "choices": tuple(LOSSES),
        },
    )
    focal_gamma: float = field(default=2.0, metadata={"help": "gamma of the focal loss"})
    class_balanced_beta: float = field(
        default=0.999, metadata={"help": "beta of the class-balanced loss (Cui et al. 2019)"}
    )
    parent_share: float = field(
        default=0.1,
        metadata={"help": "hierarchical loss: weight of the parent class itself for a parent's label, 0 to 1"},
    )
    maturation_weight: float = field(
        default=0.0,
        metadata={"help": "weight of the maturation loss, which grows with the number of stages missed; 0: off"},
    )
    sampler: Literal["natural", "balanced", "balanced_sources", "sqrt"] = field(
        default="natural",
        metadata={
            "help": "natural: every image once per epoch; balanced: every class equally often; balanced_sources: and "
            "every source within a class; sqrt: every class of a source by the square root of its images"
        },
    )
    layer_decay: float = field(
        default=1.0, metadata={"help": "layer-wise learning-rate decay: factor per block; 1: off"}
    )
    muon: bool = field(
        default=False, metadata={"help": "optimize the matrices of the blocks with Muon, the rest with AdamW"}
    )
    ema_decay: float = field(
        default=0.0, metadata={"help": "decay of the moving average of weights, which is evaluated and saved; 0: off"}
    )
    calibrate: bool = field(
        default=True,
        metadata={
            "help": "calibrate the trained model on the validation split: temperature, prediction sets, abstention"
        },
    )
    cache_images: bool = field(default=False, metadata={"help": "decode all images once and cache them in memory"})

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
        metadata={"help": "processes that decode images; -1: one per core, at most 16; none with cached images"},
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

    @classmethod
    def default(cls, name: str) -> Any:
        """Return the default of a setting; None if there is none of that name."""
        setting = cls.__dataclass_fields__.get(name)
        if setting is None:
            return None
        return setting.default if setting.default_factory is MISSING else setting.default_factory()

    @property
    def augmentation(self) -> Augmentation:
        """The augmentation of training images."""
        return Augmentation(**{item.name: getattr(self, item.name) for item in fields(Augmentation)})

    def loss_function(self, labels: torch.Tensor) -> CellLoss:
        """Build the loss; `labels` (rows,) of the train split decide the weights of `class_balanced`."""
        counts = torch.bincount(labels, minlength=len(taxonomy.NAMES)).tolist()
        return CellLoss(
            self.loss,
            self.label_smoothing_factor,
            self.focal_gamma,
            class_weights(counts, self.class_balanced_beta) if self.loss == "class_balanced" else None,
            parent_share=self.parent_share,
            maturation_weight=self.maturation_weight,
        )

    @property
    def model_fields(self) -> dict[str, Any]:
        """The parsed `--model`."""
        try:
            parsed = json.loads(self.model)
        except json.JSONDecodeError as error:
            raise CelluScanError(f"--model {self.model}: expected a JSON object of CelluScanConfig fields") from error
        if not isinstance(parsed, dict):
            raise CelluScanError(f"--model {self.model}: expected a JSON object of CelluScanConfig fields")
        return parsed

    def _check(self) -> None:
        if not self.dataset:
            raise CelluScanError("no --dataset given; expected a built dataset folder, or its name on the Hub")
        if not self.output_dir:
            raise CelluScanError("no --output_dir given; expected the folder for checkpoints and the trained model")
        _ = self.model_fields
        for name, low, high in _RANGES:
            if not low <= getattr(self, name) <= high:
                raise CelluScanError(f"--{name} {getattr(self, name)}: expected {low} to {high}")
        if self.cache_images and self.dataloader_num_workers > 0:
            raise CelluScanError("--cache_images needs no workers: leave --dataloader_num_workers out, or give 0")
        if self.streaming and (self.cache_images or self.sampler != "natural"):
            raise CelluScanError("--streaming reads images in order: give --cache_images false --sampler natural")
        if self.streaming and self.auto_find_batch_size:
            raise CelluScanError("--streaming does not support --auto_find_batch_size: leave it out")
        for name, choices in (("loss", LOSSES), ("sampler", SAMPLERS)):  # the parser does not check those of a recipe
            if getattr(self, name) not in choices:
                raise CelluScanError(f"--{name} {getattr(self, name)}: expected one of {', '.join(choices)}")
        if self.probe and (self.lora_rank or self.freeze or self.streaming):
            raise CelluScanError("--probe trains the head alone: leave --lora_rank, --freeze and --streaming out")
        if self.lora_rank < 0 or (self.lora_rank and (self.freeze or self.muon)):
            raise CelluScanError(f"--lora_rank {self.lora_rank}: expected 0 or more, without --freeze and --muon")
        if self.freeze and self.muon:
            raise CelluScanError("--freeze leaves no matrix for --muon to optimize; give --muon false")
        if self.data_seed is not None:
            raise CelluScanError("--data_seed is not supported: order and augmentation follow --seed")
        if self.muon and not str(self.optim).startswith("adamw_torch"):
            raise CelluScanError(f"--muon optimizes the other weights with AdamW: leave --optim {self.optim} out")
        if self.dataloader_drop_last:
            raise CelluScanError(
                "--dataloader_drop_last would leave cells out of validation; training always drops its rest"
            )
        if self.train_sampling_strategy != "random":
            raise CelluScanError(f"--train_sampling_strategy {self.train_sampling_strategy}: use --sampler instead")


_RANGES = (
    ("background_randomization", 0.0, 1.0),
    ("augmented_share", 0.0, 1.0),
    ("grayscale", 0.0, 1.0),
    ("blur", 0.0, 1.0),
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
