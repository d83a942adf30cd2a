"""Output of a reader: a `Record` per cell, a `Dropped` per unusable file, and information on the source."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Record:
    """One cell to be scanned.

    - `image_id`: `source/relative/path`, followed by `#box` if the cell is a box in a larger field.
    - `member`: the key by which `Source.read` finds the bytes.
    - `label`: a class name. None: the reader does not know the label; the file is still opened, so that its reason is
      `not_an_image` or `unknown_label:…`, whichever is true.
    - `group`: cells that share it stay together in every split (a smear, a field, copies of one cell).
    - `box`: left, top, right, bottom in pixels of the decoded image; None for the whole image.
    - `augmented`: the publisher made this image from another one; its group may only be used for training.
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
    """A file (or box) that is not used: a row of `dropped.csv`."""

    path: str
    reason: str
    detail: str = ""
    source_label: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """The class that a label of a source is mapped to (None: it is dropped), and why."""

    label: str | None
    reason: str


@dataclass(frozen=True)
class SourceInfo:
    """Published information on a source.

    `published` holds the counts that its authors give, by their own labels ("total" if only that is known). `caution`
    is a warning for users of these images, shown on the card, or empty. `derived_from` names the source whose cells
    reappear in this one, so that both are on the same side of a split. `microns_per_pixel` is the side of a pixel of
    the published files in µm; None if it is not published.
    """

    title: str
    license: str
    citation: str
    url: str
    published: Mapping[str, int] = field(default_factory=dict)
    caution: str = ""
    derived_from: str | None = None
    microns_per_pixel: float | None = None
