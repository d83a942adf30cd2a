"""The plots show the metrics they are given, all of them, with nothing cut off."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.evaluation import gallery, plots
from celluscan_hf.evaluation.measure import measure


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures as they are saved, to look into."""
    figures: list[Figure] = []
    save = plots.save

    def keep(figure: Figure, path: Path) -> None:
        figures.append(figure)
        save(figure, path)

    monkeypatch.setattr(plots, "save", keep)
    monkeypatch.setattr(gallery, "save", keep)
    return figures


@pytest.fixture(scope="module")
def metrics(everything):
    return measure(everything, 20)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


def is_cut_off(figure: Figure) -> bool:
    """Whether anything that is drawn reaches over the edge of the plot, by more than a hundredth of an inch."""
    figure.draw_without_rendering()
    drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    return min(drawn.x0, drawn.y0) < -0.01 or drawn.x1 > width + 0.01 or drawn.y1 > height + 0.01


def draw_all(everything, metrics, folder: Path) -> None:
    plots.confusion_matrix(metrics, folder / "confusion.png")
    plots.recall(metrics, folder / "recall.png")
    plots.reliability(metrics, folder / "reliability.png")
    plots.abnormal_roc(everything, metrics["abnormal"], folder / "roc.png")
    gallery.draw_mistakes(everything, lambda _: Image.new("RGB", (32, 40)), folder / "mistakes.png")


def test_every_plot_is_a_png_with_nothing_cut_off_and_the_same_bytes_again(drawn, everything, metrics, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        draw_all(everything, metrics, tmp_path / name)
    paths = sorted((tmp_path / "first").iterdir())
    assert len(drawn) == 2 * len(paths) == 10
    assert not any(is_cut_off(figure) for figure in drawn[:5])
    for path in paths:
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes()
        with Image.open(path) as image:
            assert image.format == "PNG" and 400 < image.width < 1400


def test_a_matrix_has_its_counts_in_the_rows_and_columns_of_its_axes(drawn, metrics, tmp_path):
    plots.confusion_matrix(metrics, tmp_path / "drawn.png")
    axes = drawn[0].axes[0]
    shown = [label.get_text() for label in axes.get_xticklabels()]
    true = [label.get_text().split("  ")[1] for label in axes.get_yticklabels()]
    at = {(round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in axes.texts}
    matrix = metrics["confusion_matrix"]["matrix"]
    counts = {place: [text.get_text() for text in axes.texts if _place(text) == place] for place in at}
    for row, column in np.argwhere(matrix):
        codes = taxonomy.CLASSES[row].code, taxonomy.CLASSES[column].code
        place = shown.index(codes[1]), true.index(codes[0])
        assert str(matrix[row][column]) in counts[place]


def _place(text: Text) -> tuple[int, int]:
    return round(text.get_position()[0]), round(text.get_position()[1])


def test_classes_without_cells_say_so(drawn, metrics, tmp_path):
    plots.confusion_matrix(metrics, tmp_path / "drawn.png")
    plots.recall(metrics, tmp_path / "drawn.png")
    for figure in drawn:
        assert texts(figure).count("no cells in this evaluation") == 1


@pytest.mark.parametrize(
    ("share", "shown"), [(0.0, "0 %"), (0.004, "<1 %"), (0.125, "12 %"), (0.996, ">99 %"), (1.0, "100 %")]
)
def test_only_none_is_no_percent_and_only_all_are_hundred(share, shown):
    assert plots.percent(share) == shown


def test_the_most_confident_mistakes_of_a_set_come_first(predicted):
    cells = predicted([("MY", "PMY", 0.6), ("MMY", "MY", 0.9), ("MY", "MY", 0.99), ("SNE", "BNE", 0.7)])
    largest = gallery.mistakes(cells)
    assert {name: rows.tolist() for name, rows in largest.items()} == {"PMY/MY/MMY": [1, 0], "BNE/SNE": [3]}


def test_other_mistakes_have_a_row_but_finer_names_do_not(predicted):
    largest = gallery.mistakes(predicted([("LY", "MO", 0.6), ("NEU", "SNE", 0.9), ("MY", "LY", 0.7)]))
    assert {name: rows.tolist() for name, rows in largest.items()} == {gallery.OTHERS: [2, 0]}


def test_a_mistake_is_shown_with_its_own_image_and_what_was_said(drawn, predicted, tmp_path):
    cells = predicted([("LY", "LY", 0.9), ("MY", "PMY", 0.6), ("MMY", "MY", 0.9)])
    shades = {"drawn/1.png": 10, "drawn/2.png": 200}
    gallery.draw_mistakes(cells, lambda name: Image.new("RGB", (8, 8), (shades[name],) * 3), tmp_path / "drawn.png")
    panels = [panel for panel in drawn[0].findobj(lambda item: hasattr(item, "get_images")) if panel.get_images()]
    shown = {panel.get_title(): int(panel.get_images()[0].get_array()[0, 0, 0]) for panel in panels}
    assert shown == {"MMY → MY  90 %": 200, "MY → PMY  60 %": 10}


def test_without_a_mistake_there_is_no_gallery(predicted, tmp_path):
    assert gallery.draw_mistakes(predicted([("LY", "LY", 0.9)]), Image.open, tmp_path / "drawn.png") is False
    assert list(tmp_path.iterdir()) == []


HISTORY = [
    {"loss": 2.0, "learning_rate": 1e-4, "epoch": 0.5, "step": 5},
    {"loss": 1.5, "learning_rate": 1e-4, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.7, "eval_accuracy": 0.5, "eval_macro_f1": 0.4, "epoch": 1.0, "step": 10},
    {"train_runtime": 10.0, "train_loss": 1.7, "epoch": 1.0, "step": 10},
]


def test_training_curves_draw_what_was_logged(drawn, tmp_path):
    plots.training_curves(HISTORY, tmp_path / "curves.png")
    lines = {line.get_label(): line.get_xydata().tolist() for axes in drawn[0].axes for line in axes.lines}
    assert lines == {
        "training": [[0.5, 2.0], [1.0, 1.5]],
        "validation": [[1.0, 1.7]],
        "accuracy": [[1.0, 0.5]],
        "macro-F1": [[1.0, 0.4]],
    }
    assert not is_cut_off(drawn[0])


@pytest.mark.parametrize(("history", "missing"), [(HISTORY[:2], 1), (HISTORY[2:3], 0), ([], 2)])
def test_training_curves_say_what_was_not_logged(history, missing, drawn, tmp_path):
    plots.training_curves(history, tmp_path / "curves.png")
    assert texts(drawn[0]).count("not logged") == missing
