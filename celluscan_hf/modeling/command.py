"""The command `celluscan convert`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors_celluscan import CelluScanError

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

    from .conversion import Checkpoint

FORMATS = ("celluscan", "transformers", "torchvision", "timm")
NORMALIZATIONS = ("imagenet", "inception")
_DESCRIPTION = """Convert the weights of a ViT between torchvision, transformers, timm and ours.

FROM is `torchvision:vit_b_16`, a Hub repository or a folder with a ViT of transformers, timm or ours, a `.safetensors`
file, or a file that torch.save wrote (`.pth`, `.bin`, `.ckpt`, …), also with what trainers wrap around weights; a
`preprocessor_config.json` beside such a file is read too. TO is a new folder.
"""


def convert(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Read a checkpoint of one library and write it for another, with equal logits."""
    _add_arguments(parser)
    options = parser.parse_args(arguments)

    from safetensors import SafetensorError

    from .checkpoints import read_checkpoint
    from .configuration_celluscan import LABELS
    from .exporting import EXPORTS
    from .key_mapping import WeightsError

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    overrides = {
        name: value
        for name in ("num_attention_heads", "layer_norm_eps", "key")
        if (value := getattr(options, name)) is not None
    }
    overrides |= _statistics(options.normalization)
    try:
        if options.to.exists() and (not options.to.is_dir() or any(options.to.iterdir())):
            raise WeightsError(f"{options.to} exists and is not empty: give a new folder")
        checkpoint = read_checkpoint(options.source, revision=options.revision, **overrides)
        model = checkpoint.build(dict(enumerate(LABELS)) if options.celluscan_labels else None)
        EXPORTS[options.format](model, options.to, _processor(checkpoint))
    except (OSError, SafetensorError) as error:
        raise CelluScanError(str(error)) from error
    for name in checkpoint.ignored_keys:
        print(f"ignored: {name}")
    config = model.config
    print(
        f"{options.to}: {options.format}, {model.num_parameters():,} parameters, {config.num_labels} classes, "
        f"layer_norm_eps {config.layer_norm_eps}, image_mean {list(checkpoint.image_mean)}, image_std "
        f"{list(checkpoint.image_std)}"
    )


def _statistics(normalization: str | None) -> dict[str, Any]:
    """Mean and standard deviation of a normalization."""
    from .key_mapping import HALF, IMAGENET_MEAN, IMAGENET_STD

    if normalization is None:
        return {}
    mean, std = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "inception": (HALF, HALF)}[normalization]
    return {"image_mean": mean, "image_std": std}


def _processor(checkpoint: "Checkpoint") -> "BaseImageProcessor | None":
    """The image processor for this checkpoint; none, and a word on it, where the model takes no colour images."""
    from .processor import build_image_processor

    config = checkpoint.config
    if config.num_channels != 3:
        print(f"no image processor is written: ours makes 3 channels, this model takes {config.num_channels}")
        return None
    return build_image_processor(config.picture_size, checkpoint.image_mean, checkpoint.image_std, checkpoint.resized)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = _DESCRIPTION, argparse.RawDescriptionHelpFormatter
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("to", metavar="TO", type=Path)
    parser.add_argument("--format", choices=FORMATS, default="celluscan", help="output format (default: celluscan)")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub repository")
    parser.add_argument(
        "--celluscan-labels",
        action="store_true",
        help="name the outputs after the 14 classes; if their number differs, the head is reinitialized",
    )
    parser.add_argument(
        "--num-attention-heads", type=int, help="number of heads, if FROM does not say and the size is unusual"
    )
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="mean and standard deviation of images, if FROM does not say: imagenet (.485 .456 .406, .229 .224 "
        ".225; DINO, MAE, DeiT, torchvision) or inception (.5, .5; ViTs of timm and transformers)",
    )
    parser.add_argument("--key", help="which weights to take if a file holds several, such as student or model_ema")
    parser.add_argument(
        "--layer-norm-eps", type=float, help="epsilon of the layer norms, instead of that of FROM or its library"
    )
