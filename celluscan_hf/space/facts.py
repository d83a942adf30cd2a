"""Facts on each class for the demo page: morphology, where it is reported, look-alikes. Education, not advice.

The statements are in `facts.yaml` beside this module, each with the key of its reference. Loading checks that every
class is present and that every reference exists and is used.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml

from .. import taxonomy
from ..errors import CelluScanError

_FACTS = Path(__file__).with_name("facts.yaml")
_CODES = tuple(cell.code for cell in taxonomy.CLASSES)


@dataclass(frozen=True)
class Reference:
    """The source of a statement."""

    citation: str
    url: str


@dataclass(frozen=True)
class Statement:
    """One fact with its reference."""

    text: str
    reference: Reference


@dataclass(frozen=True)
class LookAlike:
    """A class that this one is mistaken for, by its `code`, and how experts distinguish the two."""

    code: str
    how: str
    reference: Reference


@dataclass(frozen=True)
class CellFacts:
    """All facts on one class. `reported_in`: conditions in which the cell is reported in blood, or increased."""

    code: str
    summary: str
    looks: tuple[Statement, ...]
    reported_in: tuple[Statement, ...]
    look_alikes: tuple[LookAlike, ...]


@lru_cache
def load_facts(path: Path = _FACTS) -> dict[str, CellFacts]:
    """Load the facts on all classes by code, in the order of the taxonomy.

    Raises a `CelluScanError` with class and field if something is missing, unknown, empty or unused.
    """
    content = _fields(yaml.safe_load(path.read_text("utf-8")), path.name, ("references", "classes"))
    references = {
        key: _reference(entry, f"references.{key}") for key, entry in _mapping(content["references"], "references")
    }
    classes = _fields(content["classes"], "classes", _CODES)
    facts = {code: _cell(code, classes[code], references) for code in _CODES}
    _check_used(facts, references)
    return facts


def _reference(entry: object, place: str) -> Reference:
    fields = _fields(entry, place, ("citation", "url"))
    return Reference(_text(fields["citation"], f"{place}.citation"), _text(fields["url"], f"{place}.url"))


def _cell(code: str, entry: object, references: Mapping[str, Reference]) -> CellFacts:
    fields = _fields(entry, code, ("summary", "looks", "reported_in", "look_alikes"))
    looks, reported_in = (
        tuple(_statement(item, place, references) for place, item in _items(fields[name], f"{code}.{name}"))
        for name in ("looks", "reported_in")
    )
    look_alikes = tuple(
        _look_alike(code, item, place, references)
        for place, item in _items(fields["look_alikes"], f"{code}.look_alikes")
    )
    return CellFacts(code, _text(fields["summary"], f"{code}.summary"), looks, reported_in, look_alikes)


def _statement(item: object, place: str, references: Mapping[str, Reference]) -> Statement:
    fields = _fields(item, place, ("text", "reference"))
    return Statement(_text(fields["text"], f"{place}.text"), _referred(fields["reference"], place, references))


def _look_alike(code: str, item: object, place: str, references: Mapping[str, Reference]) -> LookAlike:
    fields = _fields(item, place, ("class", "how", "reference"))
    other = _text(fields["class"], f"{place}.class")
    if other not in _CODES or other == code:
        raise _wrong(f"{place}.class", f"{other} is not one of the other classes: {', '.join(_CODES)}")
    return LookAlike(other, _text(fields["how"], f"{place}.how"), _referred(fields["reference"], place, references))


def _referred(key: object, place: str, references: Mapping[str, Reference]) -> Reference:
    reference = references.get(_text(key, f"{place}.reference"))
    if reference is None:
        raise _wrong(f"{place}.reference", f"unknown reference {key}; add it under `references`")
    return reference


def _check_used(facts: Mapping[str, CellFacts], references: Mapping[str, Reference]) -> None:
    used = {statement.reference for cell in facts.values() for statement in (*cell.looks, *cell.reported_in)}
    used |= {look_alike.reference for cell in facts.values() for look_alike in cell.look_alikes}
    unused = [key for key, reference in references.items() if reference not in used]
    if unused:
        raise _wrong("references", f"no statement names {', '.join(unused)}; remove it")


def _fields(value: object, place: str, names: tuple[str, ...]) -> dict[str, object]:
    """Return the mapping `value`, which must have exactly these names."""
    fields = dict(_mapping(value, place))
    missing = [name for name in names if name not in fields]
    unknown = [name for name in fields if name not in names]
    if missing:
        raise _wrong(place, f"missing: {', '.join(missing)}")
    if unknown:
        raise _wrong(place, f"unknown: {', '.join(unknown)}; expected: {', '.join(names)}")
    return fields


def _mapping(value: object, place: str) -> list[tuple[str, object]]:
    if not isinstance(value, dict) or not value:
        raise _wrong(place, f"expected names with values, got {value!r}")
    return [(str(name), item) for name, item in value.items()]


def _items(value: object, place: str) -> list[tuple[str, object]]:
    """Return the items of a list, at least one, each with its place."""
    if not isinstance(value, list) or not value:
        raise _wrong(place, f"expected a list of at least one, got {value!r}")
    return [(f"{place}[{number}]", item) for number, item in enumerate(value)]


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(place, f"expected text, got {value!r}")
    return value


def _wrong(place: str, what: str) -> CelluScanError:
    return CelluScanError(f"facts.yaml, {place}: {what}")
