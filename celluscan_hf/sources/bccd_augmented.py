"""The augmented BCCD fields often found as "dataset2-master": 12,444 images made of about 350 cells.

https://github.com/Shenggan/BCCD_Dataset is where the fields come from. `images/<part>/<CLASS>/_<source>_<n>.jpeg`:
copies of one field share a source index within a part and class. Its train and test parts hold copies of the same
fields as BCCD, so its images may only be used for training, and those of BCCD too if both are in a build.
"""

import re

from .base import ClassFolderSource, parent_folder, same
from .records import SourceInfo

_COPY = re.compile(r"_(\d+)_\d+\.jpe?g$")


class BCCDAugmented(ClassFolderSource):
    """Rotated, flipped and shifted copies of whole fields, 320x240 JPEG with black corners."""

    info = SourceInfo(
        title="dataset2-master (augmented BCCD)",
        license="unknown",
        citation="Mooney, Blood Cell Images, 2018, derived from BCCD (MIT)",
        url="https://www.kaggle.com/datasets/paultimothymooney/blood-cells",
        caution="Whole fields, not single cells; rotated copies with black corners and more padding than others.",
        published=dict(EOSINOPHIL=3120, LYMPHOCYTE=3103, MONOCYTE=3098, NEUTROPHIL=3123),
        derived_from="bccd",
    )
    groups_from = "the source index in the file name"
    landmarks = ("images",)
    augmented = True
    decisions = {
        **same(
            "the folder names the class",
            EOSINOPHIL="Eosinophil",
            LYMPHOCYTE="Lymphocyte",
            MONOCYTE="Monocyte",
        ),
        **same("band and segmented are not distinguished: the parent class", NEUTROPHIL="Neutrophil"),
    }

    def code_of(self, path: str) -> str:
        return parent_folder(path)

    def group_of(self, path: str) -> str | None:
        folder, _, file = path.rpartition("/")
        copy = _COPY.search(file)
        return f"{folder}/{copy[1]}" if copy else None
