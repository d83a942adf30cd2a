"""`report.md`: the metrics of `metrics.json` in words, tables and plots, for a haematologist."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from ..dataset.card import table
from . import folder
from .plots import ordered, percent
from .wbc_metrics.wbc_metrics import SCALARS

_TEMPLATE = Path(__file__).with_name("report.md.jinja")
_CONFUSIONS = 10
_UNMEASURED = "other laboratories: not measured; expect lower"
_COLUMNS = ("cells of", "cells", "classes", *(scalar.title for scalar in SCALARS.values()))
_NO_BREAK = "\N{NO-BREAK SPACE}"


def render(metrics: Mapping[str, Any], plots: Collection[str]) -> str:
    """Render the text of the report. `plots`: file names of the plots that exist; the others are not shown."""
    classes = ordered(list(metrics["per_class"]))
    return (
        environment()
        .from_string(_TEMPLATE.read_text("utf-8"))
        .render(
            metrics=metrics,
            plots=plots,
            files=folder,
            classes=classes,
            codes={cell.name: cell.code for cell in classes},
            without_cells=[cell.name for cell in classes if not metrics["per_class"][cell.name]["support"]],
            confusions=largest_confusions(metrics),
            results=results_table(metrics, _evaluated_cells(metrics["data"])),
            five_classes=five_classes_table(metrics, _evaluated_cells(metrics["data"])),
            levels=_levels_table(metrics),
            by_source=_scalars_table("source", {_code(name): row for name, row in metrics["per_source"].items()}),
        )
    )


def environment() -> Environment:
    """Jinja environment with filters for numbers; an undefined name in a template raises `UndefinedError`."""
    filters: dict[str, Callable[..., str]] = {  # the plus makes an undefined value raise
        "thousands": lambda number: f"{+number:,}",
        "percent": lambda share: percent(share).replace(" ", _NO_BREAK),
        "exact": _exact,
        "interval": _interval,
        "range": lambda ends: f"{ends[0]:.3f}–{ends[1]:.3f}" if ends else "–",
        "decimals": _decimals,
        "code": _code,
        "listed": _listed,
    }
    jinja = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    jinja.filters |= filters
    return jinja


def results_table(metrics: Mapping[str, Any], evaluated: str, unmeasured: str | None = None) -> str:
    """Markdown table of the scalars: a row for the `evaluated` cells, as this names them, and one per external source.

    If no external source was measured, the last row says so, or what `unmeasured` says, so that the first never stands
    alone.
    """
    external: Mapping[str, Mapping[str, Any]] = metrics.get("external") or {}
    classes = sum(1 for scores in metrics["per_class"].values() if scores["support"])
    rows = [_results_row(evaluated, {**metrics, "classes": classes})]
    rows += [_results_row(f"{source['title']} ({_code(name)})", source) for name, source in external.items()]
    if not external:
        unmeasured = unmeasured or _UNMEASURED if "dataset" in metrics["data"] else "other sources: not measured"
        rows.append([unmeasured, *["–"] * (len(_COLUMNS) - 1)])
    return table(_COLUMNS, rows)


def _results_row(name: str, metrics: Mapping[str, Any]) -> list[object]:
    return [name, metrics["n"], metrics["classes"], *(with_interval(metrics, scalar) for scalar in SCALARS)]


def _levels_table(metrics: Mapping[str, Any]) -> str:
    coarse = metrics["parent_level"]
    return _scalars_table(
        "level",
        {
            f"{len(metrics['per_class'])} classes": metrics,
            f"{len(coarse['classes'])} classes, children as their parent": coarse,
        },
    )


def _scalars_table(header: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown table of the scalars; rows by their names."""
    columns = (header, "cells", *(scalar.title for scalar in SCALARS.values()))
    return table(
        columns, [[name, row["n"], *(with_interval(row, key) for key in SCALARS)] for name, row in rows.items()]
    )


def five_classes_table(metrics: Mapping[str, Any], evaluated: str) -> str:
    """Markdown table of `five_classes`, with rows as in `results_table`; empty if no row has such cells."""
    external: Mapping[str, Mapping[str, Any]] = metrics.get("external") or {}
    rows = []
    for name, results in {evaluated: metrics, **external}.items():
        if five := results.get("five_classes"):
            where = f"{results['title']} ({_code(name)})" if name in external else name
            scores = [with_interval(five["any_answer"], scalar) for scalar in ("macro_f1", "accuracy", "ece")]
            rows.append([where, five["n"], *scores, with_interval(five["told_five"], "macro_f1")])
    heads = ("cells of", "cells", "macro-F1", "accuracy", "ECE", "macro-F1 if told that it is one of five")
    return table(heads, rows) if rows else ""


def _evaluated_cells(data: Mapping[str, Any]) -> str:
    """Name of the evaluated cells in the table of the report."""
    if "dataset" in data:
        return f"the {data['split']} split of {_code(data['dataset'])}"
    return ", ".join(f"{source['title']} ({_code(name)})" for name, source in data["sources"].items())


def with_interval(metrics: Mapping[str, Any], name: str) -> str:
    """Format a metric with three decimals, followed by its interval if it has one; a dash for None."""
    value, ends = metrics[name], (metrics.get("ci95") or {}).get(name)
    if value is None:
        return "–"
    return f"{value:.3f}" + (f" ({ends[0]:.3f}–{ends[1]:.3f})" if ends else "")


def largest_confusions(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pairs of true and predicted class with most mistakes, the largest number first."""
    labels, matrix = metrics["confusion_matrix"]["labels"], metrics["confusion_matrix"]["matrix"]
    pairs = [
        {"true": true, "predicted": predicted, "n": count, "share": count / sum(row)}
        for true, row in zip(labels, matrix, strict=True)
        for predicted, count in zip(labels, row, strict=True)
        if count and true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair["n"])[:_CONFUSIONS]


def _code(text: object) -> str:
    """Format a name as code that cannot break a table."""
    return "`" + str(text).replace("`", "'").replace("|", "\\|") + "`"


def _exact(share: float | None) -> str:
    """Format a share in percent with one decimal."""
    return "–" if share is None else f"{100 * share:.1f}{_NO_BREAK}%"


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{+value:.3f}"


def _interval(ends: Sequence[float] | None) -> str:
    """Format the ends of an interval in percent."""
    return f"{100 * ends[0]:.1f}–{100 * ends[1]:.1f}{_NO_BREAK}%" if ends else "–"


def _listed(names: Sequence[str]) -> str:
    """Join names: `A`, `A and B`, `A, B and C`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
