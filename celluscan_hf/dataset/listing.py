"""Going through all sources once, without opening an image: what there is, and whether it is still the same."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ..sources import Dropped, Record, Source
from .workers import progress

_log = logging.getLogger(__name__)


@dataclass
class Listing:
    """What the sources hold: records to look at, by source, and by source and class; files dropped already; how often
    each label of a source was found.

    `digest` is equal for equal names, labels and licences, `files` for files that were not written to since.
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
    """Go through all sources once without opening an image."""
    listing = Listing()
    digest, files = hashlib.sha256(), hashlib.sha256()
    for source in sources:
        digest.update(source.variant.encode())
        found = listing.found[source.name] = Counter()
        with progress(f"listing {source.name}", None, "record") as advance:
            for item in source.records():
                digest.update(repr((source.license, _without_member(item))).encode())
                found[item.source_label] += 1
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
    """Log what a user should know of a source that was listed."""
    for note in source.notes:
        _log.warning("source %s: %s", source.name, note)


def _without_member(item: Record | Dropped) -> Record | Dropped:
    """An item without the place of its bytes, which depends on how its source is packed."""
    return replace(item, member="") if isinstance(item, Record) else item
