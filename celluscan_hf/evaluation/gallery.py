"""Gallery of the most confident mistakes among classes that are hard to distinguish."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from .clinical_metrics import hard_sets_of, is_related
from .plots import blank, percent, save
from .predictions import Predictions

COLUMNS = 6
OTHERS = "Other classes"
_INCHES, _TITLE_INCHES, _NAME_INCHES = 1.5, 0.32, 0.3


def mistakes(cells: Predictions) -> dict[str, NDArray[np.int64]]:
    """Rows of the mistakes in each of `HARD_SETS`, and of all others: the most confident first, at most `COLUMNS`."""
    wrong = cells.predicted != cells.labels
    others = wrong & ~is_related(cells)  # a finer or coarser name of the label is not worth showing
    rows = {}
    for name, members in hard_sets_of(cells.names).items():
        ids = [cells.names.index(member) for member in members]
        inside = wrong & np.isin(cells.labels, ids) & np.isin(cells.predicted, ids)
        others &= ~inside
        rows[name] = _most_confident(cells, inside)
    rows[OTHERS] = _most_confident(cells, others)
    return {name: chosen for name, chosen in rows.items() if len(chosen)}


def draw_mistakes(cells: Predictions, image_of: Callable[[str], Image.Image], path: Path) -> bool:
    """Draw the images of `mistakes`, a row for each set; return whether there are any. `image_of` takes an image_id."""
    shown = mistakes(cells)
    if not shown:
        return False
    height = len(shown) * (_INCHES + _TITLE_INCHES + _NAME_INCHES)
    figure = blank(COLUMNS * (_INCHES + 0.08), height)
    rows = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, (name, chosen) in zip(rows, shown.items(), strict=True):
        part.suptitle(f"{name}: the most confident mistakes", x=0.01, ha="left", fontsize=11, weight="bold")
        _draw_row(part.subplots(1, COLUMNS), cells, chosen, image_of)
    save(figure, path)
    return True


def _draw_row(
    panels: Sequence[Axes], cells: Predictions, rows: NDArray[np.int64], image_of: Callable[[str], Image.Image]
) -> None:
    for panel in panels:
        panel.axis("off")
    for panel, row in zip(panels, rows, strict=False):
        true, predicted = (cells.classes[label].code for label in (cells.labels[row], cells.predicted[row]))
        panel.imshow(np.asarray(image_of(cells.image_ids[row])))
        panel.set_title(f"{true} → {predicted}  {percent(cells.confidence[row])}", fontsize=10)


def _most_confident(cells: Predictions, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(-cells.confidence[rows], kind="stable")][:COLUMNS]
