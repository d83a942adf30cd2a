"""MLL23, about 41,700 cells in 18 classes, Munich Leukemia Laboratory (Shetab Boushehri et al., Sci Data 2025).

https://zenodo.org/records/14277609 — one folder per class, 288x288 TIFF.
"""

from .base import ClassFolderSource, same
from .records import Decision, SourceInfo


class MLL23(ClassFolderSource):
    """One folder per class. File names do not identify patients, so each image is its own group."""

    info = SourceInfo(
        title="MLL23",
        license="CC-BY-4.0",
        citation="Shetab Boushehri et al., A large expert-annotated single-cell peripheral blood dataset for "
        "hematological disease diagnostics, Scientific Data 12, 2025",
        url="https://doi.org/10.5281/zenodo.14277609",
        published=dict(
            myeloblast=8606, promyelocyte=745, myelocyte=747, metamyelocyte=483, neutrophil_band=687,
            neutrophil_segmented=7170, lymphocyte=5532, monocyte=2510, eosinophil=2448, basophil=616, normoblast=2071,
            total=41_621,
        ),
        microns_per_pixel=25 / 288,  # 288 pixels are 25 µm (github.com/marrlab/MLL23)
    )  # fmt: skip
    decisions = {
        **same(
            "the folder names the class",
            myeloblast="Myeloblast",
            promyelocyte="Promyelocyte",
            myelocyte="Myelocyte",
            metamyelocyte="Metamyelocyte",
            neutrophil_band="Band Neutrophil",
            neutrophil_segmented="Segmented Neutrophil",
            lymphocyte="Lymphocyte",
            monocyte="Monocyte",
            eosinophil="Eosinophil",
            basophil="Basophil",
        ),
        **same("the short names of its label table", band="Band Neutrophil", segmented="Segmented Neutrophil"),
        **same("a late erythroblast, as seen in blood", normoblast="Erythroblast"),
        "hairy_cell": Decision(None, "hairy cell: a neoplastic lymphocyte, unlike our normal Lymphocyte"),
        "lymphocyte_large_granular": Decision(None, "a variant with granules, which our Lymphocyte does not have"),
        "lymphocyte_neoplastic": Decision(None, "neoplastic, unlike our normal Lymphocyte"),
        "lymphocyte_reactive": Decision(None, "reactive, unlike our resting Lymphocyte"),
        "plasma_cell": Decision(None, "plasma cell"),
        "promyelocyte_atypical": Decision(None, "a leukaemic form, unlike our Promyelocyte"),
        "smudge_cell": Decision(None, "smudge cell: a ruptured nucleus of unknown class"),
    }
    landmarks = tuple(decisions)

    def code_of(self, path: str) -> str:
        return super().code_of(path).lower().replace(" ", "_")
