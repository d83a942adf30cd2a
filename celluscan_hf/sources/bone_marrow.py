"""Bone-Marrow-Cytomorphology, 171,375 cells of 945 patients, MLL, Helmholtz and Fraunhofer (Matek et al. 2021).

https://doi.org/10.7937/TCIA.AXH3-T579 — `<CODE>/<range>/<CODE>_NNNNN.jpg`. Bone marrow, not blood: cells are
crowded and stained differently, so test a blood model on them before training one on them.
"""

from .base import ClassFolderSource, same
from .records import Decision, SourceInfo


class BoneMarrow(ClassFolderSource):
    """One folder per code. File names do not identify patients, so each image is its own group."""

    info = SourceInfo(
        title="Bone-Marrow-Cytomorphology_MLL_Helmholtz_Fraunhofer",
        license="CC-BY-4.0",
        citation="Matek et al., Highly accurate differentiation of bone marrow cell morphologies using deep neural "
        "networks on a large image dataset, Blood 138, 2021",
        url="https://doi.org/10.7937/TCIA.AXH3-T579",
        caution="Bone marrow, not blood.",
        published=dict(total=171_375),
    )
    decisions = {
        **same(
            "the same cell under another code",
            BAS="Basophil",
            EBO="Erythroblast",
            EOS="Eosinophil",
            LYT="Lymphocyte",
            MMZ="Metamyelocyte",
            MON="Monocyte",
            MYB="Myelocyte",
            NGB="Band Neutrophil",
            NGS="Segmented Neutrophil",
            PMO="Promyelocyte",
        ),
        "ABE": Decision(None, "abnormal eosinophil: dysplastic, unlike our normal Eosinophil"),
        "ART": Decision(None, "artefact"),
        "BLA": Decision(None, "blast without a lineage: may be lymphoid, so not our Myeloblast"),
        "FGC": Decision(None, "faggot cell: a leukaemic promyelocyte full of Auer rods, unlike our Promyelocyte"),
        "HAC": Decision(None, "hairy cell: a neoplastic lymphocyte, unlike our normal Lymphocyte"),
        "KSC": Decision(None, "smudge cell: a ruptured nucleus of unknown class"),
        "LYI": Decision(None, "immature lymphocyte: a precursor, unlike our mature Lymphocyte"),
        "NIF": Decision(None, "not identifiable"),
        "OTH": Decision(None, "other cell"),
        "PEB": Decision(None, "proerythroblast: a large early form; our Erythroblasts are the late ones seen in blood"),
        "PLM": Decision(None, "plasma cell"),
    }
    landmarks = tuple(decisions)
