"""Command line options that select what to read from a Hugging Face dataset."""

import argparse
from collections.abc import Mapping, Sequence

from ..errors import CelluScanError
from .hf_dataset import Selection

_KEY = "hf_dataset"


def add_selection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the source `hf_dataset`. A prefix `SOURCE=` limits a value to the source with that name."""
    group = parser.add_argument_group(
        "source hf_dataset", "each option may be repeated; the prefix SOURCE= limits a value to that source"
    )
    for name, default, text in (
        ("image-column", "image", "column with the images"),
        ("label-column", "label", "column with the labels"),
        ("group-column", "none", "column with the patient, slide or smear, whose cells stay in one split"),
    ):
        group.add_argument(
            f"--{name}", action="append", default=[], metavar="COLUMN", help=f"{text} (default: {default})"
        )
    group.add_argument(
        "--dataset-config",
        action="append",
        default=[],
        metavar="CONFIG",
        help="config to read (default: its default config)",
    )
    group.add_argument(
        "--dataset-split", action="append", default=[], metavar="SPLIT", help="split to read (default: all)"
    )
    group.add_argument(
        "--map-label",
        action="append",
        default=[],
        metavar="LABEL=CLASS",
        help="class of a label that is not a class name, or drop to leave out its images",
    )


def selections(specs: Sequence[str], arguments: argparse.Namespace) -> dict[str, Selection]:
    """Return what to read from each source `hf_dataset` in `specs`, by its name. Raises `CelluScanError`."""
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
            raise CelluScanError(f"{option} {values[0]}: applies to a source hf_dataset; give --source {_KEY}=PATH")
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
    """Return the values of an option for a source: those for all sources, then those for it alone."""
    parts = [value.partition("=") for value in values]
    for_all = [value for value, (head, _, _) in zip(values, parts, strict=True) if head not in names]
    return for_all + [tail for head, equals, tail in parts if equals and head == name]


def _last(values: Sequence[str]) -> str:
    return values[-1] if values else ""
