"""Weights of a ViT from torchvision, transformers and timm to ours, with equal logits; `exporting` goes back.

Beside names and the joined or separate matrices of attention, the libraries differ in what no tensor shows: the number
of heads, the epsilon of LayerNorm, the mean and deviation that images are scaled by. A `Checkpoint` carries all of it
together. Every tensor is accounted for: one that is missing, left over or misshapen raises with its name.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import ViTConfig

from .configuration_celluscan import CelluScanConfig
from .key_mapping import HALF, IMAGENET_MEAN, IMAGENET_STD, KeyMapping, WeightsError, ours_needs_its_folder, recognise
from .modeling_celluscan import CelluScanForImageClassification
from .unwrapping import unwrap

logger = logging.getLogger(__name__)

Colour = tuple[float, float, float]

# Heads of the published ViTs by hidden size, as no tensor tells: Dosovitskiy et al. 2021, table 1 (768, 1024, 1280),
# Zhai et al. 2022, "Scaling Vision Transformers" (192, 384, 1408, 1664), and timm's own sizes between them.
HEADS = {192: 3, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}

# timm's activation classes and pooling by our names
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu"}
TIMM_ACT_LAYERS = {"gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}  # beside "gelu", its default
POOLING = {"token": "cls", "avg": "mean"}


@dataclass(frozen=True)
class Checkpoint:
    """Weights of a ViT under our names, with all that must travel with them."""

    weights: Mapping[str, torch.Tensor]
    """By the names of `CelluScanForImageClassification`; without `classifier.*` if the origin has no head."""
    config: CelluScanConfig
    image_mean: Colour
    """Of red, green and blue in [0, 1], what images are normalised with; and so is `image_std`."""
    image_std: Colour
    ignored_keys: tuple[str, ...] = ()
    """Tensors of other tasks that were not taken over."""
    resized: int | None = None
    """Side that images are resized to before the central part is cut out; None where nothing is cut off."""

    def build(self, id2label: Mapping[int, str] | None = None) -> CelluScanForImageClassification:
        """A model with these weights, in evaluation mode.

        Args:
            id2label: Classes of the model. The head of the checkpoint is kept, its rows put in this order, where it
                has the same classes, or as many without names (`LABEL_0`, …). Otherwise the head is made new, and a
                warning says so. None keeps what the checkpoint has.

        Raises:
            WeightsError: The ids of `id2label` do not count up from 0, or it has fewer than two.
        """
        config, weights = self.config, dict(self.weights)
        if id2label is not None:
            config = make_config(config.to_dict() | {"id2label": dict(id2label)})
            weights = self._with_head_for(config)
        model = CelluScanForImageClassification(config)
        if "classifier.linear.weight" not in weights:
            logger.warning("the head is new: %d classes asked for, %s", config.num_labels, self._describe_head())
            weights |= {f"classifier.{name}": tensor for name, tensor in model.classifier.state_dict().items()}
        model.load_state_dict(weights, strict=True)
        return model.eval()

    def _with_head_for(self, config: CelluScanConfig) -> dict[str, torch.Tensor]:
        """The weights, the rows of the head in the order of `config`; without a head where its classes are others."""
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
        return f"{self.config.num_labels} in the checkpoint: {_listed(_labels(self.config))}"


def _labels(config: CelluScanConfig) -> list[str]:
    return [name for _, name in sorted((int(key), name) for key, name in (config.id2label or {}).items())]


def from_weights(
    content: Mapping[str, Any],
    *,
    image_mean: Colour | None = None,
    image_std: Colour | None = None,
    key: str | None = None,
    **fields: Any,
) -> Checkpoint:
    """Bare tensors by the names of torchvision (module or published file), transformers (both name sets) or timm.

    Args:
        content: Tensors by name, or what a trainer saved around them (`unwrapping`).
        image_mean: What images are normalised with; None for what the library's weights usually take, with a warning.
        image_std: Likewise.
        key: Which to take where `content` holds several ViTs, as `unwrapping.unwrap`.
        **fields: Fields of the config that no tensor shows, `num_attention_heads` and `layer_norm_eps` first of all.
            Without them the heads are those of the published ViT of this hidden size, and the epsilon is the library's.

    Raises:
        WeightsError: Not a ViT; a tensor is missing, left over or misshapen; or the number of heads is not known.
    """
    unwrapped = unwrap(content, key)
    weights, naming = unwrapped.weights, unwrapped.naming
    if unwrapped.note:
        logger.warning("weights: %s", unwrapped.note)
    if naming is None:
        raise ours_needs_its_folder()
    table = _match_names(weights, naming)
    config = _config_of(weights, table, {"layer_norm_eps": naming.layer_norm_eps} | fields)
    check_weights({name: [(part, weights[part]) for part in parts] for name, parts in table.items()}, config)
    ours = {name: torch.cat([weights[part] for part in parts]) for name, parts in table.items()}
    mean, std = _normalisation(naming, image_mean, image_std)
    return Checkpoint(ours, config, mean, std, unwrapped.ignored)


def _normalisation(naming: KeyMapping, mean: Colour | None, std: Colour | None) -> tuple[Colour, Colour]:
    """Mean and standard deviation, guessed with a warning where they are not given."""
    if mean is None or std is None:
        logger.warning(
            "normalization is a guess: mean %s, std %s, the usual of %s; give --normalization (in Python, image_mean "
            "and image_std) if these weights take others: those of DINO, MAE and DeiT take ImageNet's",
            mean or naming.image_mean,
            std or naming.image_std,
            naming.library,
        )
    return mean or naming.image_mean, std or naming.image_std


def _match_names(theirs: Mapping[str, torch.Tensor], naming: KeyMapping) -> dict[str, tuple[str, ...]]:
    """Our name of every tensor, with theirs. A head and the bias of qkv may be absent, as a whole."""
    table = dict(naming.pairs(naming.depth(theirs)))
    for optional in ("classifier.linear.", "attention.qkv.bias"):
        group = [name for name in table if optional in name]
        if not any(part in theirs for name in group for part in table[name]):
            table = {name: parts for name, parts in table.items() if name not in group}
    expected = [part for parts in table.values() for part in parts]
    if missing := [name for name in expected if name not in theirs]:
        raise WeightsError(f"{naming.library} ViT: {len(missing)} tensors are missing: {_listed(missing)}")
    if extra := sorted(set(theirs) - set(expected) - set(naming.ignored_keys)):
        raise WeightsError(f"{naming.library} ViT: {len(extra)} tensors have no place in our model: {_listed(extra)}")
    return table


def _config_of(
    theirs: Mapping[str, torch.Tensor], table: Mapping[str, tuple[str, ...]], fields: Mapping[str, Any]
) -> CelluScanConfig:
    """The config that the shapes show, completed by `fields`."""

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
    shown = {
        "hidden_size": hidden_size,
        "num_hidden_layers": sum(name.endswith("mlp.fc1.weight") for name in table),
        "num_attention_heads": HEADS.get(hidden_size),
        "intermediate_size": shape("vit.layers.0.mlp.fc1.weight", "intermediate_size", "D")[0],
        "num_channels": num_channels,
        "patch_size": patch_size,
        "image_size": grid * patch_size,
        "qkv_bias": "vit.layers.0.attention.qkv.bias" in table,
        "hidden_dropout_prob": 0.0,
    }
    if "classifier.linear.weight" in table and "id2label" not in fields:
        shown["num_labels"] = shape("classifier.linear.weight", "L", "D")[0]
    return make_config(shown | dict(fields))


def make_config(fields: Mapping[str, Any]) -> CelluScanConfig:
    """A config of `fields`. Raises a WeightsError that says which of them cannot be."""
    try:
        return CelluScanConfig.from_dict(dict(fields))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"no ViT can be like this: {str(error).splitlines()[-1].strip()}") from error


def check_weights(parts: Mapping[str, Sequence[tuple[str, torch.Tensor]]], config: CelluScanConfig) -> None:
    """Compares names and shapes with the model of `config`; a head may be absent.

    Args:
        parts: For each of our names the tensors that are joined to it along their first axis, with the names the
            reader knows them by.
        config: Of the model that is to take them.

    Raises:
        WeightsError: A tensor is missing, left over or misshapen.
    """
    with torch.device("meta"):
        expected = CelluScanForImageClassification(config).state_dict()
    required = [name for name in expected if not name.startswith("classifier.")]
    if missing := [name for name in required if name not in parts]:
        raise WeightsError(f"{len(missing)} tensors are missing: {_listed(missing)}")
    if extra := [name for name in parts if name not in expected]:
        raise WeightsError(f"{len(extra)} tensors have no place in the model: {_listed(extra)}")
    for name, tensors in parts.items():
        rows, *others = expected[name].shape or (1,)
        shape = (rows // len(tensors), *others) if expected[name].dim() else ()
        for known_as, tensor in tensors:
            if tuple(tensor.shape) != shape:
                raise WeightsError(f"{known_as}: expected the shape {shape}, got {tuple(tensor.shape)}")


def from_model(model: nn.Module) -> Checkpoint:
    """A model of torchvision (`VisionTransformer`), transformers (`ViTModel`, `ViTForImageClassification`) or timm.

    Images are taken to be normalised as the library does it, or as a timm model says.

    Raises:
        WeightsError: Another model, or a ViT with parts that ours has no room for.
    """
    weights = model.state_dict()
    naming = recognise(weights)
    describe = {"torchvision": _of_torchvision, "transformers": _of_transformers, "timm": _of_timm}[naming.library]
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


def fields_of_vit(config: ViTConfig, with_labels: bool) -> dict[str, Any]:
    """What the library's config of a ViT says and no tensor shows, as fields of ours."""
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
        raise WeightsError(f"blocks: expected timm's Block, which normalises before each branch, got {_listed(kinds)}")
    activation = type(block.mlp.act).__name__
    if getattr(block.mlp.act, "approximate", "none") == "tanh":
        activation = "GELUTanh"
    if activation not in ACTIVATIONS:
        raise WeightsError(f"activation of the MLP: expected one of {_listed(ACTIVATIONS)}, got {activation}")
    if pooling not in POOLING:
        raise WeightsError(f"pooling: expected one of {_listed(POOLING)}, got {pooling!r}")
    if getattr(model, "pool_include_prefix", False):
        raise WeightsError("pooling: expected the mean of the patch tokens, got pool_include_prefix=True")
    require_square(model.patch_embed.grid_size)
    return stated | {
        "num_attention_heads": block.attn.num_heads,
        "layer_norm_eps": _common_epsilon(model),
        "hidden_act": ACTIVATIONS[activation],
        "pooling": POOLING[pooling],
    }


def _common_epsilon(model: nn.Module) -> float:
    """The epsilon of all its LayerNorms. Raises a WeightsError where they differ: ours has one for all."""
    found = {module.eps: name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    if len(found) != 1:
        each = ", ".join(f"{epsilon} in {name}" for epsilon, name in found.items())
        raise WeightsError(f"layer_norm_eps: expected one epsilon in all LayerNorms, got {each or 'no LayerNorm'}")
    return found.popitem()[0]


def require_square(size: int | Sequence[int]) -> None:
    """Raises a WeightsError where rows and columns, of pixels or patches, differ: no tensor would show it."""
    if not isinstance(size, int) and len(set(size)) > 1:
        raise WeightsError(f"expected a ViT for square images, got one for {' x '.join(map(str, size))}")


def _listed(names: Any) -> str:
    names = list(names)
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
