"""A Vision Transformer for single blood cells, written to be read from top to bottom.

The model of Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words" (https://arxiv.org/abs/2010.11929), with
pre-norm blocks. An image is cut into patches, each patch becomes a token, a class token is put in front, positions are
added; then every block mixes the tokens (attention) and transforms each of them on its own (MLP); a linear
classifier reads the class token. `celluscan_hf/modeling/README.md` of the project walks through it with numbers.

Three parts are of DINOv2 and off by default: `LayerScale`, `SwiGLU`, and register tokens.

Letters in the comments on shapes: B images, C channels, H x W pixels, P pixels a patch side, R register tokens,
N tokens = 1 + R + number of patches, D = hidden_size, h heads, d = D / h, L labels.

This file is shipped with every checkpoint as remote code, so it stands alone: it imports nothing of this package.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs

from .checks_celluscan import check_labels, check_pixel_values
from .configuration_celluscan import CelluScanConfig
from .looks_celluscan import looks, symmetries


class PatchEmbedding(nn.Module):
    """Pixels to tokens: (B, C, H, W) -> (B, N, D).

    Projects every patch to D numbers, puts the class token in front and adds a learned position to each token. Register
    tokens, which have no position, follow the class token.
    """

    def __init__(self, config: CelluScanConfig) -> None:
        super().__init__()
        self.config = config
        self.grid_size = config.image_size // config.patch_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + self.grid_size**2, config.hidden_size))
        registers, shape = config.num_register_tokens, (1, config.num_register_tokens, config.hidden_size)
        self.register_tokens = nn.Parameter(torch.zeros(shape)) if registers else None
        self.projection = convolutional_stem(config) if config.patch_stem == "convolution" else linear_stem(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        patches = self.projection(pixel_values)  # (B, D, H/P, W/P)
        positions: torch.Tensor = self.position_embeddings  # (1, N, D)
        if interpolate_pos_encoding:
            positions = self.interpolated_positions(patches.shape[-2], patches.shape[-1])
        tokens = patches.flatten(2).transpose(1, 2)  # (B, patches, D)
        cls_token = self.cls_token.expand(tokens.shape[0], -1, -1)  # (B, 1, D)
        tokens = torch.cat((cls_token, tokens), dim=1) + positions  # (B, N - R, D)
        if self.register_tokens is not None:
            registers = self.register_tokens.expand(tokens.shape[0], -1, -1)  # (B, R, D)
            tokens = torch.cat((tokens[:, :1], registers, tokens[:, 1:]), dim=1)  # (B, N, D)
        return self.dropout(tokens)

    def interpolated_positions(self, rows: int, columns: int) -> torch.Tensor:
        """The position table for a grid of `rows` x `columns` patches, bicubic: (1, 1 + rows * columns, D)."""
        if rows == columns == self.grid_size:
            return self.position_embeddings
        cls_position, patch_positions = self.position_embeddings.split((1, self.grid_size**2), dim=1)
        grid = patch_positions.unflatten(1, (self.grid_size, self.grid_size)).permute(0, 3, 1, 2)
        grid = nn.functional.interpolate(grid.float(), size=(rows, columns), mode="bicubic", align_corners=False)
        patch_positions = grid.to(patch_positions.dtype).flatten(2).transpose(1, 2)
        return torch.cat((cls_position, patch_positions), dim=1)


def standardize_colors(pixel_values: torch.Tensor) -> torch.Tensor:
    """Take off each image's background colour, and divide by the standard deviation of what is left: same shape.

    The background is most of an image, so its colour is the median of each channel.
    """
    half = pixel_values.flatten(2).shape[2] // 2 + 1  # of the pixels; the least of the brighter half is the median
    background = pixel_values.flatten(2).topk(half, dim=2, sorted=False).values.amin(dim=2)  # (B, C), as ONNX knows it
    contrast = pixel_values - background[:, :, None, None]
    return contrast / contrast.std(dim=(1, 2, 3), keepdim=True).clamp_min(1e-3)


def linear_stem(config: CelluScanConfig) -> nn.Module:
    """One linear map for every patch, (B, C, H, W) -> (B, D, H/P, W/P): a convolution that steps by its own size."""
    return nn.Conv2d(config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size)


def convolutional_stem(config: CelluScanConfig) -> nn.Module:
    """Small convolutions, each halving the image, then a 1x1 projection: (B, C, H, W) -> (B, D, H/P, W/P).

    The early convolutions of Xiao et al. 2021 (https://arxiv.org/abs/2106.14881): 3x3, stride 2, batch norm, ReLU,
    channels doubling up to D.
    """
    halvings = int(math.log2(config.patch_size))
    widths = [config.num_channels] + [config.hidden_size >> step for step in range(halvings - 1, -1, -1)]
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [
            nn.Conv2d(width_in, width_out, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width_out),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], config.hidden_size, kernel_size=1))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled dot-product attention by hand. The fused kernels compute the same without keeping the weights.

    `query`, `key`, `value`: (B, h, N, d); `attention_mask` is added to the scores. Returns the mixed values
    (B, N, h, d) and the weights (B, h, N, N), whose rows sum to one.
    """
    scores = query @ key.transpose(2, 3) * scaling  # (B, h, N, N): how well each query fits each key
    if attention_mask is not None:
        scores = scores + attention_mask
    # in float32: half precision would lose the small weights
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    mixed = weights @ value  # (B, h, N, d): values, averaged by these weights
    return mixed.transpose(1, 2), weights


class MultiHeadSelfAttention(nn.Module):
    """Every token is updated from all tokens, in h heads side by side: (B, N, D) -> (B, N, D).

    With `num_queries` only that many leading tokens are computed: (B, num_queries, D).
    """

    def __init__(self, config: CelluScanConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False  # every token sees every token; without this line sdpa would apply a causal mask
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.qkv_bias)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_queries: int | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch_size, num_tokens, _ = hidden_states.shape
        qkv = self.qkv(hidden_states)  # (B, N, 3 D): queries, keys and values in one product
        qkv = qkv.view(batch_size, num_tokens, 3, -1, self.head_dim)  # (B, N, 3, h, d): split into heads
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, h, N, d)
        # the function above, or a fused kernel that computes the same
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attend(
            self,
            query[:, :, :num_queries],
            key,
            value,
            attention_mask=attention_mask,
            dropout=self.config.attention_probs_dropout_prob if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )  # (B, N, h, d)
        mixed = mixed.flatten(2)  # (B, N, D): heads merged
        return self.dropout(self.proj(mixed)), weights


class MLP(nn.Module):
    """Each token on its own through a wider layer and back: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: CelluScanConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = self.dropout(self.activation(self.fc1(hidden_states)))  # (B, N, intermediate_size)
        return self.dropout(self.fc2(hidden_states))  # (B, N, D)


class SwiGLU(nn.Module):
    """An MLP whose hidden layer is one half of a wider one, gated by the other half: (B, N, D) -> (B, N, D)."""

    def __init__(self, config: CelluScanConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, 2 * config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, values = self.fc1(hidden_states).chunk(2, dim=-1)  # each (B, N, intermediate_size)
        return self.dropout(self.fc2(self.dropout(nn.functional.silu(gate) * values)))  # (B, N, D)


class LayerScale(nn.Module):
    """A learned factor for each of the D numbers of a branch, small at first, so that deep stacks train."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.full((width,), start))

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        return branch * self.factors


class StochasticDepth(nn.Module):
    """In training, drops a whole branch for a random share of the images and scales up the others."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: torch.Tensor) -> torch.Tensor:
        if not self.training or self.probability == 0.0:
            return branch
        kept = 1.0 - self.probability
        mask = branch.new_empty(branch.shape[0], 1, 1).bernoulli_(kept)
        return branch * (mask / kept)


class TransformerBlock(GradientCheckpointingLayer):
    """Attention, then MLP, each on normalised tokens and added to what came in: (B, N, D) -> (B, N, D).

    With `num_queries` only that many leading tokens are computed: (B, N, D) -> (B, num_queries, D).
    """

    def __init__(self, config: CelluScanConfig, drop_path_rate: float = 0.0) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = MultiHeadSelfAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SwiGLU(config) if config.mlp == "swiglu" else MLP(config)
        start = config.layer_scale_init
        self.layer_scale1 = nn.Identity() if start is None else LayerScale(config.hidden_size, start)
        self.layer_scale2 = nn.Identity() if start is None else LayerScale(config.hidden_size, start)
        self.drop_path = StochasticDepth(drop_path_rate)

    def forward(self, hidden_states: torch.Tensor, num_queries: int | None = None, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.attention(self.layernorm_before(hidden_states), num_queries=num_queries, **kwargs)
        hidden_states = hidden_states[:, :num_queries] + self.drop_path(self.layer_scale1(attended))
        transformed = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self.drop_path(self.layer_scale2(transformed))


class ViTClassifier(nn.Module):
    """The head: one score per label from what is pooled, (B, D) -> (B, L); D twice with `cls_mean`."""

    def __init__(self, config: CelluScanConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(config.hidden_size * (1 + (config.pooling == "cls_mean")), config.num_labels)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        return self.linear(pooled)


class CelluScanPreTrainedModel(PreTrainedModel):
    """Base class: how the library initializes, loads, saves, shards and compiles these models."""

    config_class = CelluScanConfig
    base_model_prefix = "vit"
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["PatchEmbedding", "TransformerBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": TransformerBlock, "attentions": MultiHeadSelfAttention}

    def __init__(self, config: CelluScanConfig) -> None:
        config.check_fields()  # again: fields given while loading, or set later, were not checked
        super().__init__(config)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as the library does, but from safetensors only: a pickle can run code when it is opened."""
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError("weights are read from model.safetensors only, got use_safetensors=False")
        return super().from_pretrained(*args, use_safetensors=True, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.base_model.embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # linear, convolution and norm layers
        if isinstance(module, PatchEmbedding):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            if module.register_tokens is not None:
                init.trunc_normal_(module.register_tokens, std=self.config.initializer_range)
        elif isinstance(module, LayerScale):
            init.constant_(module.factors, self.config.layer_scale_init)


class CelluScanModel(CelluScanPreTrainedModel):
    """The Vision Transformer without a head."""

    _auto_class = "AutoModel"

    def __init__(self, config: CelluScanConfig) -> None:
        super().__init__(config)
        depth = config.num_hidden_layers
        drop_path_rates = [config.drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        self.embeddings = PatchEmbedding(config)
        self.layers = nn.ModuleList([TransformerBlock(config, rate) for rate in drop_path_rates])
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor,
        interpolate_pos_encoding: bool = False,
        attention_mask: torch.Tensor | None = None,
        pooled_only: bool = False,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode images as tokens.

        Args:
            pixel_values: (B, C, H, W), normalised by the image processor; H = W = `image_size`, or any multiple of
                `patch_size` with `interpolate_pos_encoding`.
            interpolate_pos_encoding: Resize the position table to the image.
            attention_mask: (B, N), zero for tokens to ignore; or, in the form that the attention kernel takes,
                (B, 1, N, N). By default every token sees every token.
            pooled_only: Compute only the class token in the last block, as nothing reads the others when `pooling`
                is `"cls"`: the same `pooler_output` for less work, and a `last_hidden_state` of (B, 1, D). Has no
                effect with an `attention_mask`.
            **kwargs: `output_hidden_states`, `output_attentions` (needs `attn_implementation="eager"`), and options
                of the attention kernel. Names that the model does not know are ignored, as in the library's ViT.

        Returns:
            `last_hidden_state` (B, N, D) and `pooler_output` (B, D), or (B, 2 D) with `cls_mean`, both after the last
            LayerNorm. On request
            `hidden_states`, num_hidden_layers + 1 of (B, N, D), and `attentions`, num_hidden_layers of (B, h, N, N).

        Raises:
            ValueError: `pixel_values` has the wrong shape or type, is empty, or holds NaN or infinity. The last is not
                checked when values cannot be read (`torch.compile`, `torch.export`, `torch.func.vmap`); otherwise
                the check synchronizes with the GPU once per call.
        """
        check_pixel_values(pixel_values, self.config, interpolate_pos_encoding)
        pooling = self.config.pooling
        if self.config.input_norm == "image":
            pixel_values = standardize_colors(pixel_values)
        pixel_values = pixel_values.to(self.layernorm.weight.dtype)  # the norms' dtype, as weights may be quantized
        hidden_states = self.embeddings(pixel_values, interpolate_pos_encoding=interpolate_pos_encoding)
        if attention_mask is not None:
            pooled_only = False  # the mask has a row for every query
            attention_mask = create_bidirectional_mask(self.config, hidden_states, attention_mask)
        kwargs |= {"attention_mask": attention_mask, "num_queries": None}  # whatever the caller's kwargs hold
        *blocks, last_block = self.layers
        for block in blocks:
            hidden_states = block(hidden_states, **kwargs)
        kwargs["num_queries"] = 1 if pooled_only and pooling == "cls" else None
        hidden_states = last_block(hidden_states, **kwargs)
        hidden_states = self.layernorm(hidden_states)  # (B, N, D), or (B, 1, D)
        pooled = hidden_states[:, 0]  # (B, D): the class token
        if pooling != "cls":
            mean = hidden_states[:, 1 + self.config.num_register_tokens :].mean(dim=1)  # (B, D), of the patches
            pooled = torch.cat((pooled, mean), dim=1) if pooling == "cls_mean" else mean
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=pooled)


class CelluScanForImageClassification(CelluScanPreTrainedModel):
    """The Vision Transformer with a linear classifier on top: one logit per cell class."""

    _auto_class = "AutoModelForImageClassification"

    def __init__(self, config: CelluScanConfig) -> None:
        super().__init__(config)
        self.vit = CelluScanModel(config)
        self.classifier = ViTClassifier(config)
        self.post_init()

    def all_looks(self, pixel_values: torch.Tensor, any_size: bool) -> tuple[torch.Tensor, int]:
        """All looks at each image, look by look, and their number: (B, C, H, W) -> (looks * B, C, H, W)."""
        config = self.config
        views = 1 if self.training else config.views
        crops = config.crops if pixel_values.shape[-1] != config.image_size else []
        if views > 1 or crops:
            check_pixel_values(pixel_values, config, any_size, config.picture_size if crops else None)
        if crops:
            pixel_values = looks(pixel_values, crops, config.image_size)
        if views > 1:
            pixel_values = symmetries(pixel_values, views)
        return pixel_values, views * max(len(crops), 1)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        attention_mask: torch.Tensor | None = None,
        pooled_only: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput:
        """Compute logits (B, L), and the loss if `labels` (B) are given as class indices in [0, L).

        The other arguments, `hidden_states` and `attentions` are those of `CelluScanModel.forward`. `pooled_only` is
        True by default, so that a hook on the last block sees one token, unless hidden states or attentions are
        requested. With `views` or `crops` in the config, the classifier reads the mean over all looks at an image;
        hidden states and attentions are those of the first, the whole image as it is. In training there is one view.
        Images of `image_size` are looked at as they are, whatever `crops` says.

        Raises:
            ValueError: `pixel_values` or `labels` do not fit the model.
        """
        if pooled_only is None:
            flags = ("output_hidden_states", "output_attentions")
            pooled_only = not any(kwargs.get(flag, getattr(self.config, flag)) for flag in flags)
        pixel_values, views = self.all_looks(pixel_values, interpolate_pos_encoding)
        outputs = self.vit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            attention_mask=attention_mask,
            pooled_only=pooled_only,
            return_dict=True,
            **kwargs,
        )
        pooled = outputs.pooler_output  # (views * B, D), with the crops counted as views
        logits = self.classifier(pooled.unflatten(0, (views, -1)).mean(dim=0) if views > 1 else pooled)
        loss = None
        if labels is not None:
            check_labels(labels, logits)
            # the library's loss handles how Trainer counts images under gradient accumulation
            loss = self.loss_function(labels.long(), logits, self.config, **kwargs)
        hidden_states, attentions = outputs.hidden_states, outputs.attentions
        if views > 1:  # keep those of the first view, the image as it is
            hidden_states = hidden_states and tuple(states[: len(logits)] for states in hidden_states)
            attentions = attentions and tuple(weights[: len(logits)] for weights in attentions)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states, attentions=attentions)


__all__ = ["CelluScanForImageClassification", "CelluScanModel", "CelluScanPreTrainedModel"]
