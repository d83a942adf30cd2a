"""The command line of an evaluation: arguments, closing summary, one line for each error."""

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import CelluScanError
from ..processes import left_to_first_process
from ..sources import KEYS
from . import folder
from .job import EvaluationSettings, evaluate
from .report import with_interval
from .wbc_metrics.wbc_metrics import SCALARS

_FAILED, _INTERRUPTED = 2, 130
HEADLINE = {name: scalar.title for name, scalar in SCALARS.items() if not scalar.needs_probabilities}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `scripts/evaluate.py`."""
    defaults = EvaluationSettings
    parser.add_argument("--model", required=True, help="a checkpoint folder, or the name of a model on the Hub")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--dataset", help="a built data set: its folder, or the name of its repository on the Hub")
    data.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help=f"a folder, zip or tar of a raw data set; keys: {', '.join(KEYS)}. May be repeated",
    )
    parser.add_argument(
        "--external",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="beside --dataset: a raw data set of another laboratory, measured by itself. May be repeated",
    )
    parser.add_argument("--split", help="of --dataset: train (its originals), validation or test, which is the default")
    parser.add_argument(
        "--output", type=Path, required=True, help="the folder to be written; new, empty, or an earlier evaluation"
    )
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size, help="images at a time (%(default)s)")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; by default the best there is")
    parser.add_argument(
        "--resamples",
        type=int,
        default=defaults.resamples,
        help="of the bootstrap behind the intervals (%(default)s); 0 for none",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run code that lies in the checkpoint; the models of CelluScan do not need it",
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate as the arguments say; the exit status. Prints the headline, or one line on what is wrong."""
    if left_to_first_process():
        return 0
    _quieten()
    try:
        print(summary(evaluate(_settings(arguments)), arguments.output))
    except CelluScanError as error:
        return _fail(str(error))
    except OSError as error:
        if error.errno is None:  # not from the operating system
            raise
        return _fail(f"{error.strerror}: {error.filename or arguments.output}")
    except KeyboardInterrupt:
        print("\nstopped; nothing was written", file=sys.stderr)
        return _INTERRUPTED
    return 0


def _settings(arguments: argparse.Namespace) -> EvaluationSettings:
    if arguments.source and arguments.split is not None:
        raise CelluScanError("--split is of --dataset; a raw source has none")
    return EvaluationSettings(
        model=arguments.model,
        output=arguments.output,
        dataset=arguments.dataset,
        split=arguments.split or EvaluationSettings.split,
        sources=tuple(arguments.source),
        external=tuple(arguments.external),
        batch_size=arguments.batch_size,
        device=arguments.device,
        resamples=arguments.resamples,
        trust_remote_code=arguments.trust_remote_code,
    )


def summary(metrics: dict[str, Any], output: Path) -> str:
    """The closing lines: what was found, here and on each external source, and where it is."""
    found = [_told(metrics, metrics["data"]["dropped"], output)]
    found += [f"external {name}, {_told(one, one['dropped'], output)}" for name, one in metrics["external"].items()]
    return "\n".join([*found, f"{output / folder.REPORT}: the report", f"{output / folder.METRICS}: all figures"])


def _told(figures: dict[str, Any], dropped: dict[str, int], output: Path) -> str:
    told = ", ".join(f"{title} {with_interval(figures, name)}" for name, title in HEADLINE.items())
    count = sum(dropped.values())
    left_out = f"; {count:,} files or boxes left out: {output / folder.DROPPED}" if count else ""
    return f"{figures['n']:,} cells: {told}{left_out}"


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return _FAILED


def _quieten() -> None:
    """No progress bars and warnings of the libraries: what matters is raised as an error."""
    import datasets
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    datasets.disable_progress_bars()
