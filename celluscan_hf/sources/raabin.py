"""Raabin-WBC, 14,514 cropped cells labelled by two experts, Tehran (Kouzehkanan et al., Scientific Reports 2022).

https://raabindata.com — `{Train,TestA,TestB}/<class>/95-8-5-1_176_1.jpg`: smear 95-8-5-1, field 176, crop 1; some
basophils are named by date and time instead (`20190531_112511_0.jpg`).
"""

import re

from .base import ClassFolderSource, parent_folder, same
from .records import SourceInfo

_SMEAR = re.compile(r"(\d+(?:-\d+)+|\d{8})_\d+_\d+")


class Raabin(ClassFolderSource):
    """The smear (or the day, for files named by time) is the group, across its three parts."""

    info = SourceInfo(
        title="Raabin-WBC, double-labelled cropped cells",
        license="free for research",
        citation="Kouzehkanan et al., A large dataset of white blood cells containing cell locations and types, along "
        "with segmented nuclei and cytoplasm, Scientific Reports 12, 2022",
        url="https://raabindata.com/free-data/",
        published=dict(total=14_514),
    )
    groups_from = "the smear in the file name"
    landmarks = ("Train", "TestA", "TestB", "Test-A", "Test-B")
    decisions = {
        **same(
            "the folder names the class",
            Basophil="Basophil",
            Eosinophil="Eosinophil",
            Lymphocyte="Lymphocyte",
            Monocyte="Monocyte",
        ),
        **same("band and segmented are not distinguished: the parent class", Neutrophil="Neutrophil"),
    }

    def code_of(self, path: str) -> str:
        return parent_folder(path)

    def group_of(self, path: str) -> str | None:
        smear = _SMEAR.match(path.split("/")[-1])
        return smear[1] if smear else None
