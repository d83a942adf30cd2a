"""The 14 classes of CelluScan. The position of a class in `CLASSES` is its label id.

Datasets and checkpoints store these ids, so an id never changes. The first 14 happen to be alphabetical; append a new
class at the end, whatever its name, and never insert, reorder or remove one. Each class has

- a *parent*: the coarser label that some sources use. Neutrophil is the parent of Band and Segmented Neutrophil,
  Immature Granulocyte that of Promyelocyte, Myelocyte and Metamyelocyte.
- a *stage* of neutrophil maturation: Myeloblast 1 to Segmented Neutrophil 6.
- a flag *abnormal in blood*: not expected in the peripheral blood of a healthy adult. Small numbers of band neutrophils
  are normal (more are a "left shift"), so they are not flagged.
"""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class CellClass:
    """One class: `name` is the label, `code` its short form, `stage` its maturation stage 1–6 or None."""

    name: str
    code: str
    parent: str | None
    lineage: str
    stage: int | None
    abnormal_in_blood: bool


CLASSES: tuple[CellClass, ...] = (
    CellClass("Band Neutrophil", "BNE", "Neutrophil", "granulocytic", 5, False),
    CellClass("Basophil", "BA", None, "granulocytic", None, False),
    CellClass("Eosinophil", "EO", None, "granulocytic", None, False),
    CellClass("Erythroblast", "ERB", None, "erythroid", None, True),
    CellClass("Immature Granulocyte", "IG", None, "granulocytic", None, True),
    CellClass("Lymphocyte", "LY", None, "lymphoid", None, False),
    CellClass("Metamyelocyte", "MMY", "Immature Granulocyte", "granulocytic", 4, True),
    CellClass("Monocyte", "MO", None, "monocytic", None, False),
    CellClass("Myeloblast", "MYO", None, "granulocytic", 1, True),
    CellClass("Myelocyte", "MY", "Immature Granulocyte", "granulocytic", 3, True),
    CellClass("Neutrophil", "NEU", None, "granulocytic", None, False),
    CellClass("Platelet", "PLT", None, "megakaryocytic", None, False),
    CellClass("Promyelocyte", "PMY", "Immature Granulocyte", "granulocytic", 2, True),
    CellClass("Segmented Neutrophil", "SNE", "Neutrophil", "granulocytic", 6, False),
)

_OWN_CODE = 6  # letters of the code of a class that is not ours
NAMES: tuple[str, ...] = tuple(cell.name for cell in CLASSES)
LABEL2ID: dict[str, int] = {name: label for label, name in enumerate(NAMES)}
ID2LABEL: dict[int, str] = dict(enumerate(NAMES))

PARENTS: dict[str, str] = {cell.name: cell.parent for cell in CLASSES if cell.parent}  # by the finer name

# Labels of the published datasets of `sources` that differ from our names and codes, and mean one class in all of them.
PUBLISHED_LABELS: dict[str, str] = {
    "BAS": "Basophil",
    "BASO": "Basophil",
    "EBO": "Erythroblast",
    "EOS": "Eosinophil",
    "EOSI": "Eosinophil",
    "LYMP": "Lymphocyte",
    "LYT": "Lymphocyte",
    "MMZ": "Metamyelocyte",
    "MON": "Monocyte",
    "MONO": "Monocyte",
    "MYB": "Myelocyte",
    "NEUT": "Neutrophil",
    "NGB": "Band Neutrophil",
    "NGS": "Segmented Neutrophil",
    "PMO": "Promyelocyte",
    "neutrophil band": "Band Neutrophil",
    "neutrophil segmented": "Segmented Neutrophil",
    "normoblast": "Erythroblast",
}


def _key(text: str) -> str:
    """Normalize case, separators and a plural s: "Band_Neutrophils" and "band neutrophil" have one key."""
    words = re.sub(r"[\s_\-]+", " ", text).strip().casefold()
    return words[:-1] if words.endswith("s") and len(words) > 4 else words


_BY_KEY: dict[str, CellClass] = {
    **{_key(text): cell for cell in CLASSES for text in (cell.name, cell.code)},
    **{_key(label): CLASSES[LABEL2ID[name]] for label, name in PUBLISHED_LABELS.items()},
}
_PUBLISHED_KEYS = frozenset(map(_key, PUBLISHED_LABELS))


def lookup(text: str) -> CellClass:
    """Return the class that `text` names: a name, code or published label, in any case, plural and separators.

    Raises `KeyError` with the nearest names if none matches.
    """
    try:
        return _BY_KEY[_key(text)]
    except KeyError:
        raise KeyError(_unknown_class(text)) from None


def classes_of(names: Iterable[str]) -> tuple[CellClass, ...]:
    """Return what is known of the classes of a model: nothing but the name of those that are not ours.

    The code of these is the beginning of their name, or the whole if others begin so.
    """
    own = [name for name in names if name not in LABEL2ID]
    begin = Counter(name[:_OWN_CODE] for name in own)
    codes = {name: name[:_OWN_CODE] if begin[name[:_OWN_CODE]] == 1 else name for name in own}
    return tuple(
        CellClass(name, codes[name], None, "", None, False) if name in codes else CLASSES[LABEL2ID[name]]
        for name in names
    )


def is_published_label(text: str) -> bool:
    """Whether `lookup` knows a text from published datasets alone."""
    return _key(text) in _PUBLISHED_KEYS


def _unknown_class(text: str) -> str:
    keys = difflib.get_close_matches(_key(text), _BY_KEY, n=3, cutoff=0.5)
    nearest = list(dict.fromkeys(_BY_KEY[key].name for key in keys))
    hint = f"nearest: {', '.join(nearest)}" if nearest else f"expected one of: {', '.join(NAMES)}"
    return f"{text!r} is not one of the {len(CLASSES)} classes; {hint}"


@lru_cache(1024)
def resembles(text: str) -> bool:
    """Whether a text that names no class looks like a misspelt ("Neutrofil") or shortened ("band") class name."""
    key = _key(text)
    words = {_key(word) for name in NAMES for word in name.split()}
    long = [name for name in _BY_KEY if len(name) > 4]
    if key in _BY_KEY or any(map(str.isdigit, key)):
        return False
    return key in words or bool(difflib.get_close_matches(key, long, n=1, cutoff=0.8))


def is_ancestor(parent: str, child: str) -> bool:
    """Whether `parent` is the parent class of `child`, as Neutrophil is of Band Neutrophil."""
    return CLASSES[LABEL2ID[child]].parent == parent


def stages(name: str) -> tuple[int, ...]:
    """Return the maturation stages that a label covers: (3,) for Myelocyte, (5, 6) for Neutrophil, () if none."""
    family = [cell for cell in CLASSES if name in (cell.name, cell.parent)]
    return tuple(sorted(cell.stage for cell in family if cell.stage is not None))


def finest(names: set[str]) -> str | None:
    """Return the most specific of `names` if they agree (one class, or a class and its parent), else None."""
    for name in names:
        if all(other == name or is_ancestor(other, name) for other in names):
            return name
    return None
