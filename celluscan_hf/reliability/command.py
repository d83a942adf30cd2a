"""The commands `celluscan calibrate` and `celluscan recalibrate`."""

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


def recalibrate(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Fit a calibrated model to some 16 to 64 labelled cells of another microscope; see `recalibrate.recalibrate`."""
    parser.add_argument("model", type=Path, metavar="MODEL", help="a calibrated checkpoint folder, left unchanged")
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="KEY=PATH",
        help="the labelled cells, as celluscan build takes them: imagefolder=DIR; repeatable",
    )
    parser.add_argument("--output", type=Path, required=True, help="the new folder of the fitted model")
    options = parser.parse_args(arguments)

    from .recalibrate import recalibrate as fit
    from .recalibrate import summary

    print(summary(fit(options.model, options.source, options.output)))
