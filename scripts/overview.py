"""Draw the images of README.md: `python scripts/overview.py`.

- `results/overview.png`: a synthetic cell of each class, and the recall of `wbc-small` on test cells (`bundled.json`).
- `results/adaptation.png`: accuracy of adapted models against the number of labelled cells (`adaptation*.json`).
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # scripts/ holds an evaluate.py, which would hide the library

from celluscan_hf.benchmarks.adaptation import draw_curves  # noqa: E402
from celluscan_hf.evaluation.plots import BLUE, ORDER, save  # noqa: E402
from celluscan_hf.sources.drawing import draw_cell  # noqa: E402
from celluscan_hf.sources.morphology import DRAWN  # noqa: E402
from scripts.tables import PLACES, adaptation_rows, metrics  # noqa: E402

SIZE, COLUMNS, SEED = 256, 7, 3
CROP = 0.15  # of each side, so that the cell fills the tile


def overview() -> Figure:
    """Draw a tile for each class that the model knows, with its recall as a bar below."""
    matrix = metrics("bundled", "test_confusion_matrix")
    cells = [cell for cell in ORDER if cell.name in matrix["labels"] and cell.name in DRAWN]
    figure = Figure(figsize=(11.2, 4.9), layout="constrained")
    figure.suptitle(
        f"The {len(cells)} classes, as synthetic cells. Bars: share of each class that wbc-small recognises\n"
        f"among {np.sum(matrix['matrix']):,} real cells of five laboratories held out from its training",
        fontsize=12,
    )
    edge = int(CROP * SIZE)
    for axes, cell in zip(figure.subplots(-(-len(cells) // COLUMNS), COLUMNS).flat, cells, strict=False):
        image = np.asarray(draw_cell(cell.name, np.random.default_rng(SEED), SIZE))[edge:-edge, edge:-edge]
        axes.imshow(image, extent=(0, 1, 0, 1))
        axes.set_title(cell.name, fontsize=9)
        axes.barh(-0.08, 1, height=0.07, color="#E6E6E6")
        row = np.array(matrix["matrix"][matrix["labels"].index(cell.name)])
        share = row[matrix["labels"].index(cell.name)] / max(row.sum(), 1)
        axes.barh(-0.08, share, height=0.07, color=BLUE)
        text = f"{share:.0%} of {row.sum()}" if row.sum() else "no test cells"
        axes.text(0.5, -0.21, text, ha="center", va="center", fontsize=9)
        axes.set(xlim=(0, 1), ylim=(-0.27, 1))
        axes.axis("off")
    return figure


if __name__ == "__main__":
    save(overview(), ROOT / "results" / "overview.png")
    curves = [row | {"source": PLACES[row["source"]]} for row in adaptation_rows()]
    draw_curves(curves, ROOT / "results" / "adaptation.png")
