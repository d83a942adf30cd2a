"""What a built folder says of itself: curation tables, audit, statistics, picture and card."""

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple
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
from ..sources import Source
from . import card, invariants
from .inspection import FileReport
from .listing import Listing
from .shards import PaddedSquares
from .statistics import statistics
from .unusable import write_dropped
from .workers import progress
from .workspace import Workspace, write_text


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
    dropped = [*listing.dropped, *curated.dropped]
    settings = {**work.settings.content, "sources": [source.name for source in sources]}
    figures = statistics(settings, listing, sources, dropped, curated, reports, work.settings.num_proc)
    facts = {source.name: _facts(source, figures) for source in sources}
    curation = work.final / "curation"
    write_dropped(curation / "dropped.csv", dropped)
    _write_tables(curated, curation)
    write_text(curation / "sources.json", _json(facts))
    with progress("verifying", figures["rows"]["originals"], "image") as advance:
        broken = invariants.check(work.final, reports, listing.seen, work.settings.target_per_class, advance)
    audit = {"invariants": _checked(broken), "shortcuts": figures["shortcuts"], "confounding": figures["confounding"]}
    write_text(curation / "audit.json", _json(audit))
    _save_grid(curated.rows, work, padding_colour(curated.rows, work.settings.image_size))
    write_text(work.final / "README.md", card.render(figures, facts, card.metadata(reports, figures)))
    write_text(curation / "statistics.json", _json(figures))
    return figures


def _checked(violations: dict[str, list[str]]) -> dict[str, str]:
    broken = {name: found for name, found in violations.items() if found}
    for name, found in broken.items():
        raise CelluScanError(f"the built folder breaks a promise: {name}: {'; '.join(found[:3])} ({len(found)} in all)")
    return dict.fromkeys(violations, "holds")


def _facts(source: Source, figures: dict[str, Any]) -> dict[str, Any]:
    """What `sources.json` and the card say of one source."""
    info = source.info
    found, published = figures["found"][source.name], figures["published"][source.name]
    used = figures["sources"].get(source.name, {})
    return {
        "title": info.title,
        "license": source.license,
        "citation": info.citation,
        "url": info.url,
        "caution": info.caution,
        "published": published,
        "published_total": published.get("total", sum(published.values())) or None,
        "found": found,
        "found_total": sum(found.values()),
        "used": sum(sum(labels.values()) for labels in used.values()),
    }


def _write_tables(curated: Curated, folder: Path) -> None:
    """`duplicates.csv`, `label_conflicts.csv` and `quality.csv`."""
    header = ("image_id", "duplicate_of", "kind", "distance", "correlation", "label", "label_of_other", "orientation")
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
