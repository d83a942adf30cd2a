"""The commands `celluscan push …`; see `publish`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

DATASET, MODEL = "celluscan/wbc", "celluscan/vit-b16-wbc"
METRIC, SPACE = "celluscan/wbc_metrics", "celluscan/celluscan"


def push_dataset(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """`celluscan push dataset FOLDER [REPOSITORY]`."""
    parser.add_argument("folder", type=Path, help="a folder of celluscan build")
    parser.add_argument("repository", nargs="?", default=DATASET, help=f"owner/name on the Hub (default: {DATASET})")
    parser.add_argument(
        "--recipe-only",
        action="store_true",
        help="publish card, labels, hashes and build command, but no image: if a licence forbids redistribution",
    )
    _add_common(parser)
    options = parser.parse_intermixed_args(arguments)

    from .publish import dataset

    dataset(options)


def push_model(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """`celluscan push model RUN [REPOSITORY] --evaluation FOLDER`."""
    parser.add_argument("run", type=Path, help="a finished folder of celluscan train")
    parser.add_argument(
        "repository",
        nargs="?",
        help=f"owner/name for the ViT in transformers format, which needs no custom code (default: {MODEL})",
    )
    parser.add_argument("--evaluation", type=Path, required=True, help="a folder of celluscan evaluate, test split")
    parser.add_argument("--handbuilt", metavar="REPOSITORY", help="publish the hand-built ViT too, under this name")
    parser.add_argument(
        "--dataset", help="Hub id of the data it was trained on (default: that of the run; a local folder is not named)"
    )
    _add_common(parser)
    options = parser.parse_intermixed_args(arguments)
    options.repository = options.repository or (None if options.handbuilt else MODEL)

    from .publish import model

    model(options)


def push_metric(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """`celluscan push metric [REPOSITORY]`."""
    parser.add_argument("repository", nargs="?", default=METRIC, help=f"owner/name on the Hub (default: {METRIC})")
    _add_common(parser)
    options = parser.parse_intermixed_args(arguments)

    from .publish import metric

    metric(options)


def push_space(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """`celluscan push space [REPOSITORY]`."""
    parser.add_argument("repository", nargs="?", default=SPACE, help=f"owner/name on the Hub (default: {SPACE})")
    parser.add_argument(
        "--model", help="Hub id of the model behind the page (default: wbc-small, which comes with the package)"
    )
    parser.add_argument("--model-revision", metavar="REVISION", help="model revision to pin (default: main)")
    parser.add_argument("--dataset", help="Hub id of the data it was trained on (default: that in the model's card)")
    _add_common(parser)
    options = parser.parse_intermixed_args(arguments)

    from .publish import space

    space(options)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--revision", help="permanent tag for this version, such as v1.0")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show what would be uploaded")
