"""Arguments that several commands share: which model, and how many views of an image it takes."""

import argparse
from typing import Any

from ..bundled_model import default_model

VIEWS = (1, 2, 4, 8)


def add_model(parser: argparse.ArgumentParser, name: str = "--model") -> None:
    """Add the model, as an option or as a positional argument; by default that of the package."""
    optional: dict[str, Any] = {} if name.startswith("-") else {"nargs": "?"}
    parser.add_argument(
        name,
        default=default_model(),
        metavar="MODEL",
        help="a checkpoint folder, or the name of a model on the Hub (default: wbc-small, in the package)",
        **optional,
    )


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Add the permission to run code of a checkpoint."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code shipped with the checkpoint; CelluScan's models do not need it",
    )


def add_views(parser: argparse.ArgumentParser) -> None:
    """Add the number of views; None for that of the model."""
    parser.add_argument(
        "--views",
        type=int,
        choices=VIEWS,
        help="mirrored and transposed copies of an image that are averaged over: 1 is fastest, 8 a little more "
        "accurate (default: that of the model's config)",
    )
