"""Convert weights of a ViT from torchvision, transformers and timm to ours, with equal logits; see also `exporting`.

Apart from names and from joined or separate attention matrices, the libraries differ in values that no tensor shows:
the number of heads, the epsilon of LayerNorm, mean and standard deviation of images. A `Checkpoint` holds all of them.
Every tensor is accounted for: a missing, unexpected or misshapen one raises an error with its name.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import ViTConfig

from .configuration_celluscan import CelluScanConfig
from .key_mapping import (
    DINOV2,
    HALF,
    IMAGENET_MEAN,
    IMAGENET_STD,
    KeyMapping,
    WeightsError,
    listed,
    ours_needs_its_folder,
    recognise,
)
from .modeling_celluscan import CelluScanForImageClassification
from .unwrapping import unwrap

logger = logging.getLogger(__name__)

Rgb = tuple[float, float, float]

# Heads of published ViTs by hidden size, as no tensor shows them: Dosovitskiy et al. 2021, table 1 (768, 1024, 1280),
# Zhai et al. 2022, "Scaling Vision Transformers" (192, 384, 1408, 1664), Oquab et al. 2023, DINOv2 (1536), and timm's
# own sizes between them.
HEADS = {192: 3, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1536: 24, 1664: 16}

# timm's activation classes and pooling -> our names
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu"}
TIMM_ACT_LAYERS = {"gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}  # beside "gelu", its default
POOLING = {"token": "cls", "avg": "mean"}


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a ViT under our names, with the config and normalisation they need."""

    weights: Mapping[str, torch.Tensor]
    """By the names of `CelluScanForImageClassification`; without `classifier.*` if the source has no head."""
    config: CelluScanConfig
    image_mean: Rgb
    """Mean of red, green and blue that images are normalised with, in [0, 1]; `image_std` likewise."""
    image_std: Rgb
    ignored_keys: tuple[str, ...] = ()
    """Tensors of other tasks that were ignored."""
    resized: int | None = None
    """Side that images are resized to before a centre crop; None without a crop."""

    def build(self, id2label: Mapping[int, str] | None = None) -> CelluScanForImageClassification:
        """Build a model with these weights, in evaluation mode.

        Args:
            id2label: Classes of the model. The checkpoint's head is kept, with its rows in this order, if it has the
                same classes, or as many without names (`LABEL_0`, …). Otherwise a new head is initialized, with a
                warning. None keeps the checkpoint's classes.

        Raises:
            WeightsError: The ids of `id2label` do not count up from 0, or it has fewer than two.
        """
        config, weights = self.config, dict(self.weights)
        if id2label is not None:
            config = make_config(config.to_dict() | {"id2label": dict(id2label)})
            weights = self._with_head_for(config)
        model = CelluScanForImageClassification(config)
        if "classifier.linear.weight" not in weights:
            logger.warning("the head is new: %d classes requested, %s", config.num_labels, self._describe_head())
            weights |= {f"classifier.{name}": tensor for name, tensor in model.classifier.state_dict().items()}
        model.load_state_dict(weights, strict=True)
        return model.eval()

    def _with_head_for(self, config: CelluScanConfig) -> dict[str, torch.Tensor]:
        """Return the weights with the head's rows in the order of `config`; without a head if its classes differ."""
        weights = dict(self.weights)
        have, want = list(_labels(self.config)), list(_labels(config))
        unnamed = have == [f"LABEL_{index}" for index in range(len(have))]
        for name in ("classifier.linear.weight", "classifier.linear.bias"):
            if name in weights and sorted(have) == sorted(want):
                weights[name] = weights[name][[have.index(label) for label in want]]
            elif not (unnamed and len(have) == len(want)):
                weights.pop(name, None)
        return weights

    def _describe_head(self) -> str:
        if "classifier.linear.weight" not in self.weights:
            return "0 in the checkpoint"
        return f"{self.config.num_labels} in the checkpoint: {listed(_labels(self.config))}"


def _labels(config: CelluScanConfig) -> list[str]:
    return [name for _, name in sorted((int(key), name) for key, name in (config.id2label or {}).items())]


def from_weights(
    content: Mapping[str, Any],
    *,
    image_mean: Rgb | None = None,
    image_std: Rgb | None = None,
    key: str | None = None,
    **fields: Any,
) -> Checkpoint:
    """Convert bare tensors with names of torchvision (module or published file), transformers (both sets) or timm.

    Args:
        content: Tensors by name, or the dictionary in which a trainer saved them (`unwrapping`).
        image_mean: Mean that images are normalised with; None for the library's usual one, with a warning.
        image_std: Likewise.
        key: Which to use if `content` holds several ViTs (see `unwrapping.unwrap`).
        **fields: Fields of the config that no tensor shows, above all `num_attention_heads` and `layer_norm_eps`. By
            default the heads are those of the published ViT of this hidden size, and the epsilon is the library's.

    Raises:
        WeightsError: Not a ViT; a tensor is missing, unexpected or misshapen; or the number of heads is unknown.
    """
    unwrapped = unwrap(content, key)
    weights, mapping = unwrapped.weights, unwrapped.mapping
    if unwrapped.note:
        logger.warning("weights: %s", unwrapped.note)
    if mapping is None:
        raise ours_needs_its_folder()
    mapping = mapping.as_in(weights)
    table = _match_names(weights, mapping)
    weights = _with_class_position(weights, mapping)
    weights = _with_positions_for(weights, mapping, fields.get("image_size"))
    config = _config_of(weights, table, {"layer_norm_eps": mapping.layer_norm_eps} | fields)
    check_weights({name: [(part, weights[part]) for part in parts] for name, parts in table.items()}, config)
    ours = {name: torch.cat([weights[part] for part in parts]) for name, parts in table.items()}
    if config.layer_scale_init is not None:  # DINOv2 and DinoBloom, under timm's names too
        mapping = replace(mapping, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD)
    mean, std = _normalisation(mapping, image_mean, image_std)
    return Checkpoint(ours, config, mean, std, unwrapped.ignored)


def _normalisation(mapping: KeyMapping, mean: Rgb | None, std: Rgb | None) -> tuple[Rgb, Rgb]:
    """Return mean and standard deviation, guessed with a warning if they are not given."""
    if mean is None or std is None:
        logger.warning(
            "normalization is a guess: mean %s, std %s, usual for %s; give --normalization (in Python, image_mean "
            "and image_std) if these weights need others: those of DINO, MAE and DeiT need ImageNet's",
            mean or mapping.image_mean,
            std or mapping.image_std,
            mapping.library,
        )
    return mean or mapping.image_mean, std or mapping.image_std


def _with_class_position(weights: dict[str, torch.Tensor], mapping: KeyMapping) -> dict[str, torch.Tensor]:
    """Give the class token a position of zero where timm's table has one for patches alone, as with registers."""
    name = mapping.position_embeddings
    table = weights[name]
    if mapping.library != "timm" or table.dim() != 3 or isqrt(table.shape[1]) ** 2 != table.shape[1]:
        return weights
    return weights | {name: torch.cat((torch.zeros_like(table[:, :1]), table), dim=1)}


def _with_positions_for(
    weights: dict[str, torch.Tensor], mapping: KeyMapping, image_size: int | None
) -> dict[str, torch.Tensor]:
    """Resize the position table to images of another size, bicubic, as the model itself does for other sizes."""
    table, patches = weights[mapping.position_embeddings], weights[f"{mapping.projection}weight"]
    grid = isqrt(table.shape[1] - 1) if table.dim() == 3 else 0
    wanted = image_size // patches.shape[-1] if image_size and patches.dim() == 4 else grid
    if wanted == grid or grid**2 + 1 != table.shape[1]:
        return weights
    logger.warning("position table resized from %d x %d to %d x %d patches", grid, grid, wanted, wanted)
    squares = table[:, 1:].float().unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
    resized = nn.functional.interpolate(squares, size=(wanted, wanted), mode="bicubic", align_corners=False)
    positions = torch.cat((table[:, :1], resized.flatten(2).transpose(1, 2).to(table.dtype)), dim=1)
    return weights | {mapping.position_embeddings: positions}


def _match_names(theirs: Mapping[str, torch.Tensor], mapping: KeyMapping) -> dict[str, tuple[str, ...]]:
    """Map our name of every tensor to theirs. Head, qkv biases, layer scales and registers may be absent."""
    table = dict(mapping.pairs(mapping.depth(theirs)))
    for optional in ("classifier.linear.", "attention.qkv.bias", ".layer_scale", "register_tokens"):
        group = [name for name in table if optional in name]
        if not any(part in theirs for name in group for part in table[name]):
            table = {name: parts for name, parts in table.items() if name not in group}
    expected = [part for parts in table.values() for part in parts]
    if missing := [name for name in expected if name not in theirs]:
        raise WeightsError(f"{mapping.library} ViT: {len(missing)} tensors are missing: {listed(missing)}")
    if extra := sorted(set(theirs) - set(expected) - set(mapping.ignored_keys)):
        raise WeightsError(f"{mapping.library} ViT: {len(extra)} tensors do not exist in our model: {listed(extra)}")
    return table


def _config_of(
    theirs: Mapping[str, torch.Tensor], table: Mapping[str, tuple[str, ...]], fields: Mapping[str, Any]
) -> CelluScanConfig:
    """Derive the config from the shapes and `fields`."""

    def shape(ours: str, *letters: str) -> torch.Size:
        name = table[ours][0]
        if theirs[name].dim() != len(letters):
            raise WeightsError(f"{name}: expected the shape ({', '.join(letters)}), got {tuple(theirs[name].shape)}")
        return theirs[name].shape

    hidden_size, num_channels, _, patch_size = shape("vit.embeddings.projection.weight", "D", "C", "P", "P")
    num_tokens = shape("vit.embeddings.position_embeddings", "1", "N", "D")[1]
    grid = isqrt(max(num_tokens - 1, 0))
    if grid == 0 or grid**2 + 1 != num_tokens:
        raise WeightsError(f"positions: expected one class token and a square of patches, got {num_tokens}")
    if "num_attention_heads" not in fields and hidden_size not in HEADS:
        raise WeightsError(f"give num_attention_heads: no published ViT has the hidden size {hidden_size}")
    first, second = "vit.layers.0.mlp.fc1.weight", "vit.layers.0.mlp.fc2.weight"
    hidden_rows = shape(first, "intermediate_size", "D")[0] * len(table[first])
    gated = hidden_rows == 2 * shape(second, "D", "intermediate_size")[1]
    registers = "vit.embeddings.register_tokens"
    derived: dict[str, Any] = {
        "hidden_size": hidden_size,
        "num_hidden_layers": sum(name.endswith("mlp.fc1.weight") for name in table),
        "num_attention_heads": HEADS.get(hidden_size),
        "intermediate_size": hidden_rows // 2 if gated else hidden_rows,
        "mlp": "swiglu" if gated else "plain",
        "layer_scale_init": 1.0 if "vit.layers.0.layer_scale1.factors" in table else None,
        "num_register_tokens": shape(registers, "1", "R", "D")[1] if registers in table else 0,
        "num_channels": num_channels,
        "patch_size": patch_size,
        "image_size": grid * patch_size,
        "qkv_bias": "vit.layers.0.attention.qkv.bias" in table,
        "hidden_dropout_prob": 0.0,
    }
    if "classifier.linear.weight" in table and "id2label" not in fields:
        derived["num_labels"] = shape("classifier.linear.weight", "L", "D")[0]
    return make_config(derived | dict(fields))


def make_config(fields: Mapping[str, Any]) -> CelluScanConfig:
    """Build a config of `fields`. Raises a WeightsError that names an invalid one."""
    try:
        return CelluScanConfig.from_dict(dict(fields))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"invalid configuration: {str(error).splitlines()[-1].strip()}") from error


def check_weights(parts: Mapping[str, Sequence[tuple[str, torch.Tensor]]], config: CelluScanConfig) -> None:
    """Compare names and shapes with the model of `config`; the head may be absent.

    Args:
        parts: For each of our names the tensors that are concatenated to it, with their original names.
        config: Config of the model that will load them.

    Raises:
        WeightsError: A tensor is missing, unexpected or misshapen.
    """
    with torch.device("meta"):
        expected = CelluScanForImageClassification(config).state_dict()
    required = [name for name in expected if not name.startswith("classifier.")]
    if missing := [name for name in required if name not in parts]:
        raise WeightsError(f"{len(missing)} tensors are missing: {listed(missing)}")
    if extra := [name for name in parts if name not in expected]:
        raise WeightsError(f"{len(extra)} tensors do not exist in the model: {listed(extra)}")
    for name, tensors in parts.items():
        rows, *others = expected[name].shape or (1,)
        shape = (rows // len(tensors), *others) if expected[name].dim() else ()
        for original_name, tensor in tensors:
            if tuple(tensor.shape) != shape:
                raise WeightsError(f"{original_name}: expected the shape {shape}, got {tuple(tensor.shape)}")


def from_model(model: nn.Module) -> Checkpoint:
    """Convert a `VisionTransformer` of torchvision or timm, or a ViT or DINOv2 of transformers, with or without head.

    The normalisation is the library's default, or the one that a timm model states.

    Raises:
        WeightsError: Another model, or a ViT with parts that ours does not support.
    """
    weights = model.state_dict()
    mapping = recognise(weights)
    describe = {
        "torchvision": _of_torchvision,
        "transformers": _of_transformers,
        "timm": _of_timm,
        DINOV2.library: _of_dinov2,
    }[mapping.library]
    return from_weights(weights, **describe(model))


def _of_torchvision(model: Any) -> dict[str, Any]:
    return {
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
        "num_attention_heads": model.encoder.layers[0].num_heads,
        "layer_norm_eps": _common_epsilon(model),
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
    }


def _of_transformers(model: Any) -> dict[str, Any]:
    normalisation = {"image_mean": HALF, "image_std": HALF}
    return normalisation | fields_of_vit(model.config, with_labels=hasattr(model, "classifier"))


def _of_dinov2(model: Any) -> dict[str, Any]:
    normalisation = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    return normalisation | fields_of_dinov2(model.config, with_labels=hasattr(model, "classifier"))


def fields_of_dinov2(config: Any, with_labels: bool) -> dict[str, Any]:
    """Convert what no tensor shows from the library's config of a DINOv2; its head reads class token and patches."""
    return fields_of_vit(config, with_labels) | ({"pooling": "cls_mean"} if with_labels else {})


def fields_of_vit(config: ViTConfig, with_labels: bool) -> dict[str, Any]:
    """Convert what no tensor shows from the library's config of a ViT to fields of ours."""
    names = (
        "num_attention_heads",
        "hidden_act",
        "hidden_dropout_prob",
        "attention_probs_dropout_prob",
        "initializer_range",
        "layer_norm_eps",
    )
    if with_labels and config.problem_type not in (None, "single_label_classification"):
        raise WeightsError(f"problem_type: expected one label per image, got {config.problem_type!r}")
    require_square(config.image_size)
    require_square(config.patch_size)
    fields = {name: getattr(config, name) for name in names}
    return fields | ({"id2label": config.id2label} if with_labels else {})


def _of_timm(model: Any) -> dict[str, Any]:
    block, pooling = model.blocks[0], model.global_pool
    described = getattr(model, "pretrained_cfg", None) or {}
    stated = {f"image_{name}": tuple(described[name]) for name in ("mean", "std") if name in described}
    if kinds := {type(block).__name__ for block in model.blocks} - {"Block"}:
        raise WeightsError(f"blocks: expected timm's Block, which normalises before each branch, got {listed(kinds)}")
    activation = _timm_activation(block.mlp)
    if pooling not in POOLING:
        raise WeightsError(f"pooling: expected one of {listed(POOLING)}, got {pooling!r}")
    if getattr(model, "pool_include_prefix", False):
        raise WeightsError("pooling: expected the mean of the patch tokens, got pool_include_prefix=True")
    require_square(model.patch_embed.grid_size)
    return stated | {
        "num_attention_heads": block.attn.num_heads,
        "layer_norm_eps": _common_epsilon(model),
        **({"hidden_act": activation} if activation else {}),
        "pooling": POOLING[pooling],
    }


def _timm_activation(mlp: Any) -> str | None:
    """Return our name for the activation of timm's MLP; None for a gated one, which has SiLU."""
    activation = type(mlp.act).__name__
    if type(mlp).__name__ == "GluMlp":
        if activation != "SiLU" or mlp.gate_last:
            raise WeightsError(f"gated MLP: expected SiLU on the first half, got {activation}")
        return None
    if getattr(mlp.act, "approximate", "none") == "tanh":
        activation = "GELUTanh"
    if activation not in ACTIVATIONS:
        raise WeightsError(f"activation of the MLP: expected one of {listed(ACTIVATIONS)}, got {activation}")
    return ACTIVATIONS[activation]


def _common_epsilon(model: nn.Module) -> float:
    """Return the epsilon of all LayerNorms. Raises a WeightsError if they differ, as our config has one for all."""
    epsilons = {module.eps: name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    if len(epsilons) != 1:
        each = ", ".join(f"{epsilon} in {name}" for epsilon, name in epsilons.items())
        raise WeightsError(f"layer_norm_eps: expected one epsilon in all LayerNorms, got {each or 'no LayerNorm'}")
    return epsilons.popitem()[0]


def require_square(size: int | Sequence[int]) -> None:
    """Raise a WeightsError if numbers of rows and columns differ, as no tensor would show it."""
    if not isinstance(size, int) and len(set(size)) > 1:
        raise WeightsError(f"expected a ViT for square images, got one for {' x '.join(map(str, size))}")
