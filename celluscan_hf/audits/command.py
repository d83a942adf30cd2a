"""The command `celluscan audit`; see `runs`."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from ..curation.splits import MIN_GROUPS
from ..dataset.settings import cores
from ..errors import CelluScanError
from ..evaluation.folder import check_outside
from ..processes import number_of_processes
from ..training.memory import keep_freed_memory

_RENAMED = {  # options of version 0.1: new names
    "--as-stored": "--no-online-augmentation",
    "--background_randomization": "--background-randomization",
    "--coarse": "--coarse-labels",
    "--plant": "--corrupt-labels",
    "--surroundings": "--background-randomization",
}


def audit(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Run one audit; its metrics go to a file, a table to the terminal."""
    for option in (word.partition("=")[0] for word in arguments):
        if new := _RENAMED.get(option):
            raise CelluScanError(f"{option} was renamed to {new}")
    _add_audits(parser)
    options = parser.parse_args(arguments)
    if (processes := number_of_processes()) > 1:
        raise CelluScanError(f"{processes} processes were started, an audit takes one: run it without a launcher")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    keep_freed_memory()

    from . import runs

    data = runs.load_data(options)
    check_outside(options.output, [data.folder])
    print(getattr(runs, options.run)(data, options))


def _add_audits(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="audits", required=True, metavar="AUDIT")
    leaking = _add(
        commands,
        "leak",
        "compare splitting before and after augmentation: how much a leak adds to a result",
        "run_leak",
    )
    _leak_options(leaking)
    text = "measure what predicts the class without the cell, and how far models rely on it"
    shortcuts = _add(commands, "shortcut", text, "run_shortcut")
    shortcuts.add_argument("--model", action="append", default=[], help="a trained model to test; repeatable")
    text = "train without one source or acquisition, and evaluate on it"
    _left_out_options(_add(commands, "left-out", text, "run_left_out"))
    text = "compare losses on validation: flat, hierarchical, with a maturation term"
    _losses_options(_add(commands, "losses", text, "run_losses"))
    text = "list labels that are likely wrong, with images for review; needs the extra labels"
    _labels_options(_add(commands, "labels", text, "run_labels"))


def _leak_options(parser: argparse.ArgumentParser) -> None:
    _training_options(parser, steps=700)
    parser.add_argument(
        "--share",
        type=_some,
        default=1.0,
        help="share of the cells to use; with fewer, each is seen more often (default: 1)",
    )
    parser.add_argument(
        "--no-online-augmentation",
        action="store_true",
        help="train on images as stored, without the recipe's augmentation, so that they can be memorized",
    )
    parser.add_argument(
        "--target-per-class", type=_count, default=4500, help="rows per train class after augmentation (default: 4500)"
    )


def _left_out_options(parser: argparse.ArgumentParser) -> None:
    _training_options(parser, steps=700)
    parser.add_argument(
        "--by",
        choices=("source", "acquisition"),
        default="source",
        help="leave out one source or one acquisition at a time (default: source)",
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="VALUE", help="leave out this one alone; repeatable"
    )
    parser.add_argument(
        "--background-randomization",
        type=_share,
        default=0.0,
        help="train a second time with the background randomized in this share of the images (default: 0, none)",
    )
    parser.add_argument(
        "--as-recipe",
        action="store_true",
        help="train exactly as the recipe says, for its own number of epochs, instead of --steps without randomization",
    )


def _losses_options(parser: argparse.ArgumentParser) -> None:
    _training_options(parser, steps=320)
    parser.add_argument("--seeds", type=_count, default=2, help="trainings per loss (default: 2)")
    parser.add_argument(
        "--coarse-labels",
        type=_share,
        default=0.0,
        help="share of train labels that are replaced by their parent class (default: 0)",
    )


def _labels_options(parser: argparse.ArgumentParser) -> None:
    _training_options(parser, steps=400)
    parser.add_argument("--folds", type=_folds, default=3, help="cross-validation folds (default: 3)")
    parser.add_argument(
        "--corrupt-labels",
        type=_share,
        default=0.0,
        help="share of labels to corrupt, to measure how many are found (default: 0)",
    )


def _training_options(parser: argparse.ArgumentParser, steps: int) -> None:
    parser.add_argument("--recipe", default="cpu-small", help="training recipe (default: cpu-small)")
    parser.add_argument("--steps", type=_count, default=steps, help="steps per training (default: %(default)s)")


def _add(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    run: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    cells = parser.add_mutually_exclusive_group(required=True)
    cells.add_argument("--source", action="append", metavar="KEY=PATH", help="raw data, as for celluscan build")
    cells.add_argument("--dataset", help="a built dataset folder, or its name on the Hub")
    parser.add_argument("--output", type=Path, required=True, help="a folder for data, models and evaluations")
    parser.add_argument("--json", type=Path, help="write the metrics to this file, and the plot beside it")
    parser.add_argument("--seed", type=int, default=42, help="random seed (default: %(default)s)")
    parser.add_argument("--num-proc", type=_count, default=cores(), help="number of processes (default: the cores)")
    return parser


def _share(text: str) -> float:
    if not 0 <= float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share, 0 to 1")
    return float(text)


def _some(text: str) -> float:
    if not 0 < float(text) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share above 0, to 1")
    return float(text)


def _count(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return int(text)


def _folds(text: str) -> int:
    if not 2 <= int(text) <= MIN_GROUPS:
        raise argparse.ArgumentTypeError(f"{text}: expected 2 to {MIN_GROUPS}")
    return int(text)
