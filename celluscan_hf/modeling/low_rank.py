"""Low-rank adapters (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685) beside the matrices of a model's blocks.

They are put into a hand-built model, trained with its head, and merged into its weights at the end, so that what is
saved is a plain model. Needs the extra `adapt`.
"""

from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from .errors_celluscan import CelluScanError
from .reliability_celluscan import head_of

if TYPE_CHECKING:
    from peft import LoraModel

MATRICES = ["qkv", "proj", "fc1", "fc2"]


def add_adapters(model: PreTrainedModel, rank: int) -> "LoraModel":
    """Freeze a hand-built model but for its head, and put adapters of this rank into it; give the result to `merge`.

    Raises:
        CelluScanError: The extra `adapt` is not installed.
    """
    try:
        from peft import LoraConfig, LoraModel
    except ImportError as error:
        raise CelluScanError('low-rank adapters need peft: pip install "celluscan_hf[adapt]"') from error
    adapted = LoraModel(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MATRICES), "default")
    head_of(model).requires_grad_(True)
    return adapted


def merge(adapted: "LoraModel") -> PreTrainedModel:
    """Add the adapters to the matrices that they stand beside: the model, plain again, with the same answers."""
    model: PreTrainedModel = adapted.merge_and_unload()
    return model.requires_grad_(True)
