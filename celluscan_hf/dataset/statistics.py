"""Statistics of a built folder: the only source of the numbers in the card and in the closing summary."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .. import taxonomy
from ..curation import facts
from ..curation.curate import QUALITIES, Curated, Duplicate
from ..curation.facts import Facts, Integers
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
    shortcuts_found: dict[str, Any],
) -> dict[str, Any]:
    """Count rows per class, split, source and tier, and drops by reason; compute channel statistics.

    `groups` counts the groups that splits keep together, `source_groups` those that the sources name. `dropped`
    counts files and boxes by reason. `warnings` are sentences for the closing summary. `shortcuts_found` is the result
    of `audit_shortcuts`.
    """
    rows = curated.rows
    is_grouped = _is_grouped(rows)
    mean, std = channel_statistics(reports)
    classes = _per_class(reports)
    kept = {name: count for (name,), count in facts.counts(rows["source"]).items()}
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
        "conversions": _conversions(rows),
        "quality_outliers": {name: pc.sum(rows[f"{name}_outlier"]).as_py() for name in QUALITIES},
        "groups": {split: _distinct(rows["group_id"], facts.equal_to(rows["split"], split)) for split in SPLITS},
        "source_groups": {source.name: _groups_of(source, rows, is_grouped) for source in sources},
        "classes": classes,
        "tiers": {tier: _count(reports, lambda part, tier=tier: part.tier == tier) for tier in TIERS},
        "sources": _per_source(rows),
        "found": {source.name: dict(sorted(listing.found[source.name].items())) for source in sources},
        "published": {source.name: dict(source.info.published) for source in sources},
        "licenses": _per_license(reports),
        "confounding": {name: _confounding(rows, name) for name in ("source", "acquisition")},
        "shortcuts": shortcuts_found,
        "channel_mean": mean,
        "channel_std": std,
        "warnings": [
            *unusable.warnings(sources, kept, dropped),
            *_lost_classes(listing, rows),
            *_missing_classes(classes),
            *_large_groups(rows),
        ],
        "software": software_versions(),
    }


def _conversions(rows: Facts) -> dict[str, int]:
    counts = pc.value_counts(rows["conversions"].flatten()).to_pylist()
    return dict(sorted((entry["values"], entry["counts"]) for entry in counts))


def _distinct(column: pa.Array, chosen: NDArray[np.bool_] | Integers) -> int:
    """Count the distinct values of an encoded column in the `chosen` rows."""
    return len(np.unique(facts.codes(column)[chosen]))


def _large_groups(rows: Facts) -> list[str]:
    """Return a sentence for each source of which one named group holds much more than its share."""
    lines = []
    names = rows["group"].dictionary
    for source, own in _rows_of_sources(rows):
        prefix = f"{source}/group:"
        codes, first, counts = np.unique(facts.codes(rows["group"])[own], return_index=True, return_counts=True)
        named = pc.starts_with(names.take(pa.array(codes)), prefix).to_numpy(zero_copy_only=False)
        codes, first, counts = codes[named], first[named], counts[named]
        if len(counts) >= _MANY_GROUPS and counts.max() >= _LARGE_GROUP * counts.sum():
            largest = np.lexsort((first, -counts))[0]  # of equal ones that of the first row
            name = names[int(codes[largest])].as_py().removeprefix(prefix)
            lines.append(
                f"source {source}: the group {name!r} holds {counts[largest]:,} of {counts.sum():,} grouped images; "
                "is it one patient?"
            )
    return lines


def _rows_of_sources(rows: Facts) -> Iterator[tuple[str, Integers]]:
    """Yield the name of each source and the positions of its rows."""
    for name in facts.values(rows["source"]):
        yield name, np.flatnonzero(facts.equal_to(rows["source"], name))


def _lost_classes(listing: Listing, rows: Facts) -> list[str]:
    """Return a sentence for each class of a source that lost all its images."""
    kept = facts.counts(rows["source"], rows["label"])
    kept_sources = {source for source, _ in kept}
    return [
        f"source {source}: none of its {count:,} {label} images is left; curation/dropped.csv says why"
        for (source, label), count in sorted(listing.labelled.items())
        if source in kept_sources and (source, label) not in kept
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


def _groups_of(source: Source, rows: Facts, is_grouped: NDArray[np.bool_]) -> dict[str, Any]:
    """Count the groups that a source names, the images or boxes in them, and those without a group."""
    own = np.flatnonzero(facts.equal_to(rows["source"], source.name))
    is_named = is_grouped[own]
    images = int(is_named.sum())
    return {
        "groups": _distinct(rows["group"], own[is_named]),
        "images": images,
        "images_without": len(own) - images,
        "from": source.groups_from if images else "",
    }


def _is_grouped(rows: Facts) -> NDArray[np.bool_]:
    """Return which rows have a group that is not named after their image, (N,)."""
    flags = np.empty(rows.num_rows, bool)
    columns = rows.select(["group", "image_id"])
    for start in range(0, rows.num_rows, facts.BATCH):
        batch = columns.slice(start, facts.BATCH)
        is_named = pc.not_equal(facts.decode(batch["group"]), facts.decode(batch["image_id"]))
        flags[start : start + facts.BATCH] = is_named.to_numpy(zero_copy_only=False)
    return flags


def _disagree(duplicate: Duplicate) -> bool:
    return taxonomy.finest({duplicate.label, duplicate.label_of_other}) is None


def software_versions() -> dict[str, str]:
    """Return the versions that, besides the settings, decide the bytes of an image."""
    return versions(_SOFTWARE)


def _rows(reports: Iterable[FileReport], kind: str) -> int:
    return sum(report.count for report in reports if report.part.kind == kind)


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
            labels.update(report.labels)
    return {taxonomy.NAMES[label]: count for label, count in sorted(labels.items())}


def _per_source(rows: Facts) -> dict[str, dict[str, dict[str, int]]]:
    counts = facts.counts(rows["source"], rows["split"], rows["label"])
    sources = sorted({source for source, _, _ in counts})
    nested: dict[str, dict[str, dict[str, int]]] = {source: {split: {} for split in SPLITS} for source in sources}
    for (source, split, label), count in counts.items():
        nested[source][split][label] = count
    return {source: {split: labels for split, labels in nested[source].items() if labels} for source in sources}


def _per_license(reports: Iterable[FileReport]) -> dict[str, int]:
    licenses: Counter[str] = Counter()
    for report in reports:
        licenses.update(report.licenses)
    return dict(sorted(licenses.items()))


def _confounding(rows: Facts, column: str) -> dict[str, dict[str, int]]:
    """Count the classes of each value of `column` (source or acquisition)."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for (value, label), count in facts.counts(rows[column], rows["label"]).items():
        counts[value][label] = count
    return dict(counts)


def audit_shortcuts(reports: Sequence[FileReport], seed: int, num_proc: int) -> dict[str, Any]:
    """Measure how well the class is predicted without the cell; empty without train or test rows."""
    train, test = load_context(reports, SPLITS[0]), load_context(reports, SPLITS[2])
    return shortcuts.audit(train, test, seed, num_proc)


def load_context(reports: Iterable[FileReport], split: str) -> shortcuts.CellContext:
    """Collect the features around the cells of the originals of a split; those of rings stay on disk."""
    own = [report for report in reports if (report.part.kind, report.part.split) == ("originals", split)]
    if not own:
        empty = SCHEMA.empty_table().select(shortcuts.COLUMNS)
        return shortcuts.CellContext(empty, np.empty((0, shortcuts.RING_FEATURES), np.float32))
    rings = facts.store_matrix((report.rings for report in own), own[0].facts.parent / f"rings~{split}")
    rows = (report.rows.select(shortcuts.COLUMNS) for report in own)
    tables = [pa.table({name: _in_memory(table[name]) for name in table.column_names}) for table in rows]
    return shortcuts.CellContext(pa.concat_tables(tables).unify_dictionaries(), rings)


def _in_memory(column: pa.ChunkedArray) -> pa.Array:
    """Copy a column, its text encoded, so that its file need not stay open."""
    return column.dictionary_encode() if column.type == pa.string() else pa.array(column.to_numpy())
