"""AML-Cytomorphology_LMU, 18,365 cells of 100 AML patients and 100 controls, Munich (Matek et al. 2019).

https://doi.org/10.7937/tcia.2019.36f5o9ld — `<CODE>/<CODE>_NNNN.tiff`, 400x400 RGBA.
"""

from .base import ClassFolderSource, same
from .records import Decision, SourceInfo


class AMLCytomorphologyLMU(ClassFolderSource):
    """One folder per code. File names do not identify patients, so each image is its own group."""

    info = SourceInfo(
        title="AML-Cytomorphology_LMU",
        license="CC-BY-3.0",
        citation="Matek et al., Human-level recognition of blast cells in acute myeloid leukaemia with convolutional "
        "neural networks, Nature Machine Intelligence 1, 2019",
        url="https://doi.org/10.7937/tcia.2019.36f5o9ld",
        caution="Leukaemia patients and controls of one hospital: its myeloblasts are leukaemic blasts.",
        published=dict(
            NGS=8484, LYT=3937, MYO=3268, MON=1789, EOS=424, NGB=109, BAS=79, EBO=78, PMO=70, MYB=42, MOB=26, PMB=18,
            MMZ=15, KSC=15, LYA=11,
        ),
        microns_per_pixel=29 / 400,  # 400 pixels are about 29 µm (Matek et al. 2019)
    )  # fmt: skip
    decisions = {
        **same(
            "the same cell under another code",
            NGS="Segmented Neutrophil",
            NGB="Band Neutrophil",
            EOS="Eosinophil",
            BAS="Basophil",
            MON="Monocyte",
            LYT="Lymphocyte",
            MYO="Myeloblast",
            PMO="Promyelocyte",
            MYB="Myelocyte",
            MMZ="Metamyelocyte",
            EBO="Erythroblast",
        ),
        "KSC": Decision(None, "smudge cell: a ruptured nucleus of unknown class"),
        "LYA": Decision(None, "atypical lymphocyte: reactive or neoplastic, unlike our normal Lymphocyte"),
        "MOB": Decision(None, "monoblast: a blast of the monocytic line; our blast class is the Myeloblast"),
        "PMB": Decision(
            None,
            "bilobed promyelocyte: a leukaemic form whose cleft nucleus contradicts the round one that defines "
            "our Promyelocyte",
        ),
    }
    landmarks = tuple(decisions)
