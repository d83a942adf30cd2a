"""BCCD, 364 fields of a smear with boxes around cells (MIT). https://github.com/Shenggan/BCCD_Dataset

`JPEGImages/*.jpg`, `Annotations/*.xml` (VOC boxes: WBC, RBC, Platelets), `labels.csv` (white-cell types of a field).
A white cell gets its type from `labels.csv` if its field has only one; otherwise nothing says which cell is which.
A platelet is dropped if the window around it also shows a white cell.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from ..errors import BadImage
from .base import File, TreeSource
from .entries import Tree
from .records import Decision, Dropped, Record, SourceInfo

_MARGIN = 1.75  # window side over the longer side of the box: shows some neighbours, as other sources do
_MIN_WINDOW = 128  # pixels; a tight box around a platelet would be enlarged to a blur

# raised while reading a box if a tag is missing or not a valid number, or if the encoding is unknown
_MALFORMED = (AttributeError, TypeError, ValueError, LookupError, OverflowError)
_WHITE: dict[str, Decision] = {
    "NEUTROPHIL": Decision("Neutrophil", "band and segmented are not distinguished: the parent class"),
    "EOSINOPHIL": Decision("Eosinophil", "the one type of the field"),
    "LYMPHOCYTE": Decision("Lymphocyte", "the one type of the field"),
    "MONOCYTE": Decision("Monocyte", "the one type of the field"),
    "BASOPHIL": Decision("Basophil", "the one type of the field"),
}


class BCCD(TreeSource):
    """One record per box: a square window around it. The field is the group."""

    info = SourceInfo(
        title="BCCD",
        license="MIT",
        citation="Shenggan, BCCD Dataset: a small-scale dataset for blood cells detection, 2017",
        url="https://github.com/Shenggan/BCCD_Dataset",
        caution="Windows around boxes in fields; types are given per field, so only fields with one type are used.",
        published=dict(RBC=4155, WBC=372, Platelets=361),
    )
    groups_from = "the field"
    landmarks = ("JPEGImages", "Annotations")
    decisions: ClassVar[dict[str, Decision]] = {
        **_WHITE,
        "Platelets": Decision("Platelet", "the box names the class"),
        "RBC": Decision(None, "red cell"),
    }

    def __init__(self, name: str, tree: Tree) -> None:
        super().__init__(name, tree)
        self._types: dict[str, dict[str, list[str]]] = {}

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        folder, _, name = file.path.partition("/")
        if folder == "Annotations" and name.endswith(".xml"):
            if f"{file.root}JPEGImages/{name.removesuffix('.xml')}.jpg" not in self.members:
                yield Dropped(file.image_id, "missing_file", "boxes without an image in JPEGImages")
        elif folder == "JPEGImages":
            yield from self._field(file, stem=name.rpartition(".")[0])
        elif file.path != "labels.csv":
            yield Record(file.image_id, file.member, None, folder, file.image_id)

    def _field(self, file: File, stem: str) -> Iterator[Record | Dropped]:
        annotation = f"{file.root}Annotations/{stem}.xml"
        try:
            boxes = _boxes(self.tree.read(annotation))
        except (BadImage, ParseError, DefusedXmlException, *_MALFORMED) as error:
            yield Dropped(file.image_id, "no_annotation", f"{annotation}: {error}")
            return
        if not boxes:
            yield Dropped(file.image_id, "no_annotation", "the field has no box")
        types = self._types_of(file.root, stem)
        white = [box for box in boxes if box.name == "WBC"]
        for number, box in enumerate(boxes):
            yield self._cell(file, f"{file.image_id}#{number:02d}", box, types, white)

    def _cell(self, file: File, image_id: str, box: "Box", types: list[str], white: "list[Box]") -> Record | Dropped:
        code = box.name
        if code == "WBC":
            if len(types) != 1:
                listed = ", ".join(types) or "none"
                return Dropped(image_id, "ambiguous_field", f"types of the field in labels.csv: {listed}", code)
            code = types[0]
        decision = self.decisions.get(code)
        if decision is None or decision.label is None:
            reason = f"no_class:{code}" if decision else f"unknown_label:{code}"
            return Dropped(image_id, reason, decision.reason if decision else "", box.name)
        if box.name != "WBC" and any(box.shows(other) for other in white):
            return Dropped(image_id, "other_cell_in_window", "the window around it also shows a white cell", box.name)
        return Record(image_id, file.member, decision.label, box.name, file.image_id, box=box.window)

    def _types_of(self, root: str, stem: str) -> list[str]:
        """Return the distinct types of white cells in a field, from `labels.csv` (columns Image, Category)."""
        if root not in self._types:
            self._types[root] = dict(self._rows(f"{root}labels.csv"))
        return self._types[root].get(stem.rpartition("_")[2].lstrip("0") or "0", [])

    def _rows(self, table: str) -> Iterator[tuple[str, list[str]]]:
        for row in csv.DictReader(io.StringIO(self.table(table))):
            types = [kind.strip() for kind in (row.get("Category") or "").split(",")]
            yield (row.get("Image") or "").strip(), sorted({kind for kind in types if kind})


@dataclass(frozen=True)
class Box:
    """A box of a field: `name`, `centre` and the square `window` around it (left, top, right, bottom) in pixels."""

    name: str
    centre: tuple[float, float]
    window: tuple[int, int, int, int]

    def shows(self, other: "Box") -> bool:
        """Whether the centre of another box lies in the window of this one."""
        left, top, right, bottom = self.window
        return left <= other.centre[0] < right and top <= other.centre[1] < bottom


def _boxes(annotation: bytes) -> list[Box]:
    document = fromstring(annotation)
    width, height = _integers(document.find("size"), "width", "height")
    if width <= 0 or height <= 0:
        raise ValueError(f"a field of {width}x{height} pixels")
    boxes = []
    for item in document.findall("object"):
        left, top, right, bottom = corners = _integers(item.find("bndbox"), *_CORNERS)
        centre = ((left + right) / 2, (top + bottom) / 2)
        boxes.append(Box(item.find("name").text.strip(), centre, _window(corners, width, height)))
    return boxes


_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def _integers(element: Element | None, *names: str) -> list[int]:
    if element is None:
        raise ValueError(f"no {', '.join(names)}")
    return [int(float(element.findtext(name, ""))) for name in names]


def _window(corners: list[int], width: int, height: int) -> tuple[int, int, int, int]:
    """Return a square around the box, moved (and if need be shrunk) to fit a field of `width` x `height` pixels."""
    left, top, right, bottom = corners
    side = min(max(_MIN_WINDOW, round(_MARGIN * max(right - left, bottom - top))), width, height)
    x = min(max((left + right - side) // 2, 0), width - side)
    y = min(max((top + bottom - side) // 2, 0), height - side)
    return x, y, x + side, y + side


def other_cells(tree: Tree) -> Iterator[tuple[str, list[Box]]]:
    """Yield the path of each field and the boxes of its white cells (WBC) and platelets (Platelets)."""
    for path, boxes in _annotated(tree):
        yield path, [box for box in boxes if box.name != "RBC"]


def red_cells(tree: Tree) -> Iterator[tuple[str, list[tuple[int, int, int, int]]]]:
    """Yield the path of each field and the windows around its red cells that show no other kind of cell."""
    for path, boxes in _annotated(tree):
        others = [box for box in boxes if box.name != "RBC"]
        alone = [box for box in boxes if box.name == "RBC" and not any(map(box.shows, others))]
        yield path, [box.window for box in alone]


def _annotated(tree: Tree) -> Iterator[tuple[str, list[Box]]]:
    """Yield the path of each field and its boxes."""
    for entry in tree.entries():
        before, folder, name = entry.path.rpartition("Annotations/")
        if folder and name.endswith(".xml"):
            yield f"{before}JPEGImages/{name.removesuffix('.xml')}.jpg", _boxes(tree.read(entry.path))
