"""The command `celluscan build`: arguments, log, closing summary."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import CelluScanError
from ..remote import local_only
from ..sources import KEYS
from ..sources.options import add_selection_arguments, selections
from ..workers import add_ray
from .build import build as build_dataset
from .card import classes_table, found_and_published, groups_table, table
from .settings import BuildSettings, cores

_log = logging.getLogger(__name__)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        action="append",
        required=True,
        metavar="KEY=PATH",
        help=f"a folder, zip or tar of a dataset; keys: {', '.join(KEYS)}. synthetic=COUNT draws COUNT cells per "
        "class; hf_dataset=PATH or hf_dataset=HUB_NAME[@REVISION] reads parquet or a folder of save_to_disk; "
        "imagefolder:NAME=PATH and hf_dataset:NAME=PATH name one of your own; repeatable",
    )
    add_selection_arguments(parser)
    parser.add_argument("--output", type=local_only, required=True, help="the folder to be built; must be new or empty")
    parser.add_argument(
        "--image-size", type=int, default=BuildSettings.image_size, help="image side in pixels (default: 224)"
    )
    parser.add_argument(
        "--target-per-class",
        type=int,
        default=BuildSettings.target_per_class,
        help="augment train classes to this many rows (default: 4500); 0 for none",
    )
    parser.add_argument("--seed", type=int, default=BuildSettings.seed, help="random seed (default: 42)")
    parser.add_argument(
        "--exclude-acquisition",
        action="append",
        default=[],
        metavar="ACQUISITION",
        help="leave out the images of this acquisition, if it alone would reveal the class; curation/audit.json lists "
        "acquisitions with their classes; repeatable",
    )
    engine = parser.add_mutually_exclusive_group()
    # without a default: argparse takes an option that is given with its default for one that is not given
    engine.add_argument("--num-proc", type=int, help="number of processes (default: the cores)")
    add_ray(engine)
    parser.add_argument("--resume", action="store_true", help="resume an interrupted build")
    parser.add_argument(
        "--license",
        action="append",
        default=[],
        metavar="SOURCE=LICENSE",
        help="licence of images that you publish yourself, for example imagefolder=CC-BY-4.0",
    )


def build(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Build the dataset folder that the arguments describe, and print its summary."""
    _add_arguments(parser)
    options = parser.parse_args(arguments)
    settings = _settings(options)
    _start_log(settings.output)
    try:
        print(summary(build_dataset(settings), options.output))
    except (CelluScanError, OSError) as error:
        _log.debug("error: %s", error)
        raise


def _settings(arguments: argparse.Namespace) -> BuildSettings:
    licenses = tuple(text.partition("=") for text in arguments.license)
    for name, equals, value in licenses:
        if not (name and equals and value):
            raise CelluScanError(f"--license {name}{equals}{value}: expected SOURCE=LICENSE, for example pbc=CC-BY-4.0")
    return BuildSettings(
        sources=tuple(arguments.source),
        output=arguments.output.resolve(),
        image_size=arguments.image_size,
        target_per_class=arguments.target_per_class,
        seed=arguments.seed,
        num_proc=cores() if arguments.num_proc is None else arguments.num_proc,
        ray=arguments.ray,
        resume=arguments.resume,
        licenses=tuple((name, value) for name, _, value in licenses),
        exclude_acquisitions=tuple(arguments.exclude_acquisition),
        selections=tuple(selections(arguments.source, arguments).items()),
    )


def _start_log(output: Path) -> None:
    """Log to the terminal and to `<output>.log`, beside the folder, which holds nothing that differs between builds."""
    output.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(output.with_name(f"{output.name}.log"), encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.setLevel(logging.INFO)
    logging.basicConfig(level=logging.INFO, handlers=[file, terminal], force=True)
    _log.setLevel(logging.DEBUG)  # errors go to the file alone: the terminal gets their line from `cli`


def summary(statistics: dict[str, Any], output: Path) -> str:
    """The closing tables of a build."""
    rows, dropped = statistics["rows"]["originals"], sum(statistics["dropped"].values())
    lines = [
        classes_table(statistics),
        "",
        table(["source", "its label", "found", "published"], found_and_published(statistics)),
        "",
        *([groups_table(statistics), ""] if "source_groups" in statistics else []),
        *([table(["dropped because", "files or boxes"], statistics["dropped"].items()), ""] if dropped else []),
        f"{statistics['seen']:,} files or boxes seen = {rows:,} rows + {dropped:,} dropped; "
        f"{statistics['rows']['augmented']:,} augmented rows added.",
        f"channel mean {statistics['channel_mean']}, std {statistics['channel_std']} (train originals, in [0, 1])",
        f'{output}: load_dataset("{output}")',
        *(f"WARNING: {line}" for line in statistics.get("warnings", [])),
    ]
    return "\n".join(lines)
