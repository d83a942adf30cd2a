"""The figures of a built folder. The card and the closing summary print nothing that is not in them."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import taxonomy
from ..curation.curate import QUALITIES, Curated, Duplicate
from ..curation.splits import MIN_GROUPS, SPLITS, TIERS
from ..sources import Dropped, Source
from . import shortcuts, unusable
from .features import SCHEMA
from .inspection import FileReport, channel_statistics
from .listing import Listing

_MORE_GROUPS = f"give more cells: a class is in every split from {MIN_GROUPS} groups (patients, or single images) on"
_SOFTWARE = ("celluscan_hf", "numpy", "pillow", "pyarrow", "scipy", "tifffile", "torch", "torchvision")


def statistics(
    settings: dict[str, Any],
    listing: Listing,
    sources: Sequence[Source],
    dropped: Sequence[Dropped],
    curated: Curated,
    reports: Sequence[FileReport],
    num_proc: int,
) -> dict[str, Any]:
    """Counts per class, split, source and tier, drops by reason, shortcuts, and the channel statistics of train.

    `groups` counts what splits are dealt by, `source_groups` what the sources name. `dropped` counts files and boxes
    by reason. `warnings` are sentences for the closing summary.
    """
    rows = curated.rows
    mean, std = channel_statistics(reports)
    classes = _per_class(reports)
    pairs = Counter(duplicate.kind for duplicate in curated.duplicates)
    return {
        "settings": settings,
        "listing": listing.digest,
        "seen": listing.seen,
        "rows": {kind: _rows(reports, kind) for kind in ("originals", "augmented")},
        "dropped": dict(sorted(Counter(item.reason for item in dropped).items())),
        "duplicates": {kind: pairs[kind] for kind in ("exact", "near")},
        "near_duplicates_with_other_labels": sum(_disagree(duplicate) for duplicate in curated.duplicates),
        "label_conflicts": len(curated.conflicts),
        "conversions": dict(sorted(Counter(chain.from_iterable(rows["conversions"].to_pylist())).items())),
        "quality_outliers": {name: int(np.sum(rows[f"{name}_outlier"].to_numpy())) for name in QUALITIES},
        "groups": {split: len(set(_where(rows, "split", split, "group_id"))) for split in SPLITS},
        "source_groups": {source.name: _groups_of(source, rows) for source in sources},
        "classes": classes,
        "tiers": {tier: _count(reports, lambda part, tier=tier: part.tier == tier) for tier in TIERS},
        "sources": _per_source(rows),
        "found": {source.name: dict(sorted(listing.found[source.name].items())) for source in sources},
        "published": {source.name: dict(source.info.published) for source in sources},
        "licenses": _per_license(reports),
        "confounding": {name: _confounding(rows, name) for name in ("source", "acquisition")},
        "shortcuts": _shortcuts(reports, settings["seed"], num_proc),
        "channel_mean": mean,
        "channel_std": std,
        "warnings": [
            *unusable.warnings(sources, Counter(rows["source"].to_pylist()), dropped),
            *_lost_classes(listing, rows),
            *_missing_classes(classes),
        ],
        "software": software_versions(),
    }


def _lost_classes(listing: Listing, rows: pa.Table) -> list[str]:
    """A sentence for each class of a source none of whose images is left."""
    kept = Counter(zip(rows["source"].to_pylist(), rows["label"].to_pylist(), strict=True))
    given = {source for source, _ in kept}
    return [
        f"source {source}: none of its {count:,} {label} images is left; curation/dropped.csv says why"
        for (source, label), count in sorted(listing.labelled.items())
        if source in given and not kept[source, label]
    ]


def _missing_classes(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """A sentence for each split that lacks classes, and for one that is empty."""
    lines = []
    for split in SPLITS:
        missing = [name for name, counts in classes.items() if not counts[split]]
        if len(missing) == len(classes):
            need = "training cannot choose a checkpoint" if split == "validation" else "there is nothing to test on"
            lines.append(f"{split} is empty, so {need}; {_MORE_GROUPS}")
        elif missing:
            lines.append(f"{split} has no {', '.join(missing)}; {_MORE_GROUPS}")
    return lines


def _groups_of(source: Source, rows: pa.Table) -> dict[str, Any]:
    """The groups that a source names: how many there are, of how many images or boxes, and how many have none."""
    own = rows.filter(pc.equal(rows["source"], source.name))
    named = own.filter(pc.not_equal(own["group"], own["image_id"]))
    return {
        "groups": len(named["group"].unique()),
        "images": named.num_rows,
        "images_without": own.num_rows - named.num_rows,
        "from": source.groups_from if named.num_rows else "",
    }


def _disagree(duplicate: Duplicate) -> bool:
    return taxonomy.finest({duplicate.label, duplicate.label_of_other}) is None


def software_versions() -> dict[str, str]:
    """The versions that decide the bytes of an image, besides the settings."""
    return {name: version(name) for name in _SOFTWARE}


def _rows(reports: Iterable[FileReport], kind: str) -> int:
    return sum(report.rows.num_rows for report in reports if report.part.kind == kind)


def _per_class(reports: Iterable[FileReport]) -> dict[str, dict[str, int]]:
    """For each class that is there: originals per split and augmented rows of train."""
    reports = list(reports)
    counts = {
        split: _count(reports, lambda part, split=split: part.kind == "originals" and part.split == split)
        for split in SPLITS
    }
    counts["augmented"] = _count(reports, lambda part: part.kind == "augmented")
    present = [name for name in taxonomy.NAMES if any(name in column for column in counts.values())]
    return {name: {column: counts[column].get(name, 0) for column in counts} for name in present}


def _count(reports: Iterable[FileReport], wanted: Any) -> dict[str, int]:
    labels: Counter[int] = Counter()
    for report in reports:
        if wanted(report.part):
            labels.update(report.rows["label"].to_pylist())
    return {taxonomy.NAMES[label]: count for label, count in sorted(labels.items())}


def _per_source(rows: pa.Table) -> dict[str, dict[str, dict[str, int]]]:
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    columns = (rows[name].to_pylist() for name in ("source", "split", "label"))
    for source, split, label in zip(*columns, strict=True):
        counts[source][split][label] += 1
    return {
        source: {split: dict(sorted(counts[source][split].items())) for split in SPLITS if split in counts[source]}
        for source in sorted(counts)
    }


def _per_license(reports: Iterable[FileReport]) -> dict[str, int]:
    licenses: Counter[str] = Counter()
    for report in reports:
        licenses.update(report.rows["license"].to_pylist())
    return dict(sorted(licenses.items()))


def _where(rows: pa.Table, column: str, value: str, wanted: str) -> list[str]:
    pairs = zip(rows[column].to_pylist(), rows[wanted].to_pylist(), strict=True)
    return [other for found, other in pairs if found == value]


def _confounding(rows: pa.Table, column: str) -> dict[str, dict[str, int]]:
    """The classes of each value of `column` (source or acquisition), counted."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for value, label in zip(rows[column].to_pylist(), rows["label"].to_pylist(), strict=True):
        counts[value][label] += 1
    return {value: dict(sorted(counts[value].items())) for value in sorted(counts)}


def _shortcuts(reports: Sequence[FileReport], seed: int, num_proc: int) -> dict[str, Any]:
    """How well the class is told from what is not the cell; empty where there is nothing to learn from, or to judge."""
    learned, judged = seen_of(reports, SPLITS[0]), seen_of(reports, SPLITS[2])
    return shortcuts.audit(learned, judged, seed, num_proc)


def seen_of(reports: Iterable[FileReport], split: str) -> shortcuts.Seen:
    """What is seen of the originals of a split beside their cells."""
    own = [report for report in reports if (report.part.kind, report.part.split) == ("originals", split)]
    rows = pa.concat_tables([report.rows for report in own]) if own else SCHEMA.empty_table()
    rings = np.concatenate([np.empty((0, shortcuts.RING_FEATURES), np.float32), *(report.rings for report in own)])
    return shortcuts.Seen(rows, rings)
