"""Tables and plot of the shortcut audit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..dataset import shortcuts
from ..evaluation import plots
from .model_shortcuts import IMAGES, ORIGINS

RANDOMIZED = {  # share of the train and test images whose background is randomized
    "background_accuracy_half_randomized": 0.5,
    "background_accuracy_randomized": 1.0,
}
MODEL_COLUMNS = (
    *("forest on the border it sees", "forest, background randomized"),
    *("untouched", "cell covered", "background randomized"),
    *(f"linear probe for {origin}" for origin in ORIGINS),
)


def background_rows(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """For each feature without the cell: its name, balanced accuracy, and that of chance."""
    rows = shortcuts.table_rows(metrics["background_accuracy"])
    for name, share in RANDOMIZED.items():
        features = shortcuts.table_rows(metrics[name])
        rows += [(f"{feature}, {share:.0%} randomized", value, chance) for feature, value, chance in features]
    return rows


def model_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """For each model: its name, and balanced accuracies by `MODEL_COLUMNS`; "–" for what was not measured."""
    rows = []
    for name, model in metrics.get("models", {}).items():
        columns = [model["border"]["as_is"], model["border"]["randomized"], *(model[kind] for kind in IMAGES)]
        columns += [model["acquisition_probe_accuracy"].get(origin) for origin in ORIGINS]
        rows.append([name, *(f"{column['balanced_accuracy']:.2f}" if column else "–" for column in columns)])
    return rows


def draw(metrics: dict[str, Any], path: Path) -> None:
    """Draw balanced accuracy from each feature beside chance, and of each model on changed images."""
    rows, models = background_rows(metrics), metrics.get("models", {})
    height = 4.0 + (1.2 + 0.75 * len(models) if models else 0)
    figure = Figure(figsize=(7.6, height), dpi=plots.RESOLUTION, layout="constrained")
    ratios = [len(rows), 2.4 * len(models)] if models else [1]
    features, *by_models = figure.subplots(len(ratios), 1, squeeze=False, height_ratios=ratios)[:, 0]
    names, values, chances = zip(*rows[::-1], strict=True)
    features.barh(names, [float(value) for value in values], color=plots.BLUE, height=0.6)
    for position, value in enumerate(values):
        features.text(float(value) + 0.005, position, value, va="center")
    features.set_xlabel("balanced accuracy of a forest on test, without the cell")
    features.set_xlim(0, 1.15 * max(map(float, values)))
    for axes in by_models:
        _draw_models(axes, models)
    for axes in (features, *by_models):
        axes.axvline(float(chances[0]), color=plots.VERMILION, linestyle="--", label="chance")
    features.legend(loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)
    plots.save(figure, path)


def _draw_models(axes: Axes, models: Mapping[str, Any]) -> None:
    for offset, (kind, colour) in enumerate(zip(IMAGES, (plots.BLUE, plots.GREY, plots.VERMILION), strict=True)):
        places = [place + 0.27 * (offset - 1) for place in range(len(models))]
        accuracies = [model[kind]["balanced_accuracy"] for model in models.values()]
        axes.barh(places, accuracies, color=colour, height=0.25, label=kind.replace("_", " "))
        for place, value in zip(places, accuracies, strict=True):
            axes.text(value + 0.005, place, f"{value:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(models)), list(models))
    axes.set_ylim(len(models) - 0.5, -0.5)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel("balanced accuracy of the models on test images")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(IMAGES), frameon=False)
