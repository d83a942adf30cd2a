"""segmentation_WBC, 400 white cells with masks in two parts (Zheng et al., Micron 2018).

https://github.com/zxaoyou/segmentation_WBC — `Dataset 1/NNN.bmp`, `Dataset 2/NNN.bmp`, with masks `NNN.png`,
classes in `Class Labels of Dataset N.csv`. The labels were not checked by experts.
"""

import csv
import io
from collections.abc import Iterator

from .base import File, TreeSource
from .entries import Tree
from .records import Decision, Dropped, Record, SourceInfo


class SegmentationWBC(TreeSource):
    """Donors are unknown, so each image is its own group."""

    info = SourceInfo(
        title="segmentation_WBC",
        license="GPL-3.0",
        citation="Zheng et al., Fast and robust segmentation of white blood cell images by self-supervised learning, "
        "Micron 107, 2018",
        url="https://github.com/zxaoyou/segmentation_WBC",
        caution="Its labels were not checked by experts.",
        published={"Dataset 1": 300, "Dataset 2": 100},
    )
    landmarks = ("Dataset 1", "Dataset 2")
    decisions = {
        "1": Decision("Neutrophil", "band and segmented are not distinguished: the parent class"),
        "2": Decision("Lymphocyte", "number 2 of the published list"),
        "3": Decision("Monocyte", "number 3 of the published list"),
        "4": Decision("Eosinophil", "number 4 of the published list"),
        "5": Decision("Basophil", "number 5 of the published list"),
    }

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name, tree)
        self._numbers: dict[tuple[str, str], dict[str, str]] = {}

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        part, _, name = file.path.partition("/")
        stem, _, suffix = name.rpartition(".")
        if file.path in map(_table_of, self.landmarks):
            return
        if part in self.landmarks and suffix.lower() == "png":
            yield Dropped(file.image_id, "segmentation_mask", "a mask, not an image of a cell", part)
            return
        number = self._labels(file.root, part).get(stem.lstrip("0") or "0", "")
        decision = self.decisions.get(number)
        label = decision.label if decision else None
        yield Record(file.image_id, file.member, label, number or f"missing in {part}", file.image_id)

    def _labels(self, root: str, part: str) -> dict[str, str]:
        """Return class numbers by image number of a part, from its table (columns image ID, class label)."""
        if (root, part) not in self._numbers:
            self._numbers[root, part] = dict(self._rows(root + _table_of(part)))
        return self._numbers[root, part]

    def _rows(self, table: str) -> Iterator[tuple[str, str]]:
        for row in csv.reader(io.StringIO(self.table(table))):
            if len(row) >= 2 and row[0].strip().isdigit():
                yield row[0].strip().lstrip("0") or "0", row[1].strip()


def _table_of(part: str) -> str:
    return f"Class Labels of {part}.csv"
