"""Batch-norm statistics of another laboratory, from its images without labels.

A convolutional stem normalizes by means and variances of the images that it was trained on. Another microscope has
others, so they are estimated again (Li et al. 2017, https://arxiv.org/abs/1603.04779). With few images the estimate is
noisy, so it is mixed with the training statistics as if these were `PRIOR` images (Schneider et al. 2020,
https://arxiv.org/abs/2006.16971).
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import deepcopy

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import CelluScanError
from .prediction import Prepared, Read, prepare

PRIOR = 64  # images that the training statistics count as
MAX_IMAGES = 512  # more do not change the estimate


def adapted_copy(
    model: PreTrainedModel, processor: BaseImageProcessor, images: Sequence[Read], batch_size: int = 64
) -> PreTrainedModel:
    """Copy a model with the statistics of `images`, of which at most `MAX_IMAGES`, evenly spaced, are read.

    Raises:
        CelluScanError: See `use_target_statistics`.
    """
    step = -(-len(images) // MAX_IMAGES) or 1
    prepared = (prepare(processor, False, read) for read in images[::step])
    pixel_values = [item.pixel_values for item in prepared if isinstance(item, Prepared)]

    def batches() -> Iterable[torch.Tensor]:
        for start in range(0, len(pixel_values), batch_size):
            yield torch.stack(pixel_values[start : start + batch_size]).to(model.device, model.dtype)

    adapted = deepcopy(model)
    use_target_statistics(adapted, batches)
    return adapted


def batch_norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    """Return the batch norms of a model, in the order in which they run."""
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


@torch.no_grad()
def use_target_statistics(
    model: nn.Module, batches: Callable[[], Iterable[torch.Tensor]], prior: float = PRIOR
) -> None:
    """Replace the batch-norm statistics of a model, in place, by those of other images.

    One layer after the other, since the input of each depends on the statistics of those before it.

    Args:
        model: In evaluation mode afterwards.
        batches: Returns the `pixel_values` (B, C, H, W) of all images, on the model's device, for each layer anew.
        prior: Number of images that the training statistics count as; 0 replaces them.

    Raises:
        CelluScanError: The model has no batch norm, or there are no images.
    """
    layers = batch_norms(model)
    if not layers:
        raise CelluScanError(
            "the model has no batch norm whose statistics could be those of other images: a model with the patch stem "
            "`convolution` has, such as those of the recipes cpu-best and cpu-robust"
        )
    model.eval()
    for layer in layers:
        images, mean, variance = _input_statistics(model, layer, batches())
        share = images / (images + prior)
        old_mean, old_variance = layer.get_buffer("running_mean"), layer.get_buffer("running_var")
        between = share * (1 - share) * (mean - old_mean) ** 2
        old_variance.copy_((1 - share) * old_variance + share * variance + between)
        old_mean.copy_((1 - share) * old_mean + share * mean)


class _Reached(Exception):
    """The layer was reached: what comes after it is not needed."""


def _input_statistics(
    model: nn.Module, layer: nn.Module, batches: Iterable[torch.Tensor]
) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Number of images, and mean and variance of each channel of what a layer gets for them."""
    sums: list[torch.Tensor] = []  # of each batch: values, squares, and their number

    def add(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].double()
        count = torch.full_like(values[0, :, 0, 0], values[:, 0].numel())
        sums.append(torch.stack([values.sum(dim=(0, 2, 3)), (values**2).sum(dim=(0, 2, 3)), count]))
        raise _Reached

    images = 0
    hook = layer.register_forward_pre_hook(add)
    try:
        for pixel_values in batches:
            with suppress(_Reached):
                model(pixel_values=pixel_values)
            images += len(pixel_values)
    finally:
        hook.remove()
    if not images:
        raise CelluScanError("no image is left to take batch-norm statistics from")
    total, squares, count = torch.stack(sums).sum(dim=0)
    mean = total / count
    return images, mean, (squares / count - mean**2).clamp_min(0)
