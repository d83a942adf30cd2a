"""Checks of what a `CelluScanModel` is given, so that a mistake is named before it becomes a wrong answer.

This file is shipped with every checkpoint as remote code, so it stands alone: it imports nothing of this package but
the configuration beside it.
"""

import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from .configuration_celluscan import CelluScanConfig


def check_pixel_values(
    pixel_values: torch.Tensor, config: CelluScanConfig, any_size: bool, side: int | None = None
) -> None:
    """Check images before the forward pass. Raises a ValueError with what was expected and what came.

    `side` is that of the images in pixels, `image_size` by default.
    """
    side = side or config.image_size
    if not isinstance(pixel_values, torch.Tensor):
        raise ValueError(f"pixel_values must be a tensor, as the image processor makes it, got {type(pixel_values)}")
    expected = f"(batch, {config.num_channels}, {side}, {side})"
    got = tuple(pixel_values.shape)
    if pixel_values.dim() != 4 or got[1] != config.num_channels:
        raise ValueError(f"pixel_values must have the shape {expected}, got {got}")
    if got[0] == 0:
        raise ValueError(f"pixel_values must have the shape {expected} with at least one image, got none: {got}")
    if any_size and (0 in got or got[2] % config.patch_size or got[3] % config.patch_size):
        raise ValueError(
            f"height and width of pixel_values must be multiples of patch_size ({config.patch_size}), got {got}"
        )
    if not any_size and got[2:] != (side, side):
        raise ValueError(
            f"pixel_values must have the shape {expected}, got {got}; resize the image, or pass "
            "interpolate_pos_encoding=True"
        )
    if not pixel_values.is_floating_point():
        raise ValueError(f"pixel_values must be floating point, as the processor makes them, got {pixel_values.dtype}")
    if _values_can_be_read(pixel_values) and not pixel_values.sum(dtype=torch.float32).isfinite():
        raise ValueError(
            "pixel_values must be finite, got NaN or infinity: check the images and the processor's image_std"
        )


def check_labels(labels: torch.Tensor, logits: torch.Tensor) -> None:
    """Check labels against logits. Raises a ValueError with what was expected and what came."""
    if not isinstance(labels, torch.Tensor):
        raise ValueError(f"labels must be a tensor of class indices, got {type(labels)}")
    batch_size, num_labels = logits.shape
    if labels.shape != (batch_size,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be class indices of the shape ({batch_size},), got {labels.dtype} of {tuple(labels.shape)}"
        )
    outside = (labels < 0) | (labels >= num_labels)
    if _values_can_be_read(labels) and outside.any():
        raise ValueError(
            f"labels must lie in 0 to {num_labels - 1} for {num_labels} classes, got {labels[outside].tolist()}"
        )


def _values_can_be_read(tensor: torch.Tensor) -> bool:
    """Whether Python may branch on values: not while a graph is captured, nor on a wrapper or fake tensor."""
    if torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return False
    if type(tensor) is not torch.Tensor or tensor.is_meta:
        return False
    return not torch._C._functorch.is_functorch_wrapped_tensor(tensor)
