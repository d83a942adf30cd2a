"""Tensor names of a ViT in torchvision, transformers and timm, and the values that their files do not hold.

The names of timm are also those of the authors of DINOv2, and of DinoBloom. The tables follow torchvision 0.29
(`models.vision_transformer`), transformers 5.24 (`models.vit`, `models.dinov2` and their renaming of older files), timm
1.0 (`models.vision_transformer`); tests compare them with these libraries.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from .errors_celluscan import CelluScanError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


class WeightsError(CelluScanError):
    """Weights that do not fit. The message names the tensor or file, what was expected and what came."""


@dataclass(frozen=True)
class KeyMapping:
    """The tensor names of one library. A name that ends in `.` or `_` is a prefix: `weight` or `bias` follows."""

    library: str
    cls_token: str
    position_embeddings: str
    projection: str
    layernorm: str
    head: str
    block: str
    """Prefix of a block, with `{}` for its index."""
    parts: Mapping[str, tuple[str, ...]]
    """Prefix within our block -> theirs: one, or three if queries, keys and values are separate."""
    layer_norm_eps: float
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    ignored_keys: tuple[str, ...] = ()
    """Tensors of other tasks, which a classifier does not need."""
    layer_scale: str = ""
    """Name of the two layer scales within a block, with `{}` for 1 and 2; empty if its ViTs have none."""
    register_tokens: tuple[str, ...] = ()
    """Names that the register tokens may have; empty if its ViTs have none."""
    swiglu: tuple[Mapping[str, tuple[str, ...]], ...] = ()
    """Parts that a gated MLP may have in place of those of the plain one."""

    def prefixed(self, prefix: str) -> "KeyMapping":
        """Return the names within a larger model: all but the head's begin with `prefix`."""
        return replace(
            self,
            cls_token=prefix + self.cls_token,
            position_embeddings=prefix + self.position_embeddings,
            projection=prefix + self.projection,
            layernorm=prefix + self.layernorm,
            block=prefix + self.block,
            register_tokens=tuple(prefix + name for name in self.register_tokens),
            ignored_keys=tuple(prefix + name for name in self.ignored_keys),
        )

    def as_in(self, names: Collection[str]) -> "KeyMapping":
        """Return the variant of the mapping that these names have, of several names for one part."""
        first = self.block.format(0)
        gated = [parts for parts in self.swiglu if first + parts["mlp.fc1."][0] + "weight" in names]
        registers = [name for name in self.register_tokens if name in names] or self.register_tokens[:1]
        return replace(self, parts={**self.parts, **(gated[0] if gated else {})}, register_tokens=tuple(registers))

    def pairs(self, depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield our name of every tensor that a ViT of `depth` blocks can have, with theirs."""
        yield "vit.embeddings.cls_token", (self.cls_token,)
        yield "vit.embeddings.position_embeddings", (self.position_embeddings,)
        if self.register_tokens:
            yield "vit.embeddings.register_tokens", self.register_tokens[:1]
        prefixes: dict[str, tuple[str, ...]] = {
            "vit.embeddings.projection.": (self.projection,),
            "vit.layernorm.": (self.layernorm,),
            "classifier.linear.": (self.head,),
        }
        for index in range(depth):
            block = self.block.format(index)
            for ours, theirs in self.parts.items():
                prefixes[f"vit.layers.{index}.{ours}"] = tuple(block + part for part in theirs)
            for number in (1, 2) if self.layer_scale else ():
                yield f"vit.layers.{index}.layer_scale{number}.factors", (block + self.layer_scale.format(number),)
        for ours, theirs in prefixes.items():
            for kind in ("weight", "bias"):
                yield ours + kind, tuple(part + kind for part in theirs)

    def depth(self, names: Iterable[str]) -> int:
        """Count blocks: one more than the highest index in the names."""
        before, after = (re.escape(part) for part in self.block.split("{}"))
        indices = [int(match[1]) for name in names if (match := re.match(rf"{before}(\d+){after}", name))]
        return max(indices, default=-1) + 1


TORCHVISION = KeyMapping(
    library="torchvision",
    cls_token="class_token",
    position_embeddings="encoder.pos_embedding",
    projection="conv_proj.",
    layernorm="encoder.ln.",
    head="heads.head.",
    block="encoder.layers.encoder_layer_{}.",
    parts={
        "layernorm_before.": ("ln_1.",),
        "attention.qkv.": ("self_attention.in_proj_",),
        "attention.proj.": ("self_attention.out_proj.",),
        "layernorm_after.": ("ln_2.",),
        "mlp.fc1.": ("mlp.0.",),
        "mlp.fc2.": ("mlp.3.",),
    },
    layer_norm_eps=1e-6,
    image_mean=IMAGENET_MEAN,
    image_std=IMAGENET_STD,
)

# published files have older names, which the module renames while loading
TORCHVISION_FILE = replace(
    TORCHVISION, parts={**TORCHVISION.parts, "mlp.fc1.": ("mlp.linear_1.",), "mlp.fc2.": ("mlp.linear_2.",)}
)

TRANSFORMERS = KeyMapping(
    library="transformers",
    cls_token="embeddings.cls_token",
    position_embeddings="embeddings.position_embeddings",
    projection="embeddings.patch_embeddings.projection.",
    layernorm="layernorm.",
    head="classifier.",
    block="layers.{}.",
    parts={
        "layernorm_before.": ("layernorm_before.",),
        "attention.qkv.": ("attention.q_proj.", "attention.k_proj.", "attention.v_proj."),
        "attention.proj.": ("attention.o_proj.",),
        "layernorm_after.": ("layernorm_after.",),
        "mlp.fc1.": ("mlp.fc1.",),
        "mlp.fc2.": ("mlp.fc2.",),
    },
    layer_norm_eps=1e-12,
    image_mean=HALF,
    image_std=HALF,
    ignored_keys=("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token"),
)

TRANSFORMERS_FILE = replace(
    TRANSFORMERS,
    block="encoder.layer.{}.",
    parts={
        "layernorm_before.": ("layernorm_before.",),
        "attention.qkv.": ("attention.attention.query.", "attention.attention.key.", "attention.attention.value."),
        "attention.proj.": ("attention.output.dense.",),
        "layernorm_after.": ("layernorm_after.",),
        "mlp.fc1.": ("intermediate.dense.",),
        "mlp.fc2.": ("output.dense.",),
    },
)

TIMM = KeyMapping(
    library="timm",
    cls_token="cls_token",
    position_embeddings="pos_embed",
    projection="patch_embed.proj.",
    layernorm="norm.",
    head="head.",
    block="blocks.{}.",
    parts={
        "layernorm_before.": ("norm1.",),
        "attention.qkv.": ("attn.qkv.",),
        "attention.proj.": ("attn.proj.",),
        "layernorm_after.": ("norm2.",),
        "mlp.fc1.": ("mlp.fc1.",),
        "mlp.fc2.": ("mlp.fc2.",),
    },
    layer_norm_eps=1e-6,
    image_mean=HALF,
    image_std=HALF,
    layer_scale="ls{}.gamma",
    register_tokens=("reg_token", "register_tokens"),  # of timm, of the authors
    swiglu=({"mlp.fc1.": ("mlp.w12.",), "mlp.fc2.": ("mlp.w3.",)},),  # of the authors; those of timm are as usual
)

DINOV2 = KeyMapping(
    library="transformers' DINOv2",
    cls_token="embeddings.cls_token",
    position_embeddings="embeddings.position_embeddings",
    projection="embeddings.patch_embeddings.projection.",
    layernorm="layernorm.",
    head="classifier.",
    block="encoder.layer.{}.",
    parts={
        "layernorm_before.": ("norm1.",),
        "attention.qkv.": ("attention.q_proj.", "attention.k_proj.", "attention.v_proj."),
        "attention.proj.": ("attention.o_proj.",),
        "layernorm_after.": ("norm2.",),
        "mlp.fc1.": ("mlp.fc1.",),
        "mlp.fc2.": ("mlp.fc2.",),
    },
    layer_norm_eps=1e-6,
    image_mean=IMAGENET_MEAN,
    image_std=IMAGENET_STD,
    ignored_keys=("embeddings.mask_token",),
    layer_scale="layer_scale{}.lambda1",
    register_tokens=("embeddings.register_tokens",),
    swiglu=({"mlp.fc1.": ("mlp.gate_proj.", "mlp.up_proj."), "mlp.fc2.": ("mlp.down_proj.",)},),
)

DINOV2_FILE = replace(
    DINOV2,
    parts={
        **DINOV2.parts,
        "attention.qkv.": ("attention.attention.query.", "attention.attention.key.", "attention.attention.value."),
        "attention.proj.": ("attention.output.dense.",),
    },
    swiglu=({"mlp.fc1.": ("mlp.weights_in.",), "mlp.fc2.": ("mlp.weights_out.",)},),
)

TRANSFORMERS_CLASSIFIER = TRANSFORMERS.prefixed("vit.")
DINOV2_PREFIXES = ("dinov2.", "dinov2_with_registers.")

# For each mapping a tensor that only it has; a name that ends like a later one must come before it.
SENTINELS = {
    **{f"{prefix}encoder.layer.0.attention.q_proj.weight": DINOV2.prefixed(prefix) for prefix in DINOV2_PREFIXES},
    "encoder.layer.0.attention.q_proj.weight": DINOV2,
    **{f"{prefix}encoder.layer.0.layer_scale1.lambda1": DINOV2_FILE.prefixed(prefix) for prefix in DINOV2_PREFIXES},
    "encoder.layer.0.layer_scale1.lambda1": DINOV2_FILE,
    "encoder.layers.encoder_layer_0.mlp.linear_1.weight": TORCHVISION_FILE,
    "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": TORCHVISION,
    "vit.encoder.layer.0.attention.attention.query.weight": TRANSFORMERS_FILE.prefixed("vit."),
    "encoder.layer.0.attention.attention.query.weight": TRANSFORMERS_FILE,
    "vit.layers.0.attention.q_proj.weight": TRANSFORMERS_CLASSIFIER,
    "layers.0.attention.q_proj.weight": TRANSFORMERS,
    "blocks.0.attn.qkv.weight": TIMM,
}
OURS = ("vit.layers.0.attention.qkv.weight", "layers.0.attention.qkv.weight")


def locate(names: Collection[str]) -> tuple[KeyMapping | None, str, list[str]]:
    """Return the mapping of a ViT among these names, its sentinel tensor, and the prefixes of that tensor.

    The mapping is None for a model of ours. Prefixes are empty without a ViT.
    """
    mappings: dict[str, KeyMapping | None] = SENTINELS | dict.fromkeys(OURS)
    for sentinel, mapping in mappings.items():
        starts = [name.removesuffix(sentinel) for name in names if name.endswith(sentinel)]
        if prefixes := [prefix for prefix in starts if not prefix or prefix.endswith(".")]:
            return mapping, sentinel, prefixes
    return None, "", []


def recognise(names: Collection[str]) -> KeyMapping:
    """Return the mapping of a ViT's tensors.

    Raises:
        WeightsError: No library's ViT has such names.
    """
    mapping, _, prefixes = locate(names)
    if "" not in prefixes:
        raise not_a_vit(names)
    if mapping is None:
        raise ours_needs_its_folder()
    return mapping


def not_a_vit(names: Iterable[str]) -> WeightsError:
    """Build the error for names that belong to no known ViT."""
    names = list(names)
    came = f"{len(names)} tensors: {listed(sorted(names))}" if names else "no tensors"
    return WeightsError(
        f"not a ViT of torchvision, transformers or timm: expected one of {', '.join(SENTINELS)}; got {came}"
    )


def ours_needs_its_folder() -> WeightsError:
    """Build the error for bare tensors of a model of ours."""
    return WeightsError("these are tensors of a CelluScan model: give its folder, with config.json")


def listed(names: Iterable[str], most: int = 5) -> str:
    """Join names for a message, at most the first `most` of them."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
