"""BCCD, 364 fields of a smear with boxes around cells (MIT). https://github.com/Shenggan/BCCD_Dataset

`JPEGImages/*.jpg`, `Annotations/*.xml` (VOC boxes: WBC, RBC, Platelets), `labels.csv` (white-cell types of a field).
A white cell takes its type from `labels.csv` where its field has one type and one white cell; nothing says which
cell is which elsewhere.
"""

import csv
import io
from collections.abc import Iterator
from typing import ClassVar
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ..errors import BadImage
from .base import TreeSource
from .records import Decision, Dropped, Record, SourceInfo
from .tree import Tree

_MARGIN = 1.75  # window side over the longer side of the box: the cell and some of its neighbours, as in other sources
_MIN_WINDOW = 128  # pixels; a tight box around a platelet would be blown up until only blur is left

# what reading a box raises where a tag is missing, holds no number or one out of range, or the encoding is unknown
_MALFORMED = (AttributeError, TypeError, ValueError, LookupError, OverflowError)
_WHITE: dict[str, Decision] = {
    "NEUTROPHIL": Decision("Neutrophil", "band and segmented are not told apart: the parent class"),
    "EOSINOPHIL": Decision("Eosinophil", "the type of the field's one white cell"),
    "LYMPHOCYTE": Decision("Lymphocyte", "the type of the field's one white cell"),
    "MONOCYTE": Decision("Monocyte", "the type of the field's one white cell"),
    "BASOPHIL": Decision("Basophil", "the type of the field's one white cell"),
}


class BCCD(TreeSource):
    """One record a box; the field is the group. A record's image is a square window around the box."""

    info = SourceInfo(
        title="BCCD",
        license="MIT",
        citation="Shenggan, BCCD Dataset: a small-scale dataset for blood cells detection, 2017",
        url="https://github.com/Shenggan/BCCD_Dataset",
        published=dict(RBC=4155, WBC=372, Platelets=361),
    )
    landmarks = ("JPEGImages", "Annotations")
    decisions: ClassVar[dict[str, Decision]] = {
        **_WHITE,
        "Platelets": Decision("Platelet", "the box names the class"),
        "RBC": Decision(None, "red cell"),
    }

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name, tree)
        self._types: dict[str, list[str]] | None = None

    def cells(self, path: str) -> Iterator[Record | Dropped]:
        folder, _, file = path.partition("/")
        if folder == "Annotations" and file.endswith(".xml"):
            if f"JPEGImages/{file.removesuffix('.xml')}.jpg" not in self.paths:
                yield Dropped(self.image_id(path), "missing_file", "boxes without their field in JPEGImages")
            return
        if path == "labels.csv":
            return
        if folder != "JPEGImages":
            yield Record(self.image_id(path), path, None, folder, self.image_id(path))
            return
        stem = file.rpartition(".")[0]
        try:
            boxes = self._boxes(stem)
        except (BadImage, ParseError, DefusedXmlException, *_MALFORMED) as error:
            yield Dropped(self.image_id(path), "no_annotation", f"Annotations/{stem}.xml: {error}")
            return
        if not boxes:
            yield Dropped(self.image_id(path), "no_annotation", "the field has no box")
        white = sum(name == "WBC" for name, _ in boxes)
        for number, (name, box) in enumerate(boxes):
            yield self._cell(path, f"{self.image_id(path)}#{number:02d}", name, box, self._types_of(stem), white)

    def _cell(
        self, path: str, image_id: str, name: str, box: tuple[int, int, int, int], types: list[str], white: int
    ) -> Record | Dropped:
        code = name
        if name == "WBC":
            if len(types) != 1 or white != 1:
                detail = f"{white} white cells, types in labels.csv: {', '.join(types) or 'none'}"
                return Dropped(image_id, "ambiguous_field", detail, name)
            code = types[0]
        decision = self.decisions.get(code)
        if decision is None or decision.label is None:
            reason = f"no_class:{code}" if decision else f"unknown_label:{code}"
            return Dropped(image_id, reason, decision.reason if decision else "", name)
        return Record(image_id, path, decision.label, name, self.image_id(path), box=box)

    def _boxes(self, stem: str) -> list[tuple[str, tuple[int, int, int, int]]]:
        document = fromstring(self.tree.read(f"{self.root}Annotations/{stem}.xml"))
        width, height = _integers(document.find("size"), "width", "height")
        if width <= 0 or height <= 0:
            raise ValueError(f"a field of {width}x{height} pixels")
        return [
            (item.find("name").text.strip(), _window(_integers(item.find("bndbox"), *_CORNERS), width, height))
            for item in document.findall("object")
        ]

    def _types_of(self, stem: str) -> list[str]:
        if self._types is None:
            self._types = self._read_types()
        return self._types.get(stem.rpartition("_")[2].lstrip("0") or "0", [])

    def _read_types(self) -> dict[str, list[str]]:
        """White-cell types by the number of the field, from `labels.csv` (columns Image, Category)."""
        try:
            text = self.table("labels.csv")
        except BadImage:
            return {}
        return {
            (row.get("Image") or "").strip(): [kind.strip() for kind in (row.get("Category") or "").split(",")]
            for row in csv.DictReader(io.StringIO(text))
            if row.get("Category")
        }


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _integers(element: Element | None, *names: str) -> list[int]:
    if element is None:
        raise ValueError(f"no {', '.join(names)}")
    return [int(float(element.findtext(name, ""))) for name in names]


def _window(corners: list[int], width: int, height: int) -> tuple[int, int, int, int]:
    """A square around the box, moved (and at last shrunk) to lie within the field of `width` x `height` pixels."""
    left, top, right, bottom = corners
    side = min(max(_MIN_WINDOW, round(_MARGIN * max(right - left, bottom - top))), width, height)
    x = min(max((left + right - side) // 2, 0), width - side)
    y = min(max((top + bottom - side) // 2, 0), height - side)
    return x, y, x + side, y + side
