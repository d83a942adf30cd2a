"""Example images for a model: of each class one cell that it recognised and whose licence allows redistribution.

It is the recognised cell with the smallest `image_id`, so none is picked for clarity or confidence. A class whose cells
were all mistaken, or may not be redistributed, has no example.
"""

from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from ..sources.licenses import redistributable
from . import folder
from .cells import Cell, Cells
from .predictions import Predictions

QUALITY = 95  # JPEG quality


def choose_examples(predictions: Predictions, kept: Sequence[Cell]) -> list[Cell]:
    """Choose the example of each class that has one, in the order of the taxonomy."""
    right = predictions.predicted == predictions.labels
    recognised = set(compress(predictions.image_ids, right))
    first: dict[int, Cell] = {}
    for cell in sorted(kept, key=lambda cell: cell.image_id):
        if cell.image_id in recognised and redistributable(cell.license):
            first.setdefault(cell.label, cell)
    return [first[label] for label in sorted(first)]


def write_examples(predictions: Predictions, cells: Cells, output: Path) -> list[dict[str, Any]]:
    """Write the example images below `output`; return facts on each, as JSON."""
    examples = []
    for cell in choose_examples(predictions, cells.kept):
        name = predictions.names[cell.label]
        if name not in folder.IMAGE_FILES:  # the page shows examples of our classes
            continue
        file = Path(folder.IMAGES, folder.IMAGE_FILES[name])
        (output / file.parent).mkdir(exist_ok=True)
        cell.read().save(output / file, "JPEG", quality=QUALITY, subsampling=0)
        examples.append(
            {
                "file": file.as_posix(),
                "class": name,
                "code": predictions.classes[cell.label].code,
                "image_id": cell.image_id,
                "source": cell.source,
                "license": cell.license,
                "title": cells.described["sources"][cell.source]["title"],
            }
        )
    return examples
