"""What a reader hands on: a `Record` per cell, a `Dropped` per file it cannot hand on, and facts on the source."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Record:
    """One cell to be looked at.

    - `image_id`: `source/relative/path`, with `#box` behind it where the cell is a box of a larger field.
    - `member`: what `Source.read` takes to find the bytes.
    - `label`: one of the 14 class names. None: the label is unknown to the reader; the file is still opened,
      so that its reason says `not_an_image` or `unknown_label:…`, whichever is true.
    - `group`: cells that share it stay together in every split (a smear, a field, one cell's copies).
    - `box`: left, top, right, bottom in pixels of the opened image; None for all of it.
    - `augmented`: the publisher made this image out of another one; such a group may only be trained on.
    """

    image_id: str
    member: str
    label: str | None
    source_label: str
    group: str
    box: tuple[int, int, int, int] | None = None
    augmented: bool = False


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file (or box) that does not become a row: a row of `dropped.csv` instead."""

    path: str
    reason: str
    detail: str = ""
    source_label: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """How one label of a source is read: the class it becomes (None: it has none of ours), and why."""

    label: str | None
    reason: str


@dataclass(frozen=True)
class SourceInfo:
    """Published facts on a source.

    `published` holds the counts its authors give, by their own labels ("total" where only that is known).
    `caution` is what a user of these images has to know, for the card; empty where there is nothing special.
    `derived_from` names the source whose cells reappear in this one, so that both stay on one side of a split.
    """

    title: str
    license: str
    citation: str
    url: str
    published: Mapping[str, int] = field(default_factory=dict)
    caution: str = ""
    derived_from: str | None = None
