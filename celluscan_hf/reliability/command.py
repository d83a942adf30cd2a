"""The command `celluscan calibrate`."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def calibrate(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Calibrate a model on the validation split of its dataset; see `calibrate.calibrate`."""
    parser.epilog = (
        "celluscan train already calibrates; this is for models trained with --calibrate false or elsewhere."
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a checkpoint folder, modified in place")
    parser.add_argument("--dataset", required=True, help="a built dataset; its validation split is used")
    options = parser.parse_args(arguments)

    from .calibrate import calibrate as fit
    from .calibrate import summary

    print(summary(fit(options.model, options.dataset)))
