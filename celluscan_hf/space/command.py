"""The command `celluscan demo`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..errors import CelluScanError
from ..inference.arguments import add_model, add_views


def demo(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Serve the demo page of a model until it is stopped; see `demo.run`."""
    add_model(parser)
    add_views(parser)
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FOLDER",
        help="a folder of celluscan evaluate, whose examples the page offers",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to bind (default: 127.0.0.1); 0.0.0.0 exposes the page to the network",
    )
    parser.add_argument("--port", type=int, help="port (default: the first free one from 7860 on)")
    options = parser.parse_args(arguments)
    try:
        from .demo import run
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise CelluScanError('gradio is not installed: pip install "celluscan_hf[demo]"') from error

    run(options.model, options.evaluation, options.host, options.port, options.views)
