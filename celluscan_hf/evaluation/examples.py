"""Examples to show beside a model: of each class one cell that it recognised, where its licence lets it be passed on.

It is the recognised cell with the smallest `image_id`, so none is picked for how clear it is or how sure the model was.
A class whose cells were all mistaken, or may not be passed on, has no example.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import taxonomy
from ..sources.licenses import redistributable
from . import folder
from .cells import Cell, Cells
from .predictions import Predictions

QUALITY = 95  # of the JPEG


def chosen(found: Predictions, kept: Sequence[Cell]) -> list[Cell]:
    """The example of each class that has one, in the order of the taxonomy."""
    recognised = {
        image_id for image_id, right in zip(found.image_ids, found.predicted == found.labels, strict=True) if right
    }
    first: dict[int, Cell] = {}
    for cell in sorted(kept, key=lambda cell: cell.image_id):
        if cell.image_id in recognised and redistributable(cell.license):
            first.setdefault(cell.label, cell)
    return [first[label] for label in sorted(first)]


def write_examples(found: Predictions, cells: Cells, output: Path) -> list[dict[str, Any]]:
    """Write the images of the examples below `output`, as the model's reader gives them; facts on each, as JSON."""
    examples = []
    for cell in chosen(found, cells.kept):
        name = taxonomy.NAMES[cell.label]
        file = Path(folder.IMAGES, folder.IMAGE_FILES[name])
        (output / file.parent).mkdir(exist_ok=True)
        cell.read().save(output / file, "JPEG", quality=QUALITY, subsampling=0)
        examples.append(
            {
                "file": file.as_posix(),
                "class": name,
                "code": taxonomy.CLASSES[cell.label].code,
                "image_id": cell.image_id,
                "source": cell.source,
                "license": cell.license,
                "title": cells.described["sources"][cell.source]["title"],
            }
        )
    return examples
