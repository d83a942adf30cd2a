"""Convert the weights of a ViT between torchvision, transformers, timm and ours.

FROM is `torchvision:vit_b_16`, a Hub repository or a folder with a ViT of transformers, timm or ours, a `.safetensors`
file, or a file that torch.save wrote (`.pth`, `.bin`, `.ckpt`, …), also with what trainers wrap around weights; a
`preprocessor_config.json` beside such a file is read too. TO is a new folder.
"""

import argparse
import logging
import sys
from pathlib import Path

from safetensors import SafetensorError
from transformers import BaseImageProcessor

from celluscan_hf.modeling.checkpoints import read_checkpoint
from celluscan_hf.modeling.configuration_celluscan import LABELS
from celluscan_hf.modeling.conversion import Checkpoint
from celluscan_hf.modeling.exporting import EXPORTS
from celluscan_hf.modeling.key_mapping import HALF, IMAGENET_MEAN, IMAGENET_STD, WeightsError
from celluscan_hf.modeling.processor import build_image_processor

# What images are normalised by, in timm's words
NORMALIZATIONS = {
    "imagenet": {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD},
    "inception": {"image_mean": HALF, "image_std": HALF},
}


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    arguments = parse_arguments()
    given = {
        name: value
        for name in ("num_attention_heads", "layer_norm_eps", "key")
        if (value := getattr(arguments, name)) is not None
    }
    given |= NORMALIZATIONS.get(arguments.normalization, {})
    try:
        if arguments.to.exists() and (not arguments.to.is_dir() or any(arguments.to.iterdir())):
            raise WeightsError(f"{arguments.to} exists and is not empty: give a new folder")
        checkpoint = read_checkpoint(arguments.source, revision=arguments.revision, **given)
        model = checkpoint.build(dict(enumerate(LABELS)) if arguments.celluscan_labels else None)
        EXPORTS[arguments.format](model, arguments.to, _processor(checkpoint))
    except (WeightsError, OSError, SafetensorError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name in checkpoint.ignored_keys:
        print(f"left aside: {name}")
    config = model.config
    print(
        f"{arguments.to}: {arguments.format}, {model.num_parameters():,} parameters, {config.num_labels} classes, "
        f"layer_norm_eps {config.layer_norm_eps}, image_mean {list(checkpoint.image_mean)}, image_std "
        f"{list(checkpoint.image_std)}"
    )
    return 0


def _processor(checkpoint: Checkpoint) -> BaseImageProcessor | None:
    """The image processor for this checkpoint; none, and a word on it, where the model takes no colour images."""
    config = checkpoint.config
    if config.num_channels != 3:
        print(f"no image processor is written: ours makes 3 channels, this model takes {config.num_channels}")
        return None
    return build_image_processor(config.image_size, checkpoint.image_mean, checkpoint.image_std, checkpoint.resized)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="FROM")
    parser.add_argument("to", metavar="TO", type=Path)
    parser.add_argument("--format", choices=EXPORTS, default="celluscan", help="what to write (default: ours)")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub repository")
    parser.add_argument(
        "--celluscan-labels",
        action="store_true",
        help="name the outputs after the 14 classes; with another number of outputs the head is made anew",
    )
    parser.add_argument("--num-attention-heads", type=int, help="where FROM does not say and the size is unusual")
    parser.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        help="mean and standard deviation of images, where FROM does not say: imagenet (.485 .456 .406, .229 .224 "
        ".225; DINO, MAE, DeiT, torchvision) or inception (.5, .5; ViTs of timm and transformers)",
    )
    parser.add_argument("--key", help="which weights to take where a file holds several, such as student or model_ema")
    parser.add_argument("--layer-norm-eps", type=float, help="instead of what FROM says or its library takes")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
