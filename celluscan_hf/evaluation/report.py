"""`report.md`: the figures of `metrics.json` in words, tables and pictures, for a reader who looks at blood."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from .. import taxonomy
from ..dataset.card import table
from . import folder
from .plots import ORDER, percent

_TEMPLATE = Path(__file__).with_name("report.md.jinja")
_CONFUSIONS = 10
_UNMEASURED = "other laboratories: not measured; expect lower"
_COLUMNS = ("cells of", "cells", "classes", "accuracy", "balanced accuracy", "macro-F1", "NLL", "ECE")
_NO_BREAK = "\N{NO-BREAK SPACE}"


def render(metrics: Mapping[str, Any], pictures: Collection[str]) -> str:
    """The text of the report. `pictures` are the names of those there are; the others are not shown."""
    return (
        environment()
        .from_string(_TEMPLATE.read_text("utf-8"))
        .render(
            metrics=metrics,
            pictures=pictures,
            files=folder,
            classes=ORDER,
            codes={cell.name: cell.code for cell in taxonomy.CLASSES},
            without_cells=[cell.name for cell in ORDER if not metrics["per_class"][cell.name]["support"]],
            confusions=largest_confusions(metrics),
            places=places(metrics, _home(metrics["data"])),
        )
    )


def environment() -> Environment:
    """Jinja with the filters of figures; a figure that a template names and nothing gives raises `UndefinedError`."""
    filters: dict[
        str, Callable[..., str]
    ] = {  # the plus refuses what is undefined, which a format alone would do in other words
        "thousands": lambda number: f"{+number:,}",
        "percent": lambda share: percent(share).replace(" ", _NO_BREAK),
        "exact": _exact,
        "interval": _interval,
        "range": lambda ends: f"{ends[0]:.3f}–{ends[1]:.3f}" if ends else "–",
        "figure": lambda value: "–" if value is None else f"{+value:.3f}",
        "code": _code,
        "listed": _listed,
    }
    made = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    made.filters |= filters
    return made


def places(metrics: Mapping[str, Any], home: str) -> str:
    """The Markdown table of the headline figures: a row of the cells evaluated, which `home` names, and one of each
    external source. Where none was measured, its last row says so: the first never stands alone.
    """
    external: Mapping[str, Mapping[str, Any]] = metrics.get("external") or {}
    classes = sum(1 for found in metrics["per_class"].values() if found["support"])
    rows = [_place(home, {**metrics, "classes": classes})]
    rows += [_place(f"{found['title']} ({_code(name)})", found) for name, found in external.items()]
    if not external:
        unmeasured = _UNMEASURED if "dataset" in metrics["data"] else "other sources: not measured"
        rows.append([unmeasured, *["–"] * (len(_COLUMNS) - 1)])
    return table(_COLUMNS, rows)


def _place(name: str, found: Mapping[str, Any]) -> list[object]:
    means = [with_interval(found, key) for key in ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")]
    return [name, found["n"], found["classes"], *means]


def _home(data: Mapping[str, Any]) -> str:
    """What the evaluated cells are called in the table of the report."""
    if "dataset" in data:
        return f"the {data['split']} split of {_code(data['dataset'])}"
    return ", ".join(f"{source['title']} ({_code(name)})" for name, source in data["sources"].items())


def with_interval(found: Mapping[str, Any], name: str) -> str:
    """A figure with three decimals, and behind it the ends of its interval where there is one; a dash for none."""
    value, ends = found[name], (found.get("ci95") or {}).get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ends[0]:.3f}–{ends[1]:.3f})" if ends else "")


def largest_confusions(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pairs of true and predicted class with most mistakes, the largest number first."""
    labels, matrix = metrics["confusion_matrix"]["labels"], metrics["confusion_matrix"]["matrix"]
    pairs = [
        {"true": true, "predicted": predicted, "n": count, "share": count / sum(row)}
        for true, row in zip(labels, matrix, strict=True)
        for predicted, count in zip(labels, row, strict=True)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair["n"])[:_CONFUSIONS]


def _code(text: object) -> str:
    """A name as code that cannot break a table."""
    return "`" + str(text).replace("`", "'").replace("|", "\\|") + "`"


def _exact(share: float | None) -> str:
    """A share in percent with one decimal."""
    return "–" if share is None else f"{100 * share:.1f}{_NO_BREAK}%"


def _interval(ends: Sequence[float] | None) -> str:
    """The ends of an interval in percent."""
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}{_NO_BREAK}%" if ends else "–"


def _listed(names: Sequence[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
