"""Our models as those of other libraries, with equal logits: in memory, and as safetensors on disk."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer
from transformers import BaseImageProcessor, ViTConfig, ViTForImageClassification
from transformers.utils import CONFIG_NAME

from .configuration_celluscan import CelluScanConfig
from .conversion import POOLING, TIMM_ACT_LAYERS
from .key_mapping import TIMM, TORCHVISION, TRANSFORMERS_CLASSIFIER, KeyMapping, WeightsError
from .modeling_celluscan import CelluScanForImageClassification

TIMM_ARCHITECTURE = "vit_base_patch16_224"  # whose sizes are then given


def to_transformers(model: CelluScanForImageClassification) -> ViTForImageClassification:
    """The library's own ViT with equal logits.

    Raises:
        WeightsError: It has no room for the patch stem or the pooling of this model.
    """
    ours = model.config
    _refuse(ours, "ViTForImageClassification of transformers", patch_stem=("linear",), pooling=("cls",))
    same = set(ViTConfig().to_dict()) & set(ours.to_dict()) - {"model_type", "architectures", "transformers_version"}
    native = ViTForImageClassification(ViTConfig(**{name: getattr(ours, name) for name in same}))
    native.load_state_dict(_their_weights(model, TRANSFORMERS_CLASSIFIER))
    return native.eval()


def to_torchvision(model: CelluScanForImageClassification) -> VisionTransformer:
    """A torchvision `VisionTransformer` with equal logits; without a qkv bias of ours, its own is zero.

    Raises:
        WeightsError: It has no room for the patch stem, the pooling, the activation or the channels of this model.
    """
    ours = model.config
    _refuse(
        ours,
        "VisionTransformer of torchvision",
        patch_stem=("linear",),
        pooling=("cls",),
        hidden_act=("gelu",),
        num_channels=(3,),
    )
    native = VisionTransformer(
        image_size=ours.image_size,
        patch_size=ours.patch_size,
        num_layers=ours.num_hidden_layers,
        num_heads=ours.num_attention_heads,
        hidden_dim=ours.hidden_size,
        mlp_dim=ours.intermediate_size,
        dropout=ours.hidden_dropout_prob,
        attention_dropout=ours.attention_probs_dropout_prob,
        num_classes=ours.num_labels,
        norm_layer=partial(nn.LayerNorm, eps=ours.layer_norm_eps),
    )
    zeros = {} if ours.qkv_bias else {k: v for k, v in native.state_dict().items() if k.endswith("in_proj_bias")}
    native.load_state_dict(zeros | _their_weights(model, TORCHVISION))
    return native.eval()


def to_timm(model: CelluScanForImageClassification) -> nn.Module:
    """A timm `VisionTransformer` with equal logits. Needs the extra `timm`.

    Raises:
        WeightsError: timm is not installed, or has no room for the patch stem or the activation of this model.
    """
    ours = model.config
    activations = {name: act_layer for act_layer, name in TIMM_ACT_LAYERS.items()}
    _refuse(ours, "VisionTransformer of timm", patch_stem=("linear",), hidden_act=("gelu", *activations))
    try:
        import timm
    except ImportError as error:
        raise WeightsError("timm is not installed: pip install timm") from error
    pooling = next(theirs for theirs, name in POOLING.items() if name == ours.pooling)
    options: dict[str, Any] = {}
    if ours.layer_norm_eps != TIMM.layer_norm_eps:  # timm's config file, made of these arguments, holds no function
        options["norm_layer"] = partial(nn.LayerNorm, eps=ours.layer_norm_eps)
    if ours.hidden_act in activations:
        options["act_layer"] = activations[ours.hidden_act]
    native = timm.create_model(
        TIMM_ARCHITECTURE,
        pretrained_cfg=_timm_description(ours),
        img_size=ours.image_size,
        patch_size=ours.patch_size,
        in_chans=ours.num_channels,
        num_classes=ours.num_labels,
        embed_dim=ours.hidden_size,
        depth=ours.num_hidden_layers,
        num_heads=ours.num_attention_heads,
        mlp_ratio=(ours.intermediate_size + 0.5) / ours.hidden_size,  # timm rounds down
        qkv_bias=ours.qkv_bias,
        global_pool=pooling,
        fc_norm=False,
        **options,
    )
    native.load_state_dict(_their_weights(model, TIMM))
    return native.eval()


def _timm_description(config: CelluScanConfig) -> dict[str, Any]:
    """What timm keeps beside a model: that images are whole squares, and nothing of the weights timm has published."""
    return {
        "architecture": TIMM_ARCHITECTURE,
        "input_size": (config.num_channels, config.image_size, config.image_size),
        "num_classes": config.num_labels,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "border",  # pads what is not square
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def _their_weights(model: CelluScanForImageClassification, naming: KeyMapping) -> dict[str, torch.Tensor]:
    weights = model.state_dict()
    return {
        part: tensor.clone()
        for name, parts in naming.pairs(model.config.num_hidden_layers)
        if name in weights
        for part, tensor in zip(parts, weights[name].chunk(len(parts)), strict=True)
    }


def _refuse(config: CelluScanConfig, target: str, **possible: tuple[Any, ...]) -> None:
    for name, values in possible.items():
        if getattr(config, name) not in values:
            allowed = " or ".join(map(repr, values))
            raise WeightsError(f"{target} has no room for {name}={getattr(config, name)!r}, only for {allowed}")


def export_native(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Writes a plain `ViTForImageClassification` checkpoint with equal logits; it needs transformers alone.

    Args:
        model: With a linear patch stem and class-token pooling.
        folder: Made if need be.
        processor: Saved beside, so that `pipeline("image-classification", model=folder)` works.

    Raises:
        WeightsError: The library's ViT has no room for a part of this model; the message names it.
        FileExistsError: `folder` is a file.
    """
    native = to_transformers(model)
    Path(folder).mkdir(parents=True, exist_ok=True)  # the library writes nothing where a file is, and only logs it
    native.save_pretrained(folder)
    _save_processor(processor, folder)


def export_hand_built(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Writes our own checkpoint, with the Python files that `trust_remote_code` runs. Arguments as above.

    With them come those of `pipeline("wbc-classification")`, which the config names too.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _save_processor(processor, folder)


def export_torchvision(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Writes `model.safetensors` with the names of a torchvision `VisionTransformer`, which has no config file.

    Raises:
        WeightsError: The model has a part that torchvision has no room for, or another epsilon than its 1e-6.
    """
    _refuse_epsilon(model, TORCHVISION.layer_norm_eps, "a torchvision file")
    weights = to_torchvision(model).state_dict()
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    _save_processor(processor, folder)


def export_timm(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Writes a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`. Needs the extra `timm`.

    `AutoModelForImageClassification` reads it too.

    Mean and deviation of the processor go into timm's own config, which pads what is not square, as we do.

    Raises:
        WeightsError: The model has a part that timm has no room for, or another epsilon than its 1e-6.
    """
    _refuse_epsilon(model, TIMM.layer_norm_eps, "a timm folder")
    native = to_timm(model)
    from timm.models import save_for_hf

    config = model.config
    described: dict[str, Any] = {"label_names": [config.id2label[index] for index in range(config.num_labels)]}
    if processor is not None:
        described["pretrained_cfg"] = {
            "mean": tuple(processor.image_mean),
            "std": tuple(processor.image_std),
            # timm divides by it and rounds down
            "crop_pct": math.nextafter(config.image_size / processor.size["height"], 0),
        }
    save_for_hf(native, str(folder), model_config=described, safe_serialization=True)
    path = Path(folder) / CONFIG_NAME
    written = json.loads(path.read_text("utf-8"))
    written["model_args"].pop("num_classes")  # said above them too; transformers hands both on, and timm takes one
    path.write_text(json.dumps(written, indent=2) + "\n", "utf-8")


Export = Callable[[CelluScanForImageClassification, str | Path, BaseImageProcessor | None], None]

EXPORTS: dict[str, Export] = {
    "celluscan": export_hand_built,
    "transformers": export_native,
    "torchvision": export_torchvision,
    "timm": export_timm,
}


def _save_processor(processor: BaseImageProcessor | None, folder: str | Path) -> None:
    if processor is not None:
        processor.save_pretrained(folder)


def _refuse_epsilon(model: CelluScanForImageClassification, epsilon: float, target: str) -> None:
    if model.config.layer_norm_eps != epsilon:
        raise WeightsError(
            f"{target} does not hold layer_norm_eps, its reader takes {epsilon}, this model has "
            f"{model.config.layer_norm_eps}: give --layer-norm-eps {epsilon} if a small difference may be"
        )
