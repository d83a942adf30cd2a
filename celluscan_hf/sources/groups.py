"""Groups of cells from the same patient, slide or smear, by an identifier in a table or the name of a folder."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from .. import taxonomy

_NO_GROUP = frozenset(  # letters and digits alone, lower case: "N/A", "<NA>" and "n.a." are all "na"
    {
        "", "na", "nan", "nat", "null", "none", "nil", "unknown", "unk", "missing", "undefined", "unspecified",
        "notavailable", "notapplicable", "notknown", "notrecorded", "nn", "anon", "anonymous", "unbekannt", "inconnu",
        "desconocido", "sconosciuto",
    }
)  # fmt: skip
# folder names that do not identify a patient, also with a number or letter: "images", "train", "part 2", "site_A"
_GENERIC = re.compile(
    r"(?:train(?:ing)?|test(?:ing)?|val(?:id|idation)?|dev|eval(?:uation)?|holdout|unlabell?ed|labell?ed"
    r"|(?:sub)?set|data(?:set)?|split|fold|part|batch|chunk|folder|dir|class|version|v"
    r"|images?|imgs?|pics?|pictures?|photos?|files?|(?:single )?cells?|wbcs?|crops?|cropped|patch(?:es)?|tiles?"
    r"|raw|orig(?:inals?)?|processed|resized|normali[sz]ed|clean(?:ed)?|masks?|annotations?|colou?r|rgb|gr[ae]y"
    r"|jpe?gs?|pngs?|tiffs?|tifs?|bmps?|all|misc|other|others|new|old|tmp|temp|sub images"
    r"|days?|weeks?|visits?|sessions?|runs?|timepoints?|sites?|labs?|laborator(?:y|ies)|hospitals?|clinics?|cent(?:er|re)s?|scanners?|microscopes?|cameras?)"
    r"(?: ?[0-9]{1,2}| [a-z])?"
    r"|patients?|subjects?|donors?|cases?|slides?|smears?|\d{2,4}(?:x\d{2,4}|px)"
)
_UNKNOWN = re.compile(r"(?:unknown|unidentified|missing|no)[ _-](?:patient|subject|donor|case|id)\w*$", re.IGNORECASE)
# parts of one patient's blood: they repeat below each patient
_PART = re.compile(r"(?:slides?|smears?|films?|fields?|regions?|areas?|rois?|s|f)?[ _-]?\d*", re.IGNORECASE)
_MIN_ABOVE = 3  # fewer folders above the classes are more likely parts of a dataset than patients
_SHOWN = 3  # names in a sentence


def group_name(value: object) -> str:
    """Normalize an identifier: 3, "3" and 3.0 are one group, and so are NFC and NFD. Empty for no group.

    NA, nan, null, None, unknown and the like, and values without letters and digits, are not groups.
    """
    text = " ".join(unicodedata.normalize("NFC", str(value)).split())
    text = re.sub(r"^(-?\d+)\.0+$", r"\1", text)
    if text == "-1" or _UNKNOWN.match(text):  # -1 is how pandas codes a missing category
        return ""
    return "" if "".join(filter(str.isalnum, text.casefold())) in _NO_GROUP else text


def shown(names: Iterable[str]) -> str:
    """Quote the first few names for a message of one line."""
    distinct = sorted(set(names))
    return ", ".join(map(repr, distinct[:_SHOWN])) + ", …" * (len(distinct) > _SHOWN)


@dataclass(frozen=True)
class Place:
    """The folders of a path: those named after classes, those above the first of them and those below it."""

    classes: tuple[str, ...]
    above: tuple[str, ...]
    between: tuple[str, ...]


@lru_cache(4096)
def place_of(folder: str) -> Place:
    """Sort the folders of a path in the tree; all are `above` if none is a class."""
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    classes = [number for number, part in enumerate(parts) if is_class(part)]
    first = classes[0] if classes else len(parts)
    return Place(
        classes=tuple(parts[number] for number in classes),
        above=tuple(parts[:first]),
        between=tuple(part for number, part in enumerate(parts) if number > first and number not in classes),
    )


def is_class(text: str) -> bool:
    """Whether a folder name is a class of the taxonomy."""
    try:
        taxonomy.lookup(text)
    except KeyError:
        return False
    return True


@dataclass(frozen=True)
class FolderGroups:
    """Groups given by the folders of a tree.

    `names` maps folders to groups, for those whose files have one; `level` describes which folder is the group, if any.
    `unused` are folder names that were not taken as groups. `unclear` is set if two levels could be the patients.
    """

    names: Mapping[str, str]
    level: str = ""
    unused: tuple[str, ...] = ()
    unclear: str = ""


def groups_of_folders(folders: Iterable[str]) -> FolderGroups:
    """Find groups in folder paths, `class/patient/image` or `patient/class/image`.

    The group is the outermost folder between class and image, or else the one above the class if there are several.
    Names that do not identify a patient (`images`, `train`, `unknown`) and folders shared by all paths are skipped.
    """
    places = {folder: place_of(folder) for folder in folders}
    between = _first_that_differ({folder: place.between for folder, place in places.items() if place.classes})
    above = _first_that_differ({folder: place.above for folder, place in places.items()})
    above = above if len(set(above.values())) >= _MIN_ABOVE else {}
    if repeated := _repeated_below(places.values()):
        unclear = f"{shown(between.values())}, and {shown(repeated)}, which are found in several of these"
        return FolderGroups({}, unclear=unclear)
    all_above = {place.above for place in places.values()}
    parts = {part for place in places.values() for part in place.between + (place.above if len(all_above) > 1 else ())}
    if between and above:
        unclear = f"{shown(above.values())} above the class folders, and {shown(between.values())} below them"
        return FolderGroups({}, unclear=unclear)
    names = between or above
    level = "the folder between class and image" if between else "the folder above the class" if above else ""
    return FolderGroups(names, level, tuple(sorted(parts - _used(parts, names))))


def _repeated_below(places: Iterable[Place]) -> set[str]:
    """Return folder names found below several possible groups, unless they are parts such as slides."""
    outer: dict[str, set[str]] = defaultdict(set)
    for place in places:
        names = [part for part in place.between if group_name(part) and not _is_generic(part)]
        if place.classes and len(names) > 1 and not _PART.fullmatch(names[1]):
            outer[names[1]].add(names[0])
    return {name for name, groups in outer.items() if len(groups) > 1}


def _first_that_differ(paths: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Return for each folder the first name that can be a group, after those that all paths start with."""
    candidates = {
        folder: [group_name(part) for part in parts if group_name(part) and not _is_generic(part)]
        for folder, parts in paths.items()
    }
    while all(candidates.values()) and len({parts[0] for parts in candidates.values()}) == 1:
        candidates = {folder: parts[1:] for folder, parts in candidates.items()}
    return {folder: parts[0] for folder, parts in candidates.items() if parts}


def _is_generic(name: str) -> bool:
    return _GENERIC.fullmatch(re.sub(r"[\s_.\-]+", " ", name).strip().casefold()) is not None


def _used(parts: Iterable[str], names: Mapping[str, str]) -> set[str]:
    groups = set(names.values())
    return {part for part in parts if group_name(part) in groups}
