"""LISC, about 250 fields of 8 healthy subjects, each around one white cell (Rezatofighi and Soltanian-Zadeh 2011).

http://users.cecs.anu.edu.au/~hrezatofighi/Data/Leukocyte%20Data.htm — five class folders of 720x576 BMP; in the full
download they are below `Main Dataset`, next to fields of mixed cells and the experts' masks.
"""

from collections.abc import Iterator

from .base import ClassFolderSource, File, parent_folder, same
from .records import Decision, Dropped, Record, SourceInfo


class LISC(ClassFolderSource):
    """File names do not identify subjects, so each image is its own group."""

    info = SourceInfo(
        title="LISC",
        license="unknown",
        citation="Rezatofighi and Soltanian-Zadeh, Automatic recognition of five types of white blood cells in "
        "peripheral blood, Computerized Medical Imaging and Graphics 35, 2011",
        url="http://users.cecs.anu.edu.au/~hrezatofighi/Data/Leukocyte%20Data.htm",
        caution="Whole fields around a white cell, not single cells.",
    )
    decisions = {
        **same("the folder names the class", baso="Basophil", eosi="Eosinophil", lymp="Lymphocyte", mono="Monocyte"),
        **same("band and segmented are not distinguished: the parent class", neut="Neutrophil"),
        "mixt": Decision(None, "a field with cells of several classes"),
    }
    landmarks = ("baso", "eosi", "lymp", "mono", "neut")

    def code_of(self, path: str) -> str:
        return parent_folder(path).lower()

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        if _is_mask(file.member):
            yield Dropped(file.image_id, "segmentation_mask", "an expert's mask, not an image of a cell")
        else:
            yield from super().cells(file)

    def root_of(self, path: str) -> str | None:
        return None if _is_mask(path) else super().root_of(path)


def _is_mask(path: str) -> bool:
    return "ground truth" in path.lower() or "expert" in path.lower()
