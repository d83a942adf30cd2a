"""List all sources without opening an image, and detect whether they changed."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..sources import Dropped, Record, Source
from ..workers import progress

_log = logging.getLogger(__name__)


@dataclass
class Listing:
    """Content of the sources.

    - `usable`, `labelled`: number of records by source, and by source and class.
    - `dropped`: files that are dropped already.
    - `found`: number of files or boxes by source and source label.
    - `digest`: equal for equal names, labels and licences.
    - `files`: equal for files that were not written to since.
    """

    usable: Counter[str] = field(default_factory=Counter)
    labelled: Counter[tuple[str, str]] = field(default_factory=Counter)
    dropped: list[Dropped] = field(default_factory=list)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    digest: str = ""
    files: str = ""

    @property
    def records(self) -> int:
        return self.usable.total()

    @property
    def seen(self) -> int:
        return self.records + len(self.dropped)


def list_sources(sources: Iterable[Source]) -> Listing:
    """List all sources once, without opening an image."""
    listing = Listing()
    digest, files = hashlib.sha256(), hashlib.sha256()
    for source in sources:
        digest.update(source.variant.encode())
        labels = listing.found[source.name] = Counter()
        with progress(f"listing {source.name}", None, "record") as advance:
            for item in source.records():
                digest.update(repr((source.license, _without_member(item))).encode())
                labels[item.source_label] += 1
                if isinstance(item, Dropped):
                    listing.dropped.append(item)
                else:
                    listing.usable[source.name] += 1
                    if item.label is not None:
                        listing.labelled[source.name, item.label] += 1
                advance(1)
        log_notes(source)
        files.update(source.stamp.encode())
    listing.digest, listing.files = digest.hexdigest(), files.hexdigest()
    return listing


def log_notes(source: Source) -> None:
    """Log the notes of a source that was listed."""
    for note in source.notes:
        _log.warning("source %s: %s", source.name, note)


def _without_member(item: Record | Dropped) -> Record | Dropped:
    """Return an item without the location of its bytes, which depends on how its source is packed."""
    return replace(item, member="") if isinstance(item, Record) else item
