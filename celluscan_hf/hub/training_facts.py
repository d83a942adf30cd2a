"""Describe a training run for the model card: initial weights, recipe, and the command to repeat it."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from ..augmentation.batches import RANGES
from ..bundled_model import NAME, WBC_SMALL
from ..modeling.tensor_files import ENDINGS
from ..training import recipes
from ..training.losses import LOSSES
from ..training.settings import TrainingSettings

# settings of our own that do not change what a training learns; all others of them do
_INDIFFERENT = {"dataset", "streaming", "calibrate", "cache_images"}
# settings that change what a training learns: ours, and these of the library, whose others are about paths and logging
_DECISIVE = (
    *(
        name
        for name in TrainingSettings.__dataclass_fields__
        if name not in TrainingArguments.__dataclass_fields__ and name not in _INDIFFERENT
    ),
    "label_smoothing_factor",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "bf16",
    "fp16",
    "load_best_model_at_end",
    "metric_for_best_model",
    "seed",
)


_DEFAULTS = {name: TrainingSettings.default(name) for name in TrainingSettings.__dataclass_fields__}
_SAMPLING = {
    "natural": "every image once per epoch",
    "balanced": "class-balanced",
    "balanced_sources": "balanced by class, and by source within a class",
    "sqrt": "every class of a source by the square root of its images",
}
_OF_PROBE = ("trained weights", "seed", "git revision", "versions")
_NAMED = ("torchvision:", "celluscan:", "dinobloom:", "dinov2:")
_ROTATIONS = {
    "none": "",
    "dihedral": "dihedral (rotations by 90° and flips)",
    "any": "rotations by any angle and flips",
}


@dataclass(frozen=True)
class TrainingFacts:
    """Facts from `record`, the `settings.json` of a run; for a recipe of several stages, that of the last one."""

    record: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings; options newer than the record have their default, which is the old behaviour."""
        settings: Mapping[str, Any] = _DEFAULTS | self.record["settings"]
        return settings

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of a recipe of this package; empty for the user's own file."""
        packaged = self.record["recipe"] in recipes.names()
        return recipes.load(self.record["recipe"]) if packaged else []

    @property
    def recipe(self) -> str:
        """The name of the recipe; for the user's own file without its folder."""
        return Path(self.record["recipe"]).name

    @property
    def start(self) -> str:
        """Initial weights of the first stage; taken from the recipe if later stages continue from earlier ones."""
        if len(self.stages) > 1:
            return str(self.stages[0].get("start", "scratch"))
        return str(self.settings["start"])

    @property
    def base_model(self) -> str | None:
        """The Hub repository of the initial weights; like `read_checkpoint`, local files and folders come first."""
        path = Path(self.start).expanduser()
        hub_id = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.start) and path.suffix not in ENDINGS
        return self.start if hub_id and not path.exists() else None

    @property
    def _is_local(self) -> bool:
        return not (self.start == "scratch" or self.start.startswith(_NAMED) or self.base_model)

    @property
    def began_with(self) -> str:
        """`start` in words, without local paths."""
        if self.start == "scratch":
            return "random weights"
        if self.start.startswith("torchvision:"):
            return f"torchvision's `{self.start.removeprefix('torchvision:')}`, pretrained on ImageNet"
        if self.start == NAME:
            return f"`{WBC_SMALL.name}`, the model that comes with celluscan_hf"
        if self.start.startswith(("dinobloom:", "dinov2:")):
            return f"`{self.start}`, of its publisher"
        if self._is_local:
            return "weights of a local file or folder"
        return f"[{self.start}](https://huggingface.co/{self.start})"

    def command(self, dataset: str) -> str | None:
        """Return the command that repeats the training on `dataset`; None for the user's own recipe."""
        if not self.stages:
            return None
        processes = self.record["processes"]
        launch = ["celluscan", "train"]
        if processes > 1:
            launch = ["accelerate", "launch", "--num_processes", str(processes), "scripts/train.py"]
        words = [*launch, "--recipe", self.recipe, "--dataset", dataset, "--output_dir", "out/run"]
        return shlex.join(words + [word for name, values in self._changed() for word in (f"--{name}", *values)])

    def _changed(self) -> list[tuple[str, list[str]]]:
        """Return the decisive settings that differ from the recipe, as command-line options with their values."""
        recipe = self.stages[-1]
        changed = []
        for name in _DECISIVE:
            default = recipe.get(name, _DEFAULTS[name])
            used = self.settings[name]
            if name == "model":
                used, default = json.loads(used), recipe.get("model", {})
            if used == default or (name == "start" and len(self.stages) > 1):
                continue
            if name == "start" and self._is_local:
                used = "WEIGHTS"
            if isinstance(used, float) and used.is_integer():  # epochs are read as a float
                used = int(used)
            values = used if isinstance(used, list) else [used]
            changed.append((name, [value if isinstance(value, str) else json.dumps(value) for value in values]))
        return changed

    def rows(self) -> list[tuple[str, str]]:
        """Return names and values of the main settings; unused ones are omitted."""
        settings = self.settings
        rows = [
            ("trained weights", self._trained()),
            ("epochs", self._length()),
            ("batch", f"{self.record['batch']:,} images" + self._processes()),
            (
                "optimizer",
                "Muon for the weight matrices of the blocks, AdamW for the rest"
                if settings["muon"]
                else settings["optim"],
            ),
            (
                "learning rate",
                f"{settings['learning_rate']:g}, {settings['lr_scheduler_type']} schedule{self._warmup()}",
            ),
            ("weight decay", f"{settings['weight_decay']:g}" if settings["weight_decay"] else ""),
            ("layer-wise learning-rate decay", f"{settings['layer_decay']:g}" if settings["layer_decay"] != 1 else ""),
            ("loss", self._loss()),
            ("sampling", _SAMPLING[settings["sampler"]]),
            ("training augmentation", self._augmentation()),
            (
                "exponential moving average of weights",
                f"decay {settings['ema_decay']:g}" if settings["ema_decay"] else "",
            ),
            ("precision", str(self.record["precision"])),
            ("seed", str(self.record["seed"])),
            ("git revision", f"`{self.record['git']}`" if self.record["git"] else ""),
            ("versions", ", ".join(f"{name} {version}" for name, version in self.record["versions"].items())),
        ]
        known = _OF_PROBE if settings["probe"] else [name for name, _ in rows]
        return [(name, value) for name, value in rows if value and name in known]

    def _trained(self) -> str:
        if self.settings["probe"]:
            return "the head alone, by logistic regression on features of the cells as they are"
        if rank := self.settings["lora_rank"]:
            return f"low-rank adapters (LoRA) of rank {rank}, merged into the weights, and the head"
        return "head only" if self.settings["freeze"] else "all"

    def _length(self) -> str:
        steps = self.settings["max_steps"]
        return f"{self.settings['num_train_epochs']:g}" if steps <= 0 else f"stopped after {steps:,} steps"

    def _processes(self) -> str:
        return f", on {self.record['processes']} processes" if self.record["processes"] > 1 else ""

    def _warmup(self) -> str:
        steps = self.settings["warmup_steps"]
        if not steps:
            return ""
        return f", warm-up over {100 * steps:g} % of the steps" if steps < 1 else f", warm-up over {steps:g} steps"

    def _loss(self) -> str:
        settings, loss = self.settings, self.settings["loss"]
        extra = "".join(
            f", {option.removeprefix(f'{loss}_').replace('_', ' ')} {settings[option]:g}"
            for option in LOSSES[loss].options
        )
        smoothing, maturation = settings["label_smoothing_factor"], settings["maturation_weight"]
        extra += f", label smoothing {smoothing:g}" if smoothing else ""
        extra += f", {maturation:g} x squared maturation distance" if maturation else ""
        return f"{loss.replace('_', ' ')}{extra}"

    def _strong(self) -> str:
        """Changes of microscope, stain and camera, with their ranges."""
        settings = self.settings
        kinds = [
            f"{name.replace('_', ' ')} {low:g} to {high:g}"
            for name in RANGES
            if settings.get(name)
            for low, high in [settings[name]]
        ]
        shares = ("grayscale", "blur")
        kinds += [f"{name} in {100 * settings[name]:g} %" for name in shares if settings.get(name)]
        if not kinds:
            return ""
        return f"on {100 * settings['augmented_share']:g} % of the images: {', '.join(kinds)}"

    def _augmentation(self) -> str:
        settings = self.settings
        kinds = [
            _ROTATIONS[settings["rotate"]],
            self._strong(),
            f"shifts up to {100 * settings['shift']:g} % of the side" if settings["shift"] else "",
            f"brightness, contrast, saturation ± {100 * settings['color_jitter']:g} %"
            if settings["color_jitter"]
            else "",
            f"background randomization in {100 * settings['background_randomization']:g} %"
            if settings["background_randomization"]
            else "",
            f"MixUp {settings['mixup_alpha']:g}" if settings["mixup_alpha"] else "",
            f"CutMix {settings['cutmix_alpha']:g}" if settings["cutmix_alpha"] else "",
        ]
        return ", ".join(kind for kind in kinds if kind) or "none"
