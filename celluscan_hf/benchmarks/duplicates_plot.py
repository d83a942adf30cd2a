"""Plot of the time of the duplicate search against the number of hashes."""

from pathlib import Path
from typing import Any

from ..evaluation import plots


def plot(metrics: dict[str, Any], path: Path) -> None:
    """Draw time against the number of hashes, on logarithmic axes."""
    figure = plots.blank(7, 4.5)
    axes = figure.add_subplot()
    for kind, style in {"random": "o-", "clustered": "s--", "cells": "^:"}.items():
        _curve(metrics, kind, "eight_orientations", f"{kind}, eight orientations", style, axes)
    _curve(metrics, "random", "faiss_upright_only", "random, upright alone, faiss multi-index", "x-", axes)
    axes.set(xscale="log", yscale="log", xlabel="hashes", ylabel="seconds")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    plots.save(figure, path)


def _curve(metrics: dict[str, Any], kind: str, search: str, label: str, style: str, axes: Any) -> None:
    searches = [values[search] for name, values in metrics.items() if name.startswith(f"{kind}_") and search in values]
    points = sorted((values["hashes"], values["seconds"]) for values in searches)
    if points:
        axes.plot(*zip(*points, strict=True), style, label=label)
