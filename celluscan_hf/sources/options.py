"""Command line options that say what is read of a Hugging Face data set."""

import argparse
from collections.abc import Mapping, Sequence

from ..errors import CelluScanError
from .hf_dataset import Selection

_KEY = "hf_dataset"


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the source `hf_dataset`. `SOURCE=` before a value limits it to the source of that name."""
    group = parser.add_argument_group(
        "source hf_dataset", "each option may be repeated; with SOURCE= before its value it is of that source alone"
    )
    for name, default, what in (
        ("image-column", "image", "the column of the images"),
        ("label-column", "label", "the column of the labels"),
        ("group-column", "none", "the column of the patient, slide or smear, whose cells stay together in a split"),
    ):
        group.add_argument(f"--{name}", action="append", default=[], metavar="COLUMN", help=f"{what} ({default})")
    group.add_argument(
        "--dataset-config", action="append", default=[], metavar="CONFIG", help="the config to read (the default one)"
    )
    group.add_argument(
        "--dataset-split", action="append", default=[], metavar="SPLIT", help="a split to read (all, taken together)"
    )
    group.add_argument(
        "--map-label",
        action="append",
        default=[],
        metavar="LABEL=CLASS",
        help="what a label that is no class name means: a class, or drop to leave its images out",
    )


def selections(specs: Sequence[str], arguments: argparse.Namespace) -> dict[str, Selection]:
    """What is read of each source `hf_dataset` among `specs`, by its name. Raises `CelluScanError`."""
    keys = [spec.partition("=")[0].partition(":") for spec in specs]
    names = [name or kind for kind, _, name in keys if kind == _KEY]
    given = {
        "--image-column": arguments.image_column,
        "--label-column": arguments.label_column,
        "--group-column": arguments.group_column,
        "--dataset-config": arguments.dataset_config,
        "--dataset-split": arguments.dataset_split,
        "--map-label": arguments.map_label,
    }
    for option, values in given.items():
        if values and not names:
            raise CelluScanError(f"{option} {values[0]}: only a source hf_dataset takes it; give --source {_KEY}=PATH")
    return {name: _selection(name, names, given) for name in names}


def _selection(name: str, names: Sequence[str], given: Mapping[str, Sequence[str]]) -> Selection:
    own = {option: _own(name, names, values) for option, values in given.items()}
    labels = [text.rpartition("=") for text in own["--map-label"]]
    for text, (label, _, meaning) in zip(own["--map-label"], labels, strict=True):
        if not (label and meaning):
            raise CelluScanError(f'--map-label {text}: expected LABEL=CLASS, for example "smudge=drop"')
    return Selection(
        image=_last(own["--image-column"]) or Selection.image,
        label=_last(own["--label-column"]) or Selection.label,
        group=_last(own["--group-column"]),
        config=_last(own["--dataset-config"]),
        splits=tuple(own["--dataset-split"]),
        labels=tuple((label, meaning) for label, _, meaning in labels),
    )


def _own(name: str, names: Sequence[str], values: Sequence[str]) -> list[str]:
    """The values of an option that are of a source: those for all sources, then those for it alone."""
    parts = [value.partition("=") for value in values]
    for_all = [value for value, (head, _, _) in zip(values, parts, strict=True) if head not in names]
    return for_all + [tail for head, equals, tail in parts if equals and head == name]


def _last(values: Sequence[str]) -> str:
    return values[-1] if values else ""
