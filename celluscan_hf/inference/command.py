"""The commands `celluscan predict`, `explain` and `export-onnx`."""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CelluScanError
from ..processes import Processes, number_of_processes
from ..remote import local_only, locate
from ..workers import add_ray
from .arguments import add_model, add_trust, add_views

if TYPE_CHECKING:  # importing it takes seconds, which --help need not wait for
    from .predict import Summary

OUTPUT_SUFFIXES = (".csv", ".json", ".jsonl", ".ndjson", ".parquet")


def predict(parser: argparse.ArgumentParser, arguments: Sequence[str], processes: Processes) -> None:
    """Classify image files and print or write a row for each; see `predict.predict`."""
    parser.add_argument(
        "images",
        nargs="*",
        metavar="IMAGES",
        help="image files, folders of them, quoted patterns such as 'cells/**/*.jpg', or parquet files with a column "
        "image; with --ray also the folders of built datasets",
    )
    parser.add_argument(
        "--list",
        dest="lists",
        action="append",
        default=[],
        metavar="FILE",
        help="a text file with one path a line, or - for standard input; repeatable",
    )
    add_model(parser)
    add_trust(parser)
    add_views(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", dest="form", action="store_const", const="json", help="write JSON lines")
    form.add_argument("--csv", dest="form", action="store_const", const="csv", help="write CSV (default)")
    parser.add_argument(
        "--output",
        type=locate,
        metavar="FILE",
        help="a new file, .csv, or .jsonl for JSON lines (default: rows are printed); with --ray a folder",
    )
    parser.add_argument(
        "--top-k", type=int, default=3, metavar="K", help="labels per image, likeliest first (default: 3)"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per forward pass (default: 64)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--coverage",
        type=float,
        default=0.9,
        metavar="SHARE",
        help="coverage of the prediction sets of a calibrated model (default: 0.9)",
    )
    _add_ray(parser)
    options = parser.parse_args(arguments)
    if not options.images and not options.lists:
        parser.error("the following arguments are required: IMAGES, or --list")
    summary = _predict_on_ray(options) if options.ray else _predict(options, processes)
    if processes.is_first:
        print(summary, file=sys.stderr)


def _add_ray(parser: argparse.ArgumentParser) -> None:
    add_ray(parser)
    parser.add_argument(
        "--shard-size", type=int, metavar="N", help="with --ray: images of one output file, about (default: 2048)"
    )
    parser.add_argument(
        "--actor-cores",
        type=int,
        metavar="N",
        help="with --ray: cores of each process that holds the model (default: 1, or a GPU's share of its machine)",
    )


def _predict(options: argparse.Namespace, processes: Processes) -> "Summary":
    if options.shard_size or options.actor_cores:
        raise CelluScanError("--shard-size and --actor-cores go with --ray")

    from .predict import predict as predict_images

    return predict_images(
        options.images,
        options.model,
        options.output,
        form=options.form,
        top_k=options.top_k,
        batch_size=options.batch_size,
        device=options.device,
        coverage=options.coverage,
        views=options.views,
        trust_remote_code=options.trust_remote_code,
        lists=options.lists,
        processes=processes,
    )


def _predict_on_ray(options: argparse.Namespace) -> "Summary":
    if number_of_processes() > 1:
        raise CelluScanError("--ray starts its own processes: leave torchrun or accelerate launch out")
    if options.form:
        raise CelluScanError(f"--{options.form} cannot be used with --ray, which writes parquet; leave it out")
    if options.output is None or options.output.suffix.lower() in OUTPUT_SUFFIXES:
        raise CelluScanError(f"--output {options.output or ''}: with --ray expected a folder, such as out/predictions")
    output = local_only(str(options.output))

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from .predict_ray import predict_on_ray
    from .shard_predictor import SHARD_IMAGES, Settings

    settings = Settings(
        options.top_k, options.batch_size, options.coverage, options.views, options.shard_size or SHARD_IMAGES
    )
    return predict_on_ray(
        options.images,
        options.model,
        output,
        options.ray,
        settings=settings,
        device=options.device,
        trust_remote_code=options.trust_remote_code,
        lists=options.lists,
        cores=options.actor_cores,
    )


def explain(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Draw attention rollout and every head of one layer; see `explain.explain`."""
    parser.add_argument("image", type=Path, metavar="IMAGE", help="an image file of one cell")
    add_model(parser)
    add_trust(parser)
    add_views(parser)
    parser.add_argument(
        "--output",
        type=local_only,
        metavar="FILE.png",
        help="output image (default: <image>-attention.png in the current folder)",
    )
    parser.add_argument(
        "--layer", type=int, default=-1, help="layer whose heads are drawn, 1 is the first (default: the last)"
    )
    options = parser.parse_args(arguments)

    from .explain import explain as draw

    output = options.output or Path(f"{options.image.stem}-attention.png")
    choices = {"views": options.views, "trust_remote_code": options.trust_remote_code}
    print(draw(options.image, options.model, output, options.layer, **choices))


def export_onnx(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Write a model as ONNX and compare its logits with PyTorch; see `onnx.export_onnx`."""
    add_model(parser, "model")
    add_trust(parser)
    parser.add_argument(
        "output", type=local_only, metavar="OUTPUT", help="the folder to be written; must be new or empty"
    )
    add_views(parser)
    options = parser.parse_intermixed_args(arguments)

    from .onnx import export_onnx as export

    choices = {"views": options.views, "trust_remote_code": options.trust_remote_code}
    written = export(options.model, options.output, **choices)
    print(f"{options.output / written.file.name}: {written.size / 1e6:.1f} MB")
    print(f"largest difference of a logit from PyTorch: {written.max_difference:.1e}")
