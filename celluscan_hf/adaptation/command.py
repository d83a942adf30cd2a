"""The command `celluscan adapt`: arguments and closing summary."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..bundled_model import default_model
from ..remote import local_only
from .settings import METHODS, AdaptationSettings


def adapt(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> None:
    """Adapt a model as the arguments say, and print what to expect of it."""
    _add_arguments(parser)
    options = parser.parse_intermixed_args(arguments)
    from .adapt import adapt as run_adaptation

    settings = AdaptationSettings(
        model=options.model,
        output=options.output,
        sources=tuple(options.source),
        unlabelled=tuple(options.unlabelled),
        classes=options.classes,
        method=options.method,
        minutes=options.minutes,
        seed=options.seed,
    )
    print(summary(run_adaptation(settings), settings))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = AdaptationSettings
    parser.epilog = (
        "Cells: imagefolder=FOLDER with a folder for each class, 5 to 200 cells in each; name patients or slides in "
        "metadata.csv (file_name, group_id). Without labels only statistics of the images are adapted, which helps on "
        "some microscopes and hurts with few images, or with images of one class."
    )
    parser.add_argument(
        "model",
        nargs="?",
        type=Path,
        default=default_model(),
        metavar="MODEL",
        help="a calibrated checkpoint folder, left unchanged (default: wbc-small, which comes with the package)",
    )
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="labelled cells, as celluscan build takes them: imagefolder=FOLDER; repeatable",
    )
    parser.add_argument(
        "--unlabelled", action="append", default=[], metavar="IMAGES", help="more images, without labels; repeatable"
    )
    parser.add_argument("--output", type=local_only, required=True, help="the new folder of the adapted model")
    parser.add_argument(
        "--classes",
        choices=("ours", "own"),
        default=defaults.classes,
        help="ours: the classes of the model; own: those of the cells, by any name (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        choices=METHODS,
        default=defaults.method,
        help="what is fitted: calibration, the head, low-rank adapters (lora) or all layers (full); auto: what "
        "held-out cells favour (default)",
    )
    parser.add_argument(
        "--minutes", type=float, default=defaults.minutes, help="time that auto may take (default: %(default)g)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of folds and training (default: %(default)s)")


def summary(record: dict[str, Any], settings: AdaptationSettings) -> str:
    """What was fitted, how often it was right on held-out cells before and after, and which cells would help."""
    lines = []
    if "cells" in record:
        counts = ", ".join(f"{name} {count}" for name, count in record["cells"]["counts"].items())
        lines.append(f"{record['cells']['n']:,} cells of {record['cells']['groups']:,} groups: {counts}")
        if record["cells"]["groups"] == record["cells"]["n"]:
            lines.append(
                "each cell is a group of its own: if some are of one patient or slide, say so in metadata.csv "
                "(group_id), or expect less than below"
            )
        if count := sum(record["cells"]["dropped"].values()):
            reasons = ", ".join(f"{reason} {number}" for reason, number in record["cells"]["dropped"].items())
            lines.append(f"{count:,} files or cells were not used: {reasons}")
    if unchecked := record.get("cells", {}).get("unchecked"):
        lines.append(
            f"no cell of {', '.join(unchecked)}: these classes stay as they were, and are not checked on your "
            "microscope; a cell of them may get another class"
        )
    if record["unlabelled"]:
        lines.append(f"{record['unlabelled']:,} images without labels")
    lines.append(f"adapted: {_adapted(record)}")
    lines += _expectation(record) if "cells" in record else [_UNKNOWN]
    lines += record.get("notes", [])
    lines.append(f"{settings.output}: the adapted model ({record['seconds']:.0f} s)")
    return "\n".join(lines)


def _adapted(record: dict[str, Any]) -> str:
    if record["method"] == "none":
        unchanged = "nothing but thresholds and sets: held-out cells favour the model as it is"
        return "the statistics of the new images" if record["statistics"] else unchanged
    return f"{_WHAT[record['method']]}{', with statistics of the new images' if record['statistics'] else ''}"


_WHAT = {
    "calibration": "the calibration",
    "head": "the head",
    "lora": "head and low-rank adapters",
    "full": "all layers",
}
_UNKNOWN = (
    "what to expect is not known without labelled cells; statistics of few images, or of images of one class, make "
    "answers worse: look at some, or give labelled cells"
)


def _expectation(record: dict[str, Any]) -> list[str]:
    before, after = record["before"], record["expected"]
    if not after["n"]:
        return ["what to expect is not known: give two cells or more, of two groups, for each class"]
    low, high = after["ci95"]["balanced_accuracy"]
    lines = [
        f"to expect on cells like these, by cross-validation: balanced accuracy {after['balanced_accuracy']:.2f} "
        f"({low:.2f}–{high:.2f}), before {before['balanced_accuracy']:.2f}; accuracy {after['accuracy']:.2f}, before "
        f"{before['accuracy']:.2f}"
    ]
    width = max(map(len, after["recall"]))
    lines += [
        f"  {name:{width}}  right {before['recall'].get(name, 0):4.0%} -> {recall:4.0%}"
        for name, recall in after["recall"].items()
    ]
    if helping := record["more_would_help"][:2]:
        names = " and ".join(f"{item['class']} ({item['cells']})" for item in helping)
        lines.append(
            f"more cells would help most of {names}: with half of the first, balanced accuracy is "
            f"{helping[0]['lost_with_half']:.2f} lower"
        )
    return lines
