"""Attention maps of a Vision Transformer: single heads, and attention rollout through all layers.

Rollout follows Abnar & Zuidema 2020, "Quantifying Attention Flow in Transformers"
(https://arxiv.org/abs/2005.00928). Attention says which patches were mixed into the result, not why a class was chosen.

Letters in the comments on shapes: B images, h heads, N tokens = the class token, then register
tokens if there are any, then the patches, row by row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ..errors import CelluScanError


@dataclass(frozen=True, slots=True)
class AttentionRecord:
    """The attention of a model for a batch of images.

    Attributes:
        logits: (B, labels) from the same forward pass.
        layers: The attention of every layer, first to last, each (B, h, N, N); rows sum to one.
        grid: Numbers of rows and columns of patches.
        pooling: What the classifier reads: the class token (`"cls"`), the mean of the patch tokens (`"mean"`), or both
            (`"cls_mean"`).
        prefix: Number of tokens before the patches.
    """

    logits: torch.Tensor
    layers: tuple[torch.Tensor, ...]
    grid: tuple[int, int]
    pooling: str
    prefix: int = 1

    def rollout(self) -> torch.Tensor:
        """Compute how much each patch contributes to what the classifier reads, (B, rows, columns), summing to one."""
        share = self._on_patches(rollout(self.layers))
        return share / share.sum(dim=(-2, -1), keepdim=True)

    def heads(self, layer: int = -1) -> torch.Tensor:
        """Return each head's attention in one layer, from what the classifier reads to patches: (B, h, rows, columns).

        Each map sums to one minus the attention to the tokens that are no patches.

        Args:
            layer: From 1 (first) to the number of layers, or from -1 (last) backwards.

        Raises:
            CelluScanError: There is no such layer.
        """
        count = len(self.layers)
        if layer == 0 or abs(layer) > count:
            raise CelluScanError(
                f"layer {layer} does not exist; expected 1 (first) to {count}, or -1 (last) to -{count}"
            )
        return self._on_patches(self.layers[layer - 1 if layer > 0 else layer].float())

    def _on_patches(self, attention: torch.Tensor) -> torch.Tensor:
        """(…, N, N) -> (…, rows, columns): the row of what the classifier reads, over patches only."""
        of_class, of_patches = attention[..., 0, :], attention[..., self.prefix :, :].mean(dim=-2)  # (…, N)
        row = {"cls": of_class, "mean": of_patches, "cls_mean": (of_class + of_patches) / 2}[self.pooling]
        return row[..., self.prefix :].reshape(*row.shape[:-1], *self.grid)


def rollout(layers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiply attention through all layers: `layers`, first to last, each (B, h, N, N) -> (B, N, N).

    Heads are averaged, the identity is added for the residual connection, rows are normalised to one, and the layers
    are multiplied. Row i holds the contribution of each input token to token i of the last layer; it sums to one.
    """
    flow: torch.Tensor | None = None
    for attention in layers:
        mixed = attention.float().mean(dim=1)  # (B, N, N)
        mixed = mixed + torch.eye(mixed.shape[-1], device=mixed.device)
        mixed = mixed / mixed.sum(dim=-1, keepdim=True)
        flow = mixed if flow is None else mixed @ flow
    if flow is None:
        raise ValueError("rollout needs the attention of at least one layer, got none")
    return flow


def record_attention(model: PreTrainedModel, pixel_values: torch.Tensor) -> AttentionRecord:
    """Run the model once, in evaluation mode, and keep the attention of all layers.

    Args:
        model: `CelluScanForImageClassification` or `ViTForImageClassification`, with `attn_implementation="eager"`.
        pixel_values: (B, channels, height, width), from the image processor.

    Raises:
        CelluScanError: The model uses a fused kernel, which does not return attention, or is not such a ViT.
    """
    kernel = getattr(model.config, "_attn_implementation", None)
    if kernel != "eager":
        raise CelluScanError(
            f'attn_implementation "{kernel}" returns no attention; load the model with attn_implementation="eager", '
            'or call model.set_attn_implementation("eager")'
        )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            outputs = model(pixel_values.to(model.device, model.dtype), output_attentions=True)
    finally:
        model.train(was_training)
    layers = tuple(outputs.attentions or ())
    grid = _patch_grid(model, pixel_values, layers)
    pooling = getattr(model.config, "pooling", "cls")
    return AttentionRecord(outputs.logits, layers, grid, pooling, 1 + getattr(model.config, "num_register_tokens", 0))


def _patch_grid(model: PreTrainedModel, pixel_values: torch.Tensor, layers: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Return rows and columns of patches. Raises a `CelluScanError` if the attention is not over these patches."""
    patch_size = getattr(model.config, "patch_size", None)
    if isinstance(patch_size, int):
        cropped = getattr(model.config, "crops", None)  # the first look is at the whole image, made smaller
        sides = [model.config.image_size] * 2 if cropped else pixel_values.shape[-2:]
        rows, columns = (side // patch_size for side in sides)
        tokens = 1 + getattr(model.config, "num_register_tokens", 0) + rows * columns
        if layers and all(layer.shape[-2:] == (tokens, tokens) for layer in layers):
            return rows, columns
    raise CelluScanError(
        f"{type(model).__name__} is not a ViT with one class token and one token for each patch, so its attention "
        "cannot be drawn over the image"
    )
