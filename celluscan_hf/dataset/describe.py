"""Describe a built folder: curation tables, audit, statistics, image grid and card."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from ..curation import facts, squares
from ..curation.curate import QUALITIES, Curated
from ..curation.facts import Facts
from ..curation.scan import PixelReader
from ..curation.splits import SPLITS, seeded_order
from ..errors import CelluScanError
from ..sources import Dropped, Source
from ..workers import Workers, progress
from . import card, invariants
from .inspection import FileReport
from .listing import Listing
from .shards import PaddedSquares
from .statistics import audit_shortcuts, statistics
from .unusable import write_dropped
from .workspace import Workspace, write_text


def padding_colour(rows: Facts, size: int) -> tuple[int, int, int]:
    """Return the mean colour of the train originals as integer levels: what the image processor pads with.

    Padding with the mean does not change the mean, so it can be computed before images are padded.
    """
    is_train = facts.equal_to(rows["split"], SPLITS[0])
    channel_sums = rows["channel_sums"].flatten().to_numpy().reshape(-1, 3)
    sums = channel_sums.sum(axis=0, where=is_train[:, None])
    width, height = (rows[name].to_numpy()[is_train].astype(np.int64) for name in ("width", "height"))
    shapes, first, counts = np.unique(width << 32 | height, return_index=True, return_counts=True)
    area = 0.0
    for number in np.argsort(first):  # in the order of rows: a sum of floats depends on it
        shape = divmod(int(shapes[number]), 2**32)
        area += float(squares.coverage(*shape, size).sum()) * int(counts[number])
    red, green, blue = (int(level) for level in sums / area)
    return red, green, blue


def describe(
    sources: Sequence[Source],
    listing: Listing,
    curated: Curated,
    reports: list[FileReport],
    work: Workspace,
    workers: Workers,
) -> dict[str, Any]:
    """Write the card and the curation files, check the folder, and return its statistics."""
    dropped = [*listing.dropped, *curated.dropped]
    settings = {**work.settings.content, "sources": [source.name for source in sources]}
    shortcuts_found = audit_shortcuts(reports, work.settings.seed, work.settings.num_proc)
    summary = statistics(settings, listing, sources, dropped, curated, reports, shortcuts_found)
    facts = {source.name: _source_facts(source, summary) for source in sources}
    curation = work.final / "curation"
    write_curation(curated, dropped, curation)
    write_text(curation / "sources.json", _json(facts))
    with progress("verifying", summary["rows"]["originals"], "image") as advance:
        target, search = work.settings.target_per_class, work.folder / "read_back_duplicates"
        violations = invariants.check(work.final, reports, listing.seen, target, advance, workers.run, search)
    audit = {"invariants": _require_none(violations), "shortcuts": summary["shortcuts"]}
    audit["confounding"] = summary["confounding"]
    write_text(curation / "audit.json", _json(audit))
    _save_grid(curated.rows, work, padding_colour(curated.rows, work.settings.image_size))
    write_text(work.final / "README.md", card.render(summary, facts, card.metadata(reports, summary)))
    write_text(curation / "statistics.json", _json(summary))
    return summary


def _require_none(violations: dict[str, list[str]]) -> dict[str, str]:
    for name, lines in violations.items():
        if lines:
            raise CelluScanError(
                f"the built folder failed a dataset check: {name}: {'; '.join(lines[:3])} ({len(lines)} in all)"
            )
    return dict.fromkeys(violations, "holds")


def _source_facts(source: Source, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of one source in `sources.json` and in the card."""
    info = source.info
    counts, published = summary["found"][source.name], summary["published"][source.name]
    used = summary["sources"].get(source.name, {})
    return {
        "title": info.title,
        "license": source.license,
        "citation": info.citation,
        "url": info.url,
        "caution": info.caution,
        "microns_per_pixel": info.microns_per_pixel,
        "published": published,
        "published_total": published.get("total", sum(published.values())) or None,
        "found": counts,
        "found_total": sum(counts.values()),
        "used": sum(sum(labels.values()) for labels in used.values()),
    }


def write_curation(curated: Curated, dropped: Iterable[Dropped], folder: Path) -> None:
    """Write `dropped.csv`, `duplicates.csv`, `label_conflicts.csv` and `quality.csv`."""
    write_dropped(folder / "dropped.csv", dropped)
    header = ("image_id", "duplicate_of", "kind", "distance", "correlation", "label", "label_of_other", "orientation")
    _write_csv(folder / "duplicates.csv", header, map(astuple, curated.duplicates))
    conflicts = [
        (number, image_id, label) for number, group in enumerate(curated.conflicts) for image_id, label in group
    ]
    _write_csv(folder / "label_conflicts.csv", ("conflict", "image_id", "label"), conflicts)
    _write_csv(folder / "quality.csv", ("image_id", *QUALITIES, "outlier"), _quality_rows(curated.rows))


def _quality_rows(rows: Facts) -> Iterator[tuple[object, ...]]:
    flags = [f"{name}_outlier" for name in QUALITIES]
    listed = rows.select(["image_id", *QUALITIES, *flags])
    for start in range(0, rows.num_rows, facts.BATCH):
        batch = listed.slice(start, facts.BATCH)
        outliers = zip(*(batch[name].to_pylist() for name in flags), strict=True)
        columns = (batch[name].to_pylist() for name in ("image_id", *QUALITIES))
        yield from zip(*columns, (" ".join(compress(QUALITIES, row)) for row in outliers), strict=True)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _save_grid(rows: Facts, work: Workspace, colour: tuple[int, int, int]) -> None:
    """Save the card's image grid: train originals of each class, in seeded order."""
    train = np.flatnonzero(facts.equal_to(rows["split"], SPLITS[0]))
    train = train[seeded_order(facts.picked(rows["image_id"], train), work.settings.seed)]
    labels = facts.codes(rows["label"])[train]
    columns = ["chunk", "position", "width", "height"]
    square = PaddedSquares(PixelReader(work.scanned, work.settings.image_size), colour)
    cells = {}
    for code in np.unique(labels).tolist():
        shown = rows.select(columns).take(train[labels == code][: card.GRID_COLUMNS])
        cells[facts.values(rows["label"])[code]] = [square(row) for row in shown.to_pylist()]
    path = work.final / card.GRID
    path.parent.mkdir(parents=True, exist_ok=True)
    card.draw_grid(cells).save(path, quality=90)
