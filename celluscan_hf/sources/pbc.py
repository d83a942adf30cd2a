"""PBC, 17,092 cells of healthy donors, Hospital Clinic of Barcelona (Acevedo et al., Data in Brief 2020).

https://data.mendeley.com/datasets/snkd93bnjr/1 — folders of eight classes; the file prefix is the finer label.
"""

from .base import ClassFolderSource, same
from .records import SourceInfo


class PBC(ClassFolderSource):
    """`{basophil,…,platelet}/PREFIX_N.jpg`, mostly 360x363 JPEG. Donors are unknown: each image is its own group."""

    info = SourceInfo(
        title="PBC (PBC_dataset_normal_DIB)",
        license="CC-BY-4.0",
        citation="Acevedo et al., A dataset of microscopic peripheral blood cell images for development of automatic "
        "recognition systems, Data in Brief 30, 2020",
        url="https://doi.org/10.17632/snkd93bnjr.1",
        caution="All IG and NEUTROPHIL files, and some of five other labels, come from another acquisition with a grey "
        "background: a model can recognise these two by their background alone.",
        published=dict(
            BA=1218, EO=3117, ERB=1551, IG=151, PMY=592, MY=1137, MMY=1015, LY=1214, MO=1420, BNE=1633, SNE=1646,
            NEUTROPHIL=50, PLATELET=2348,
        ),
        microns_per_pixel=0.1,  # so listed in µ-Bench (huggingface.co/datasets/jnirschl/uBench), not by its authors
    )  # fmt: skip
    landmarks = ("basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil", "platelet")
    decisions = {
        **same(
            "the prefix names the class",
            BA="Basophil",
            EO="Eosinophil",
            ERB="Erythroblast",
            PMY="Promyelocyte",
            MY="Myelocyte",
            MMY="Metamyelocyte",
            LY="Lymphocyte",
            MO="Monocyte",
            BNE="Band Neutrophil",
            SNE="Segmented Neutrophil",
            PLATELET="Platelet",
        ),
        **same("not subdivided by the experts: the parent class", IG="Immature Granulocyte"),
        **same("not subdivided by the experts: the parent class", NEUTROPHIL="Neutrophil"),
    }

    def code_of(self, path: str) -> str:
        return path.split("/")[-1].rpartition("_")[0]
