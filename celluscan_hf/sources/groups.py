"""What tells which cells came from the same patient, slide or smear: an identifier in a table, or a folder's name."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from .. import taxonomy

_NO_GROUP = frozenset(  # letters and digits alone, lower case: "N/A", "<NA>" and "n.a." are all "na"
    {
        "", "na", "nan", "nat", "null", "none", "nil", "unknown", "unk", "missing", "undefined", "unspecified",
        "notavailable", "notapplicable", "notknown", "notrecorded",
    }
)  # fmt: skip
# names of folders that tell no patient, alone or with a number or letter behind: "images", "train", "part 2", "site_A"
_GENERIC = re.compile(
    r"(?:train(?:ing)?|test(?:ing)?|val(?:id|idation)?|dev|eval(?:uation)?|holdout|unlabell?ed|labell?ed"
    r"|(?:sub)?set|data(?:set)?|split|fold|part|batch|chunk|folder|dir|class|version|v"
    r"|images?|imgs?|pics?|pictures?|photos?|files?|(?:single )?cells?|wbcs?|crops?|cropped|patch(?:es)?|tiles?"
    r"|raw|orig(?:inals?)?|processed|resized|normali[sz]ed|clean(?:ed)?|masks?|annotations?|colou?r|rgb|gr[ae]y"
    r"|jpe?gs?|pngs?|tiffs?|tifs?|bmps?|all|misc|other|others|new|old|tmp|temp|sub images"
    r"|sites?|labs?|laborator(?:y|ies)|hospitals?|clinics?|cent(?:er|re)s?|scanners?|microscopes?|cameras?)"
    r"(?: ?[0-9]{1,2}| [a-z])?"
    r"|patients?|subjects?|donors?|cases?|slides?|smears?|\d{2,4}(?:x\d{2,4}|px)"
)
_MIN_ABOVE = 3  # with fewer folders above the classes, parts of a data set are likelier than patients
_SHOWN = 3  # names in a sentence


def group_name(value: object) -> str:
    """An identifier in one form: 3, "3" and 3.0 are one group, and so are NFC and NFD. Empty for no group.

    No group are values such as NA, nan, null, None, unknown, and whatever has neither letter nor digit.
    """
    text = " ".join(unicodedata.normalize("NFC", str(value)).split())
    text = re.sub(r"^(-?\d+)\.0+$", r"\1", text)
    return "" if "".join(filter(str.isalnum, text.casefold())) in _NO_GROUP else text


def shown(names: Iterable[str]) -> str:
    """The first few of some names, quoted, for a sentence of one line."""
    some = sorted(set(names))
    more = ", …" if len(some) > _SHOWN else ""
    return ", ".join(map(repr, some[:_SHOWN])) + more


@dataclass(frozen=True)
class Place:
    """Where a file lies: the class folders of its path, and the folders above the first and below it."""

    classes: tuple[str, ...]
    above: tuple[str, ...]
    between: tuple[str, ...]


@lru_cache(4096)
def place_of(folder: str) -> Place:
    """The place of the files in a folder, by its path in the tree; all folders are above where none is a class."""
    parts = [part for part in folder.split("/") if part not in ("", ".")]
    found = [number for number, part in enumerate(parts) if is_class(part)]
    first = found[0] if found else len(parts)
    return Place(
        classes=tuple(parts[number] for number in found),
        above=tuple(parts[:first]),
        between=tuple(part for number, part in enumerate(parts) if number > first and number not in found),
    )


def is_class(text: str) -> bool:
    """Whether a folder's name is a class of the taxonomy."""
    try:
        taxonomy.lookup(text)
    except KeyError:
        return False
    return True


@dataclass(frozen=True)
class FolderGroups:
    """Groups that the folders of a tree give.

    `names` gives the group of each folder whose files have one; `level` says in words which folder that is, and is
    empty where there is none. `unused` are names of folders that were not taken as groups. `unclear` is set where two
    levels could be the patients.
    """

    names: Mapping[str, str]
    level: str = ""
    unused: tuple[str, ...] = ()
    unclear: str = ""


def groups_of_folders(folders: Iterable[str]) -> FolderGroups:
    """The groups of files by the folders they lie in: `class/patient/image`, or `patient/class/image`.

    The outermost folder between class and image is the group, or else that above the class if there are several.
    Names that tell no patient, such as `images`, `train` or `unknown`, and folders that all paths share are skipped.
    """
    places = {folder: place_of(folder) for folder in folders}
    between = _first_that_differ({folder: place.between for folder, place in places.items() if place.classes})
    above = _first_that_differ({folder: place.above for folder, place in places.items()})
    above = above if len(set(above.values())) >= _MIN_ABOVE else {}
    all_above = {place.above for place in places.values()}
    parts = {part for place in places.values() for part in place.between + (place.above if len(all_above) > 1 else ())}
    if between and above:
        unclear = f"{shown(above.values())} above the class folders, and {shown(between.values())} below them"
        return FolderGroups({}, unclear=unclear)
    names = between or above
    level = "the folder between class and image" if between else "the folder above the class" if above else ""
    return FolderGroups(names, level, tuple(sorted(parts - _used(parts, names))))


def _first_that_differ(paths: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """For each folder the first name of its path that tells a group, after those that all paths begin with."""
    telling = {
        folder: [group_name(part) for part in parts if group_name(part) and not _is_generic(part)]
        for folder, parts in paths.items()
    }
    while all(telling.values()) and len({parts[0] for parts in telling.values()}) == 1:
        telling = {folder: parts[1:] for folder, parts in telling.items()}
    return {folder: parts[0] for folder, parts in telling.items() if parts}


def _is_generic(name: str) -> bool:
    return _GENERIC.fullmatch(re.sub(r"[\s_.\-]+", " ", name).strip().casefold()) is not None


def _used(parts: Iterable[str], names: Mapping[str, str]) -> set[str]:
    groups = set(names.values())
    return {part for part in parts if group_name(part) in groups}
