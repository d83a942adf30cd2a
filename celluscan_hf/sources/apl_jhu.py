"""APL_AML, cells of 106 patients with acute leukaemia, Johns Hopkins Hospital (Sidhom et al., npj Precis Oncol 2021).

https://pubmed.ncbi.nlm.nih.gov/33990660 — `<patient>/Signed slides/<class>/*.jpg`, about 360x363, and
`<patient>/Unsigned slides/*.jpg`, which no expert signed; `master.csv` lists the patients. Also on Kaggle as
acute-promyelocytic-leukemia-apl. A picture can lie under two classes; if both are classes of ours, a build drops it as
a label conflict.
"""

from collections.abc import Iterator

from .base import ClassFolderSource, File, same
from .records import Decision, Dropped, Record, SourceInfo

_SIGNED, _UNSIGNED = "signed slides", "unsigned slides"
_TABLE = "master.csv"


class APLJohnsHopkins(ClassFolderSource):
    """The patient is the group, also if the folder of a single patient is given."""

    info = SourceInfo(
        title="APL_AML (Johns Hopkins)",
        license="none stated",
        citation="Sidhom et al., Deep learning for diagnosis of acute promyelocytic leukemia via recognition of "
        "genomically imprinted morphologic features, npj Precision Oncology 5, 2021",
        url="https://pubmed.ncbi.nlm.nih.gov/33990660/",
        caution="Leukaemia patients of one hospital: its myeloblasts are leukaemic blasts. © The Johns Hopkins "
        "University, given to replicate the paper: its images are not passed on.",
        published=dict(total=25_915),
    )
    groups_from = "the patient's folder"
    landmarks = ("Signed slides", "Unsigned slides")
    decisions = {
        **same(
            "the folder names the class",
            Basophil="Basophil",
            Eosinophils="Eosinophil",
            Erythroblast="Erythroblast",
            Lymphocyte="Lymphocyte",
            Metamyelocyte="Metamyelocyte",
            Monocyte="Monocyte",
            Myelocyte="Myelocyte",
            Promyelocyte="Promyelocyte",
        ),
        "Band neutrophils": Decision("Band Neutrophil", "the folder names the class"),
        "Segmented neutrophils": Decision("Segmented Neutrophil", "the folder names the class"),
        "Blast, no lineage spec": Decision("Myeloblast", "a blast of a patient with myeloid leukaemia"),
        "Giant thrombocyte": Decision("Platelet", "a large platelet is a platelet"),
        "Arifact": Decision(None, "artefact, spelled as published"),
        "Artifact": Decision(None, "artefact"),
        "Lymphocyte, variant": Decision(None, "reactive or neoplastic, unlike our normal Lymphocyte"),
        "Plasma cells": Decision(None, "plasma cell"),
        "Prolymphocyte": Decision(None, "a precursor or neoplastic, unlike our mature Lymphocyte"),
        "Promonocyte": Decision(None, "a precursor of the monocytic line, unlike our mature Monocyte"),
        "Smudge cells": Decision(None, "smudge cell: a ruptured nucleus of unknown class"),
        "Thrombocyte aggregation": Decision(None, "several platelets in a clump, not a single cell"),
        "Unidentified": Decision(None, "not identified by the experts"),
        "Young Unidentified": Decision(None, "a young cell that the experts did not identify"),
    }

    def code_of(self, path: str) -> str:
        depth = _depth(path)
        folders = [] if depth is None else path.split("/")[depth + 1 : -1]
        return _CODES.get(_plain(folders[0]), folders[0]) if folders else ""

    def group_of(self, path: str) -> str | None:
        return self.tree.location.stem if _depth(path) == 0 else path.split("/")[0]

    def cells(self, file: File) -> Iterator[Record | Dropped]:
        depth = _depth(file.path)
        if depth is not None and _plain(file.path.split("/")[depth]) == _UNSIGNED:
            yield Dropped(file.image_id, "unsigned", "no expert signed its class")
        elif file.path.lower() != _TABLE:
            yield from super().cells(file)

    def root_of(self, path: str) -> str | None:
        """Return the folder above the patient's; the top if the patient's is not in the path."""
        folders, depth = path.split("/")[:-1], _depth(path)
        return None if depth is None else "".join(f"{above}/" for above in folders[: max(depth - 1, 0)])


def _depth(path: str) -> int | None:
    """Return the depth of the folder `Signed slides` or `Unsigned slides` in a path; None if it has neither."""
    folders = enumerate(path.split("/")[:-1])
    return next((depth for depth, folder in folders if _plain(folder) in (_SIGNED, _UNSIGNED)), None)


def _plain(folder: str) -> str:
    return " ".join(folder.replace("_", " ").casefold().split())


_CODES = {_plain(code): code for code in APLJohnsHopkins.decisions}
