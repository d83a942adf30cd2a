"""What the record of a training says of it, for the card of the model: where it began, its recipe, how to repeat it."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..modeling.tensor_files import ENDINGS
from ..training import recipes
from ..training.settings import TrainingSettings

# what decides, beside the data, what a training learns; all else is where, how fast and how loud
_DECISIVE = (
    "dataset_config",
    "start",
    "model",
    "freeze",
    "crop_pct",
    "dihedral",
    "shift",
    "color_jitter",
    "background_randomization",
    "mixup_alpha",
    "cutmix_alpha",
    "loss",
    "focal_gamma",
    "class_balanced_beta",
    "parent_share",
    "maturation_weight",
    "label_smoothing_factor",
    "sampler",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "optim",
    "muon",
    "learning_rate",
    "layer_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "max_grad_norm",
    "ema_decay",
    "bf16",
    "fp16",
    "load_best_model_at_end",
    "metric_for_best_model",
    "seed",
)


@dataclass(frozen=True)
class TrainingFacts:
    """`record` is the `settings.json` of a run, in a recipe of several stages that of the last one."""

    record: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """All settings; one that is younger than the record has its default, which is what was done before."""
        defaults = {name: one.default for name, one in TrainingSettings.__dataclass_fields__.items()}
        settings: Mapping[str, Any] = defaults | self.record["settings"]
        return settings

    @cached_property
    def stages(self) -> list[dict[str, Any]]:
        """The stages of the recipe as it is in this package; none where it is a file of one's own."""
        known = self.record["recipe"] in recipes.names()
        return recipes.load(self.record["recipe"]) if known else []

    @property
    def recipe(self) -> str:
        """The name of the recipe; of a file of one's own without the folder."""
        return Path(self.record["recipe"]).name

    @property
    def start(self) -> str:
        """What the first stage began with. Later stages begin with the one before, so there it is the recipe's word."""
        if len(self.stages) > 1:
            return str(self.stages[0].get("start", "scratch"))
        return str(self.settings["start"])

    @property
    def base_model(self) -> str | None:
        """The Hub repository it began with, by the rule of `read_checkpoint`: what is no file or folder here."""
        path = Path(self.start).expanduser()
        named = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", self.start) and path.suffix not in ENDINGS
        return self.start if named and not path.exists() else None

    @property
    def _is_local(self) -> bool:
        return not (self.start == "scratch" or self.start.startswith("torchvision:") or self.base_model)

    @property
    def began_with(self) -> str:
        """`start` in words, without the path of a folder here."""
        if self.start == "scratch":
            return "random weights"
        if self.start.startswith("torchvision:"):
            return f"torchvision's `{self.start.removeprefix('torchvision:')}`, pretrained on ImageNet"
        if self._is_local:
            return "weights of a local file or folder"
        return f"[{self.start}](https://huggingface.co/{self.start})"

    def command(self, dataset: str) -> str | None:
        """The command line that trains it again on `dataset`; None where its recipe is not in this package."""
        if not self.stages:
            return None
        processes = self.record["processes"]
        launch = ["accelerate", "launch", "--num_processes", str(processes)] if processes > 1 else ["python"]
        words = [*launch, "scripts/train.py", "--recipe", self.recipe, "--dataset", dataset, "--output_dir", "out/run"]
        return shlex.join(words + [word for name, value in self._changed() for word in (f"--{name}", value)])

    def _changed(self) -> list[tuple[str, str]]:
        """The decisive settings that differ from those of the recipe, as options of the command line."""
        recipe = self.stages[-1]
        changed = []
        for name in _DECISIVE:
            known = recipe.get(name, TrainingSettings.__dataclass_fields__[name].default)
            used = self.settings[name]
            if name == "model":
                used, known = json.loads(used), recipe.get("model", {})
            if used == known or (name == "start" and len(self.stages) > 1):
                continue
            if name == "start" and self._is_local:
                used = "WEIGHTS"
            if isinstance(used, float) and used.is_integer():  # epochs are read as a float
                used = int(used)
            changed.append((name, used if isinstance(used, str) else json.dumps(used)))
        return changed

    def rows(self) -> list[tuple[str, str]]:
        """Names and values of the settings that matter; what was not used is left out."""
        one = self.settings
        rows = [
            ("weights trained", "the head alone" if one["freeze"] else "all"),
            ("epochs", self._length()),
            ("batch", f"{self.record['batch']:,} images" + self._processes()),
            ("optimiser", "Muon for the matrices of the blocks, AdamW for the rest" if one["muon"] else one["optim"]),
            ("learning rate", f"{one['learning_rate']:g}, {one['lr_scheduler_type']} schedule{self._warmup()}"),
            ("weight decay", f"{one['weight_decay']:g}" if one["weight_decay"] else ""),
            ("layer-wise decay of the learning rate", f"{one['layer_decay']:g}" if one["layer_decay"] != 1 else ""),
            ("loss", self._loss()),
            ("order", "every class equally often" if one["sampler"] == "balanced" else "every image once per epoch"),
            ("augmentation on the fly", self._augmentation()),
            ("running average of weights", f"decay {one['ema_decay']:g}" if one["ema_decay"] else ""),
            ("precision", str(self.record["precision"])),
            ("seed", str(self.record["seed"])),
            ("git revision of the code", f"`{self.record['git']}`" if self.record["git"] else ""),
            ("versions", ", ".join(f"{name} {version}" for name, version in self.record["versions"].items())),
        ]
        return [(name, value) for name, value in rows if value]

    def _length(self) -> str:
        steps = self.settings["max_steps"]
        return f"{self.settings['num_train_epochs']:g}" if steps <= 0 else f"ended after {steps:,} steps"

    def _processes(self) -> str:
        return f", over {self.record['processes']} processes" if self.record["processes"] > 1 else ""

    def _warmup(self) -> str:
        steps = self.settings["warmup_steps"]
        if not steps:
            return ""
        return f", warm-up over {100 * steps:g} % of the steps" if steps < 1 else f", warm-up over {steps:g} steps"

    def _loss(self) -> str:
        one = self.settings
        extra = {
            "focal": f", gamma {one['focal_gamma']:g}",
            "class_balanced": f", beta {one['class_balanced_beta']:g}",
            "hierarchical": f", parent share {one['parent_share']:g}",
        }.get(one["loss"], "")
        smoothing, maturation = one["label_smoothing_factor"], one["maturation_weight"]
        extra += f", label smoothing {smoothing:g}" if smoothing else ""
        extra += f", {maturation:g} of the squared distance in maturation" if maturation else ""
        return f"{one['loss'].replace('_', ' ')}{extra}"

    def _augmentation(self) -> str:
        one = self.settings
        kinds = [
            "eight turns and mirrorings" if one["dihedral"] else "",
            f"shifts of up to {100 * one['shift']:g} % of the side" if one["shift"] else "",
            f"brightness, contrast, saturation ± {100 * one['color_jitter']:g} %" if one["color_jitter"] else "",
            f"surroundings repainted in {100 * one['background_randomization']:g} %"
            if one["background_randomization"]
            else "",
            f"MixUp {one['mixup_alpha']:g}" if one["mixup_alpha"] else "",
            f"CutMix {one['cutmix_alpha']:g}" if one["cutmix_alpha"] else "",
        ]
        return ", ".join(kind for kind in kinds if kind) or "none"
