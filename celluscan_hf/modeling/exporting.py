"""Our models as checkpoints on disk: our own, the library's native ViT, torchvision's, timm's. All safetensors."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import BaseImageProcessor

from .conversion import to_timm, to_torchvision, to_transformers
from .modeling_celluscan import CelluScanForImageClassification
from .naming import TIMM, TORCHVISION, WeightsError


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
    """
    to_transformers(model).save_pretrained(folder)
    _save_processor(processor, folder)


def export_hand_built(
    model: CelluScanForImageClassification, folder: str | Path, processor: BaseImageProcessor | None = None
) -> None:
    """Writes our own checkpoint, with the two Python files that `trust_remote_code` runs. Arguments as above."""
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
        described["pretrained_cfg"] = {"mean": tuple(processor.image_mean), "std": tuple(processor.image_std)}
    save_for_hf(native, str(folder), model_config=described, safe_serialization=True)


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
