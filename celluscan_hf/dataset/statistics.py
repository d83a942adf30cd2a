"""Statistics of a built folder: the only source of the numbers in the card and in the closing summary."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .. import taxonomy
from ..curation.curate import QUALITIES, Curated, Duplicate
from ..curation.splits import MIN_GROUPS, SPLITS, TIERS
from ..sources import Dropped, Source
from ..versions import versions
from . import shortcuts, unusable
from .inspection import FileReport, channel_statistics
from .listing import Listing
from .schema import SCHEMA

_MORE_GROUPS = f"give more cells: a class is in every split from {MIN_GROUPS} groups (patients, or single images) on"
_MANY_GROUPS, _LARGE_GROUP = 4, 0.4  # from so many groups on, one with such a share of the images is worth a look
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
    """Count rows per class, split, source and tier, and drops by reason; audit shortcuts; compute channel statistics.

    `groups` counts the groups that splits keep together, `source_groups` those that the sources name. `dropped`
    counts files and boxes by reason. `warnings` are sentences for the closing summary.
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
        "groups": {split: len(rows.filter(pc.equal(rows["split"], split))["group_id"].unique()) for split in SPLITS},
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
            *_large_groups(rows),
        ],
        "software": software_versions(),
    }


def _large_groups(rows: pa.Table) -> list[str]:
    """Return a sentence for each source of which one named group holds much more than its share."""
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for source, group in zip(rows["source"].to_pylist(), rows["group"].to_pylist(), strict=True):
        prefix = f"{source}/group:"
        if group.startswith(prefix):
            groups[source][group.removeprefix(prefix)] += 1
    return [
        f"source {source}: the group {name!r} holds {count:,} of {counts.total():,} grouped images; is it one patient?"
        for source, counts in sorted(groups.items())
        for name, count in counts.most_common(1)
        if len(counts) >= _MANY_GROUPS and count >= _LARGE_GROUP * counts.total()
    ]


def _lost_classes(listing: Listing, rows: pa.Table) -> list[str]:
    """Return a sentence for each class of a source that lost all its images."""
    kept = Counter(zip(rows["source"].to_pylist(), rows["label"].to_pylist(), strict=True))
    kept_sources = {source for source, _ in kept}
    return [
        f"source {source}: none of its {count:,} {label} images is left; curation/dropped.csv says why"
        for (source, label), count in sorted(listing.labelled.items())
        if source in kept_sources and not kept[source, label]
    ]


def _missing_classes(classes: Mapping[str, Mapping[str, int]]) -> list[str]:
    """Return a sentence for each split that lacks classes or is empty."""
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
    """Count the groups that a source names, the images or boxes in them, and those without a group."""
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
    """Return the versions that, besides the settings, decide the bytes of an image."""
    return versions(_SOFTWARE)


def _rows(reports: Iterable[FileReport], kind: str) -> int:
    return sum(report.rows.num_rows for report in reports if report.part.kind == kind)


def _per_class(reports: Iterable[FileReport]) -> dict[str, dict[str, int]]:
    """Count, for each class present, originals per split and augmented rows of train."""
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


def _confounding(rows: pa.Table, column: str) -> dict[str, dict[str, int]]:
    """Count the classes of each value of `column` (source or acquisition)."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for value, label in zip(rows[column].to_pylist(), rows["label"].to_pylist(), strict=True):
        counts[value][label] += 1
    return {value: dict(sorted(counts[value].items())) for value in sorted(counts)}


def _shortcuts(reports: Sequence[FileReport], seed: int, num_proc: int) -> dict[str, Any]:
    """Measure how well the class is predicted without the cell; empty without train or test rows."""
    train, test = load_context(reports, SPLITS[0]), load_context(reports, SPLITS[2])
    return shortcuts.audit(train, test, seed, num_proc)


def load_context(reports: Iterable[FileReport], split: str) -> shortcuts.CellContext:
    """Collect the features around the cells of the originals of a split."""
    own = [report for report in reports if (report.part.kind, report.part.split) == ("originals", split)]
    rows = pa.concat_tables([report.rows for report in own]) if own else SCHEMA.empty_table()
    rings = np.concatenate([np.empty((0, shortcuts.RING_FEATURES), np.float32), *(report.rings for report in own)])
    return shortcuts.CellContext(rows, rings)
