"""Export models to transformers, torchvision and timm with equal logits, in memory or as safetensors."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import VisionTransformer
from transformers import (
    BaseImageProcessor,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.utils import CONFIG_NAME

from .configuration_celluscan import CelluScanConfig
from .conversion import POOLING, TIMM_ACT_LAYERS
from .key_mapping import (
    DINOV2,
    DINOV2_PREFIXES,
    TIMM,
    TORCHVISION,
    TRANSFORMERS_CLASSIFIER,
    KeyMapping,
    WeightsError,
)
from .modeling_celluscan import CelluScanForImageClassification

_LOOK = {"patch_stem": ("linear",), "input_norm": ("none",), "views": (1,), "crops": ([],)}  # of all other libraries
_DINOV2 = {"mlp": ("plain",), "layer_scale_init": (None,), "num_register_tokens": (0,)}  # what a plain ViT has not
_PLAIN = _LOOK | {"pooling": ("cls",)} | _DINOV2
TIMM_ARCHITECTURES = ("vit_base_patch16_224", "vit_giant_patch14_dinov2")  # plain or gated MLP; sizes are overridden


def is_native(config: CelluScanConfig) -> bool:
    """Whether a model of transformers alone can express a model, of which `export_native` writes a checkpoint."""
    possible = _LOOK if config.layer_scale_init is not None else _PLAIN
    return all(getattr(config, name) in values for name, values in possible.items())


def to_transformers(model: CelluScanForImageClassification) -> PreTrainedModel:
    """Convert to the library's `ViTForImageClassification` with equal logits; with layer scales to its DINOv2.

    Raises:
        WeightsError: It does not support a part of this model; the message names it.
    """
    ours = model.config
    if ours.layer_scale_init is not None:
        return _to_dinov2(model)
    _refuse(ours, "ViTForImageClassification of transformers", **_PLAIN)
    same = set(ViTConfig().to_dict()) & set(ours.to_dict()) - {"model_type", "architectures", "transformers_version"}
    native = ViTForImageClassification(ViTConfig(**{name: getattr(ours, name) for name in same}))
    native.load_state_dict(_their_weights(model, TRANSFORMERS_CLASSIFIER))
    return native.eval()


def _to_dinov2(model: CelluScanForImageClassification) -> PreTrainedModel:
    """Convert to `Dinov2ForImageClassification`, or to the one with registers.

    Its head reads the class token and the mean of the patches; what ours does not read has a weight of zero.
    """
    ours, registers = model.config, model.config.num_register_tokens
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    _refuse(ours, f"{kind}ForImageClassification of transformers", **_LOOK)
    config_class = Dinov2WithRegistersConfig if registers else Dinov2Config
    same = set(config_class().to_dict()) & set(ours.to_dict()) - {"model_type", "architectures", "transformers_version"}
    fields: dict[str, Any] = {name: getattr(ours, name) for name in same}
    gated = ours.mlp == "swiglu"
    fields |= {"use_swiglu_ffn": gated, "layerscale_value": ours.layer_scale_init, "mlp_ratio": _mlp_ratio(ours)}
    config = config_class(**fields)
    native = (Dinov2WithRegistersForImageClassification if registers else Dinov2ForImageClassification)(config)
    mapping = DINOV2.prefixed(DINOV2_PREFIXES[bool(registers)])
    weights = _their_weights(model, replace(mapping, parts={**mapping.parts, **(mapping.swiglu[0] if gated else {})}))
    weights["classifier.weight"] = _wide_head(weights["classifier.weight"], ours.pooling)
    state = native.state_dict()
    mask = {name: tensor for name, tensor in state.items() if name.endswith("embeddings.mask_token")}  # of its training
    native.load_state_dict(mask | weights)
    return native.eval()


def _mlp_ratio(config: CelluScanConfig) -> int:
    """Return the whole number from which the library's DINOv2 computes `intermediate_size` by the width.

    Of a gated MLP it takes two thirds, rounded up to a multiple of 8.
    """
    width, hidden, gated = config.hidden_size, config.intermediate_size, config.mlp == "swiglu"
    for ratio in range(1, 2 * hidden // width + 2):
        if hidden == ((ratio * width * 2 // 3 + 7) // 8 * 8 if gated else ratio * width):
            return ratio
    raise WeightsError(
        f"Dinov2ForImageClassification of transformers does not support intermediate_size={hidden} with "
        f"hidden_size={width}, only whole multiples{', of which a gated MLP takes two thirds' * gated}"
    )


def _wide_head(weight: torch.Tensor, pooling: str) -> torch.Tensor:
    """Fill up a head (L, D) to one that reads class token and patches, (L, 2 D)."""
    if pooling == "cls_mean":
        return weight
    none = torch.zeros_like(weight)
    return torch.cat((weight, none) if pooling == "cls" else (none, weight), dim=1)


def to_torchvision(model: CelluScanForImageClassification) -> VisionTransformer:
    """Convert to a torchvision `VisionTransformer` with equal logits; a missing qkv bias becomes zero.

    Raises:
        WeightsError: It does not support the patch stem, the pooling, the activation or the channels of this model.
    """
    ours = model.config
    _refuse(
        ours,
        "VisionTransformer of torchvision",
        **_PLAIN,
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
    """Convert to a timm `VisionTransformer` with equal logits. Needs the extra `timm`.

    Raises:
        WeightsError: timm is not installed, or does not support the patch stem or the activation of this model.
    """
    ours = model.config
    activations = {name: act_layer for act_layer, name in TIMM_ACT_LAYERS.items()}
    _refuse(
        ours,
        "VisionTransformer of timm",
        **_LOOK,
        pooling=tuple(POOLING.values()),
        hidden_act=("gelu", *activations),
    )
    try:
        import timm
    except ImportError as error:
        raise WeightsError('timm is not installed: pip install "celluscan_hf[timm]"') from error
    pooling = next(theirs for theirs, name in POOLING.items() if name == ours.pooling)
    options: dict[str, Any] = {}
    if ours.layer_norm_eps != TIMM.layer_norm_eps:  # only if needed: timm's config file cannot hold a function
        options["norm_layer"] = partial(nn.LayerNorm, eps=ours.layer_norm_eps)
    gated = ours.mlp == "swiglu"
    if ours.hidden_act in activations and not gated:
        options["act_layer"] = activations[ours.hidden_act]
    if ours.num_register_tokens:
        options |= {"reg_tokens": ours.num_register_tokens, "no_embed_class": True}
    native = timm.create_model(
        TIMM_ARCHITECTURES[gated],
        pretrained_cfg=_timm_description(ours),
        img_size=ours.image_size,
        patch_size=ours.patch_size,
        in_chans=ours.num_channels,
        num_classes=ours.num_labels,
        embed_dim=ours.hidden_size,
        depth=ours.num_hidden_layers,
        num_heads=ours.num_attention_heads,
        mlp_ratio=(ours.intermediate_size * (1 + gated) + 0.5) / ours.hidden_size,  # timm rounds down
        init_values=ours.layer_scale_init,
        qkv_bias=ours.qkv_bias,
        global_pool=pooling,
        fc_norm=False,
        **options,
    )
    native.load_state_dict(_timm_weights(model))
    return native.eval()


def _timm_weights(model: CelluScanForImageClassification) -> dict[str, torch.Tensor]:
    """Return the weights under timm's names; beside registers, timm has positions of patches alone."""
    weights = _their_weights(model, TIMM)
    if model.config.num_register_tokens:
        positions = weights["pos_embed"]
        weights |= {"cls_token": weights["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:].clone()}
    return weights


def _timm_description(config: CelluScanConfig) -> dict[str, Any]:
    """Build timm's `pretrained_cfg`: padded square images, and nothing about the weights that timm has published."""
    return {
        "architecture": TIMM_ARCHITECTURES[config.mlp == "swiglu"],
        "input_size": (config.num_channels, config.image_size, config.image_size),
        "num_classes": config.num_labels,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "border",  # pads what is not square
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    }


def _their_weights(model: CelluScanForImageClassification, mapping: KeyMapping) -> dict[str, torch.Tensor]:
    weights = model.state_dict()
    return {
        part: tensor.clone()
        for name, parts in mapping.pairs(model.config.num_hidden_layers)
        if name in weights
        for part, tensor in zip(parts, weights[name].chunk(len(parts)), strict=True)
    }


def _refuse(config: CelluScanConfig, target: str, **possible: tuple[Any, ...]) -> None:
    for name, values in possible.items():
        if getattr(config, name) not in values:
            allowed = " or ".join(map(repr, values))
            raise WeightsError(f"{target} does not support {name}={getattr(config, name)!r}, only {allowed}")


def export_native(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Write a checkpoint with equal logits that needs only transformers: a ViT, or with layer scales a DINOv2.

    Args:
        model: A model with a linear patch stem; a ViT also with class-token pooling.
        folder: Output folder, created if needed.
        processor: Image processor to save too, so that `pipeline("image-classification", model=folder)` works.

    Raises:
        WeightsError: The library's model does not support a part of this model; the message names it.
        FileExistsError: `folder` is a file.
    """
    native = to_transformers(model)
    Path(folder).mkdir(parents=True, exist_ok=True)  # if a file is in the way, the library would only log it
    native.save_pretrained(folder)
    _save_processor(processor, folder)


def export_hand_built(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Write our own checkpoint, with the Python files that `trust_remote_code` runs; see `export_native` for arguments.

    These include the files of `pipeline("wbc-classification")`, which the config registers.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    _save_processor(processor, folder)


def export_torchvision(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Write `model.safetensors` with the names of a torchvision `VisionTransformer`, which has no config file.

    Raises:
        WeightsError: The model has a part that torchvision does not support, or an epsilon other than 1e-6.
    """
    _refuse_epsilon(model, TORCHVISION.layer_norm_eps, "a torchvision file")
    weights = to_torchvision(model).state_dict()
    Path(folder).mkdir(parents=True, exist_ok=True)
    save_file(weights, Path(folder) / "model.safetensors", metadata={"format": "pt"})
    _save_processor(processor, folder)


def export_timm(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Write a folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`. Needs the extra `timm`.

    `AutoModelForImageClassification` reads it too. Mean and std of the processor go into timm's config, which pads
    images to squares as we do.

    Raises:
        WeightsError: The model has a part that timm does not support, or an epsilon other than 1e-6.
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
            # timm divides the image size by it and rounds down
            "crop_pct": math.nextafter(config.image_size / processor.size["height"], 0),
        }
    save_for_hf(native, str(folder), model_config=described, safe_serialization=True)
    path = Path(folder) / CONFIG_NAME
    written = json.loads(path.read_text("utf-8"))
    written["model_args"].pop("num_classes")  # also at the top level; transformers passes both, which timm refuses
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
            f"{target} cannot store layer_norm_eps; readers assume {epsilon}, this model has "
            f"{model.config.layer_norm_eps}: give --layer-norm-eps {epsilon} to accept a small difference"
        )
