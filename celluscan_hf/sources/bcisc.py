"""BCISC, 268 crops of white cells in five classes, used for LeukocyteMask (Fan et al., J. Biophotonics 2019).

https://github.com/fpklipic/BCISC — `sub-images/images/<class>_<field>_<n>.jpg`, 256x256; masks `.png` of these names in
`sub-images/masks`; the fields that they were cut from in `original-images/<class>/<field>.jpg`, 2048x1536, with masks.
"""

import re
from collections.abc import Iterator

from .base import ClassFolderSource, File, same
from .records import Dropped, Record, SourceInfo

_CROP = re.compile(r"([a-z]+)_(\d+-\d+)_\d+\.jpe?g", re.IGNORECASE)
_FIELD = re.compile(r"\d+-\d+\.jpe?g", re.IGNORECASE)


class BCISC(ClassFolderSource):
    """The file name gives class and field; `sub-images` or `sub-images/images` alone are read as well."""

    info = SourceInfo(
        title="BCISC",
        license="Apache-2.0",
        citation="Fan et al., LeukocyteMask: an automated localization and segmentation method for leukocyte in blood "
        "smear images using deep neural networks, Journal of Biophotonics 12, 2019, "
        "https://doi.org/10.1002/jbio.201800488",
        url="https://github.com/fpklipic/BCISC",
        caution="White balance differs strongly between its fields.",
        published=dict(baso=56, eosi=54, lymp=53, mono=54, neut=51),
    )
    groups_from = "the field in the file name"
    decisions = {
        **same("the name names the class", baso="Basophil", eosi="Eosinophil", lymp="Lymphocyte", mono="Monocyte"),
        **same("band and segmented are not distinguished: the parent class", neut="Neutrophil"),
    }
    landmarks = ("sub-images", "original-images", *decisions)

    def code_of(self, path: str) -> str:
        name = _CROP.fullmatch(_name(path))
        return name[1].lower() if name else ""

    def group_of(self, path: str) -> str | None:
        name = _CROP.fullmatch(_name(path))
        return f"{name[1].lower()}_{name[2]}" if name else None

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        name = _name(file.path)
        if name.lower().endswith(".png"):
            yield Dropped(file.image_id, "segmentation_mask", "a mask, not an image of a cell")
        elif _FIELD.fullmatch(name):
            yield Dropped(file.image_id, "whole_field", "a field, not a cell: its cells are the crops in sub-images")
        else:
            yield from super().cells(file)

    def root_of(self, path: str) -> str | None:
        root = super().root_of(path)
        if root is None and _CROP.fullmatch(_name(path)):  # inside `sub-images`, where no folder is named as published
            return path.removesuffix(_name(path))
        return root


def _name(path: str) -> str:
    return path.rpartition("/")[2]
