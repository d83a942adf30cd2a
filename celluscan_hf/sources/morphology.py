"""Morphology of each class in a Wright-Giemsa stained smear, as a table from which `drawing` draws.

Lengths are in micrometres unless stated to be shares; a pair of numbers is a range, sampled for each cell.
After Palmer et al., ICSH recommendations for the standardization of nomenclature and grading of peripheral blood cell
morphological features, Int J Lab Hematol 37, 2015, and Bain, Blood Cells: A Practical Guide, 5th edition, 2015.
"""

from dataclasses import dataclass

from .. import taxonomy

Span = tuple[float, float]
Colour = tuple[int, int, int]

FIELD_WIDTH = 34.0
RED_CELL_DIAMETER: Span = (6.6, 7.8)
BACKGROUND: Colour = (254, 231, 206)
RED_CELL: Colour = (202, 162, 162)

DENSE: Colour = (58, 20, 122)
LILAC: Colour = (146, 102, 166)
AZURE: Colour = (102, 32, 116)


@dataclass(frozen=True)
class Nucleus:
    """A shape swept along a bent spine: round if the spine is short; a bean, a band or lobes if it is long.

    - `width`, `length`: half the thickness and the length of the spine, as shares of the cell's radius.
    - `turn`: degrees by which the spine bends from end to end; a share `s_share` of the cells bends back half way.
    - `lobes`: number of lobes along the spine, joined by filaments.
    - `eccentric`: offset of the nucleus, as a share of the free space in the cell.
    - `wavy`: irregularity of the outline.
    - `grain`, `openness`: size of the pale gaps in the chromatin and their share of the nucleus.
    """

    width: Span
    length: Span = (0.0, 0.15)
    turn: Span = (0, 0)
    s_share: float = 0.0
    lobes: tuple[int, int] = (1, 1)
    eccentric: Span = (0.0, 0.5)
    wavy: float = 0.2
    dark: Colour = DENSE
    pale: Colour = LILAC
    grain: float = 0.45
    openness: float = 0.35
    nucleoli: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Granules:
    """Round granules throughout the cytoplasm; `over_nucleus` is their opacity above the nucleus."""

    count: tuple[int, int]
    radius: Span
    colour: Colour
    over_nucleus: float = 0.0


@dataclass(frozen=True)
class CellMorphology:
    """One class. `uneven` is the irregularity of the outline, `texture` the mottling of the cytoplasm."""

    diameter: Span
    cytoplasm: Colour
    nucleus: Nucleus | None = None
    granules: tuple[Granules, ...] = ()
    vacuoles: tuple[int, int] = (0, 0)
    uneven: float = 0.35
    texture: float = 7.0


_NEUTROPHIL_GRANULES = Granules((120, 260), (0.10, 0.20), (176, 122, 166))

MORPHOLOGY: dict[str, CellMorphology] = {
    "Segmented Neutrophil": CellMorphology(
        diameter=(11.5, 14.0),
        cytoplasm=(232, 198, 196),
        nucleus=Nucleus(width=(0.29, 0.35), length=(3.0, 3.7), turn=(230, 330), lobes=(3, 5)),
        granules=(_NEUTROPHIL_GRANULES,),
    ),
    "Band Neutrophil": CellMorphology(
        diameter=(11.5, 14.0),
        cytoplasm=(232, 198, 196),
        nucleus=Nucleus(width=(0.22, 0.28), length=(1.7, 2.3), turn=(150, 260), s_share=0.25),
        granules=(_NEUTROPHIL_GRANULES,),
    ),
    "Eosinophil": CellMorphology(
        diameter=(12.0, 15.0),
        cytoplasm=(226, 168, 160),
        nucleus=Nucleus(width=(0.36, 0.44), length=(1.9, 2.2), turn=(40, 130), lobes=(2, 2), eccentric=(0.4, 1.0)),
        granules=(Granules((330, 420), (0.35, 0.52), (201, 100, 94)), Granules((60, 120), (0.3, 0.4), (224, 140, 116))),
    ),
    "Basophil": CellMorphology(
        diameter=(9.5, 12.0),
        cytoplasm=(206, 168, 196),
        nucleus=Nucleus(width=(0.45, 0.6), length=(0.4, 0.9), turn=(20, 120), dark=(98, 56, 142), pale=(150, 104, 168)),
        granules=(Granules((190, 280), (0.32, 0.55), (46, 18, 100), over_nucleus=0.9),),
        uneven=0.5,
    ),
    "Lymphocyte": CellMorphology(
        diameter=(8.0, 10.0),
        cytoplasm=(156, 174, 210),
        nucleus=Nucleus(width=(0.84, 0.90), wavy=0.1, pale=(100, 58, 146), grain=0.8, openness=0.3),
    ),
    "Monocyte": CellMorphology(
        diameter=(15.0, 18.5),
        cytoplasm=(176, 164, 194),
        nucleus=Nucleus(
            width=(0.32, 0.42), length=(1.2, 1.7), turn=(160, 260), dark=(92, 46, 140), pale=(150, 108, 172),
            openness=0.5,
        ),
        granules=(Granules((60, 160), (0.08, 0.14), (140, 96, 160)),),
        vacuoles=(8, 18),
        uneven=0.8,
        texture=11.0,
    ),
    "Erythroblast": CellMorphology(
        diameter=(8.0, 10.5),
        cytoplasm=(160, 146, 176),
        nucleus=Nucleus(
            width=(0.50, 0.62), length=(0, 0), eccentric=(0.2, 0.9), wavy=0.06, dark=(40, 14, 92), pale=(62, 30, 112),
            openness=0.2,
        ),
        uneven=0.2,
        texture=4.0,
    ),
    "Platelet": CellMorphology(
        diameter=(2.8, 4.2),
        cytoplasm=(176, 140, 184),
        granules=(Granules((22, 36), (0.15, 0.30), (92, 42, 138)),),
        uneven=0.2,
    ),
    "Myeloblast": CellMorphology(
        diameter=(14.0, 17.0),
        cytoplasm=(112, 124, 194),
        nucleus=Nucleus(
            width=(0.83, 0.89), eccentric=(0.4, 1.0), dark=(108, 46, 154), pale=(146, 88, 178), grain=0.35,
            openness=0.5, nucleoli=(2, 4),
        ),
        uneven=0.6,
        texture=5.0,
    ),
    "Promyelocyte": CellMorphology(
        diameter=(15.5, 19.0),
        cytoplasm=(160, 158, 200),
        nucleus=Nucleus(
            width=(0.56, 0.66), length=(0, 0.4), eccentric=(0.5, 1.0), dark=(104, 58, 150), pale=(148, 106, 178),
            nucleoli=(0, 2),
        ),
        granules=(Granules((360, 520), (0.19, 0.32), AZURE, over_nucleus=0.75),),
        uneven=0.6,
    ),
    "Myelocyte": CellMorphology(
        diameter=(12.5, 16.0),
        cytoplasm=(204, 178, 202),
        nucleus=Nucleus(width=(0.54, 0.63), length=(0.1, 0.4), eccentric=(0.6, 1.0), openness=0.45, grain=0.5),
        granules=(Granules((160, 300), (0.12, 0.24), (142, 84, 154), over_nucleus=0.1),),
        uneven=0.5,
    ),
    "Metamyelocyte": CellMorphology(
        diameter=(12.0, 15.0),
        cytoplasm=(226, 190, 196),
        nucleus=Nucleus(width=(0.38, 0.45), length=(0.85, 1.1), turn=(120, 190), eccentric=(0.5, 1.0), openness=0.4),
        granules=(_NEUTROPHIL_GRANULES,),
        uneven=0.45,
    ),
}  # fmt: skip

# A parent class without a row is drawn as one of its finer classes, here by stage.
FINER: dict[str, tuple[str, ...]] = {
    parent: tuple(
        cell.name
        for cell in sorted(taxonomy.CLASSES, key=lambda cell: cell.stage or 0)
        if cell.parent == parent and cell.name in MORPHOLOGY
    )
    for parent in dict.fromkeys(taxonomy.PARENTS.values())
    if parent not in MORPHOLOGY
}
# The others have no synthetic cells.
DRAWN: tuple[str, ...] = tuple(name for name in taxonomy.NAMES if name in MORPHOLOGY or FINER.get(name))
