"""segmentation_WBC, 400 white cells with masks in two parts (Zheng et al., Micron 2018).

https://github.com/zxaoyou/segmentation_WBC — `Dataset 1/NNN.bmp`, `Dataset 2/NNN.bmp`, masks `NNN.png` beside them,
classes in `Class Labels of Dataset N.csv`. The labels were not checked by experts.
"""

import csv
import io
from collections.abc import Iterator
from functools import cached_property

from ..errors import BadImage
from .base import TreeSource
from .records import Decision, Dropped, Record, SourceInfo


class SegmentationWBC(TreeSource):
    """Nothing is known of the donors: each image is its own group."""

    info = SourceInfo(
        title="segmentation_WBC",
        license="GPL-3.0",
        citation="Zheng et al., Fast and robust segmentation of white blood cell images by self-supervised learning, "
        "Micron 107, 2018",
        url="https://github.com/zxaoyou/segmentation_WBC",
        published={"Dataset 1": 300, "Dataset 2": 100},
    )
    landmarks = ("Dataset 1", "Dataset 2")
    decisions = {
        "1": Decision("Neutrophil", "band and segmented are not told apart: the parent class"),
        "2": Decision("Lymphocyte", "number 2 of the published list"),
        "3": Decision("Monocyte", "number 3 of the published list"),
        "4": Decision("Eosinophil", "number 4 of the published list"),
        "5": Decision("Basophil", "number 5 of the published list"),
    }

    def cells(self, path: str) -> Iterator[Record | Dropped]:
        part, _, file = path.partition("/")
        stem, _, suffix = file.rpartition(".")
        image_id = self.image_id(path)
        if path in self._tables:
            return
        if part in self.landmarks and suffix.lower() == "png":
            yield Dropped(image_id, "segmentation_mask", "a mask, not an image of a cell", part)
            return
        number = self._labels.get((part, stem.lstrip("0") or "0"), "")
        decision = self.decisions.get(number)
        label = decision.label if decision else None
        yield Record(image_id, path, label, number or f"missing in {part}", image_id)

    @property
    def _tables(self) -> dict[str, str]:
        return {f"Class Labels of {part}.csv": part for part in self.landmarks}

    @cached_property
    def _labels(self) -> dict[tuple[str, str], str]:
        """Class number by part and image number, from the two tables (columns image ID, class label)."""
        return {(part, image): number for table, part in self._tables.items() for image, number in self._rows(table)}

    def _rows(self, table: str) -> Iterator[tuple[str, str]]:
        try:
            text = self.table(table)
        except BadImage:
            return
        for row in csv.reader(io.StringIO(text)):
            if len(row) >= 2 and row[0].strip().isdigit():
                yield row[0].strip().lstrip("0") or "0", row[1].strip()
