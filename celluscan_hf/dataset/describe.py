"""What a built folder says of itself: curation tables, audit, statistics, picture and card."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..curation import squares
from ..curation.curate import QUALITIES, Curated
from ..curation.scan import PixelReader
from ..curation.splits import SPLITS, seeded_order
from ..errors import CelluScanError
from ..sources import Dropped, Source
from . import card, invariants
from .inspection import FileReport
from .shards import PaddedSquares
from .statistics import confounding, statistics
from .workspace import Workspace, write_text


@dataclass
class Listing:
    """What the sources hold: records to look at, files dropped already, labels found, and a digest of it all."""

    records: int = 0
    dropped: list[Dropped] = field(default_factory=list)
    found: dict[str, Counter[str]] = field(default_factory=dict)
    digest: str = ""

    @property
    def seen(self) -> int:
        return self.records + len(self.dropped)


def padding_colour(rows: pa.Table, size: int) -> tuple[int, int, int]:
    """The mean colour of the train originals, in whole grey levels: what the image processor pads with.

    Padding with the mean leaves the mean as it is, so images that still need padding can tell it.
    """
    train = rows.filter(pc.equal(rows["split"], SPLITS[0]))
    sums = np.sum(train["channel_sums"].to_pylist(), axis=0)
    shapes = Counter(zip(train["width"].to_pylist(), train["height"].to_pylist(), strict=True))
    area = sum(float(squares.coverage(*shape, size).sum()) * count for shape, count in shapes.items())
    red, green, blue = (int(level) for level in sums / area)
    return red, green, blue


def describe(
    sources: Sequence[Source], listing: Listing, curated: Curated, reports: list[FileReport], work: Workspace
) -> dict[str, Any]:
    """Write card and curation files, check the whole folder; its statistics."""
    dropped = sorted([*listing.dropped, *curated.dropped], key=lambda item: (item.path, item.reason))
    settings = {**work.settings.content, "sources": [source.name for source in sources]}
    figures = statistics(settings, listing.seen, Counter(item.reason for item in dropped), curated, reports)
    facts = {source.name: _facts(source, listing.found[source.name], figures) for source in sources}
    curation = work.final / "curation"
    _write_csv(curation / "dropped.csv", ("path", "reason", "detail"), ((d.path, d.reason, d.detail) for d in dropped))
    _write_tables(curated, curation)
    write_text(curation / "sources.json", _json(facts))
    audit = {
        "invariants": _checked(invariants.check(work.final, reports, listing.seen, work.settings.target_per_class)),
        "confounding": {name: confounding(curated.rows, name) for name in ("source", "acquisition")},
    }
    write_text(curation / "audit.json", _json(audit))
    _save_grid(curated.rows, work, padding_colour(curated.rows, work.settings.image_size))
    write_text(work.final / "README.md", card.render(figures, facts, audit, card.metadata(reports, figures)))
    write_text(curation / "statistics.json", _json(figures))
    return figures


def _checked(violations: dict[str, list[str]]) -> dict[str, str]:
    broken = {name: found for name, found in violations.items() if found}
    for name, found in broken.items():
        raise CelluScanError(f"the built folder breaks a promise: {name}: {'; '.join(found[:3])} ({len(found)} in all)")
    return dict.fromkeys(violations, "holds")


def _facts(source: Source, found: Counter[str], figures: dict[str, Any]) -> dict[str, Any]:
    info = source.info
    published = dict(info.published)
    used = sum(sum(labels.values()) for labels in figures["sources"].get(source.name, {}).values())
    return {
        "title": info.title,
        "license": source.license,
        "citation": info.citation,
        "url": info.url,
        "published": published,
        "published_total": published.get("total", sum(published.values())) or None,
        "found": dict(sorted(found.items())),
        "used": used,
    }


def _write_tables(curated: Curated, folder: Path) -> None:
    """`duplicates.csv`, `label_conflicts.csv` and `quality.csv`."""
    header = ("image_id", "duplicate_of", "kind", "distance", "correlation", "label", "label_of_other")
    _write_csv(folder / "duplicates.csv", header, map(astuple, curated.duplicates))
    conflicts = [
        (number, image_id, label) for number, group in enumerate(curated.conflicts) for image_id, label in group
    ]
    _write_csv(folder / "label_conflicts.csv", ("conflict", "image_id", "label"), conflicts)
    flags = zip(*(curated.rows[f"{name}_outlier"].to_pylist() for name in QUALITIES), strict=True)
    outliers = [" ".join(compress(QUALITIES, row)) for row in flags]
    columns = [curated.rows[name].to_pylist() for name in ("image_id", *QUALITIES)]
    _write_csv(folder / "quality.csv", ("image_id", *QUALITIES, "outlier"), zip(*columns, outliers, strict=True))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _save_grid(rows: pa.Table, work: Workspace, colour: tuple[int, int, int]) -> None:
    """The card's picture: train originals of each class, in seeded order."""
    train = rows.filter(pc.equal(rows["split"], SPLITS[0]))
    train = train.take(pa.array(seeded_order(train["image_id"].to_pylist(), work.settings.seed)))
    columns = ["chunk", "position", "width", "height"]
    square = PaddedSquares(PixelReader(work.scanned, work.settings.image_size), colour)
    cells = {}
    for name in sorted(set(train["label"].to_pylist())):
        chosen = train.filter(pc.equal(train["label"], name)).select(columns).slice(0, card.GRID_COLUMNS)
        cells[name] = [square(row) for row in chosen.to_pylist()]
    path = work.final / card.GRID
    path.parent.mkdir(parents=True, exist_ok=True)
    card.draw_grid(cells).save(path, quality=90)
