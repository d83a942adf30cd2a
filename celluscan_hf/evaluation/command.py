"""The command `celluscan evaluate`: arguments and closing summary."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from ..errors import CelluScanError
from ..inference.arguments import add_model, add_trust, add_views
from ..processes import Processes
from ..remote import local_only
from ..sources import KEYS
from . import folder
from .job import EvaluationSettings
from .job import evaluate as run_evaluation
from .report import with_interval
from .wbc_metrics.wbc_metrics import SCALARS

HEADLINE = {name: scalar.title for name, scalar in SCALARS.items() if not scalar.needs_probabilities}


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "--leave-one-source-out --dataset FOLDER --output FOLDER: train without each source, and evaluate on it; "
        "its other options are those of celluscan audit left-out"
    )
    defaults = EvaluationSettings
    add_model(parser)
    add_views(parser)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--dataset", help="a built dataset: its folder, or the name of its repository on the Hub")
    data.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help=f"a folder, zip or tar of a raw dataset; keys: {', '.join(KEYS)}; repeatable",
    )
    parser.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="beside --dataset: a raw dataset of another laboratory, measured by itself; repeatable",
    )
    parser.add_argument(
        "--split", help="split of --dataset: train (originals only), validation or test (default: test)"
    )
    parser.add_argument(
        "--target-statistics",
        action="store_true",
        help="predict each --external source with the batch-norm statistics of its own images, without labels",
    )
    parser.add_argument(
        "--output",
        type=local_only,
        required=True,
        help="the folder to be written; new, empty, or an earlier evaluation",
    )
    parser.add_argument(
        "--batch-size", type=int, default=defaults.batch_size, help="images per forward pass (default: %(default)s)"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: a GPU if there is one)")
    parser.add_argument(
        "--resamples",
        type=int,
        default=defaults.resamples,
        help="bootstrap resamples for the intervals (default: %(default)s); 0 for none",
    )
    add_trust(parser)


def evaluate(parser: argparse.ArgumentParser, arguments: Sequence[str], processes: Processes) -> None:
    """Evaluate as the arguments say, and print the headline."""
    _add_arguments(parser)
    options = parser.parse_args(arguments)
    datasets.disable_progress_bars()
    metrics = run_evaluation(_settings(options), processes)
    if processes.is_first:
        print(summary(metrics, options.output))


def _settings(arguments: argparse.Namespace) -> EvaluationSettings:
    if arguments.source and arguments.split is not None:
        raise CelluScanError("--split needs --dataset; raw sources have no splits")
    return EvaluationSettings(
        model=arguments.model,
        output=arguments.output,
        dataset=arguments.dataset,
        split=arguments.split or EvaluationSettings.split,
        sources=tuple(arguments.source),
        external=tuple(arguments.external),
        target_statistics=arguments.target_statistics,
        batch_size=arguments.batch_size,
        device=arguments.device,
        resamples=arguments.resamples,
        views=arguments.views,
        trust_remote_code=arguments.trust_remote_code,
    )


def summary(metrics: dict[str, Any], output: Path) -> str:
    """Return the closing lines: the headline metrics, here and on each external source, and the files written."""
    lines = [_headline(metrics, metrics["data"]["dropped"], output)]
    if seen := metrics["data"].get("seen_sources"):
        lines.append(
            f"caution: the model was trained on cells of {', '.join(seen)}, maybe on some of these: expect less on "
            "cells of another laboratory"
        )
    lines += [
        f"external {name}, {_headline(external, external['dropped'], output)}"
        for name, external in metrics["external"].items()
    ]
    return "\n".join([*lines, f"{output / folder.REPORT}: the report", f"{output / folder.METRICS}: all metrics"])


def _headline(metrics: dict[str, Any], dropped: dict[str, int], output: Path) -> str:
    scores = ", ".join(f"{title} {with_interval(metrics, name)}" for name, title in HEADLINE.items())
    count = sum(dropped.values())
    left_out = f"; {count:,} files or boxes left out: {output / folder.DROPPED}" if count else ""
    return f"{metrics['n']:,} cells: {scores}{left_out}"
