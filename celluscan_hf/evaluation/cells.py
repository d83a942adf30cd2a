"""Cells to evaluate: of one split of a built dataset, or of raw sources, straight from their files."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from PIL import Image

from .. import taxonomy
from ..curation.decoding import crop, decode, largest_sample
from ..curation.depth import common_depth
from ..curation.duplicates import exact_duplicates
from ..dataset.listing import log_notes
from ..dataset.reading import open_dataset
from ..errors import BadImage, CelluScanError
from ..inference.prediction import ReadImage
from ..sources import Dropped, Record, Source, open_sources
from ..sources.imagefolder import ImageFolder, OwnFolder
from ..workers import progress

CONFIG = "originals"  # augmented images are for training only
AUGMENTED = "augmented_by_publisher"
IN_DATASET = "in_dataset"
SOURCE_FACTS = ("title", "license", "caution")  # of each source, in metrics.json


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: facts on it, its label as a class number, and how its image is opened.

    `license` is as its source states it, `sha256` that of the publisher's file. `read` raises `BadImage` if the image
    cannot be used.
    """

    image_id: str
    source: str
    source_label: str
    license: str
    group_id: str
    sha256: str
    label: int
    read: ReadImage


@dataclass(frozen=True)
class Cells:
    """The cells of one evaluation, in order; the files left out; and `described`, what identifies the data, as JSON.

    `names` are the classes that labels are numbers of.
    """

    kept: Sequence[Cell]
    dropped: Sequence[Dropped]
    described: Mapping[str, Any]
    names: tuple[str, ...] = taxonomy.NAMES


def load_cells_of_split(name: str, split: str) -> Cells:
    """Load the originals of one split of a built dataset: a folder, or a repository of the Hub.

    Reading an image that cannot be decoded raises a `CelluScanError`: the build has checked each one, so the folder was
    damaged since.
    """
    data = open_dataset(name)
    rows = data.split(CONFIG, split)
    facts = rows.select_columns([field.name for field in fields(Cell) if field.name != "read"]).to_list()
    kept = [Cell(**fact, read=partial(_stored, rows, number, data.folder)) for number, fact in enumerate(facts)]
    described = {"dataset": name, "split": split, "fingerprint": data.fingerprint}
    return Cells(kept, [], described | {"sources": _sources_of(data.folder, {cell.source for cell in kept})})


def _sources_of(folder: Path, names: set[str]) -> dict[str, dict[str, str]]:
    """Facts on the sources of a built dataset; empty texts if it was published without them."""
    path = folder / "curation" / "sources.json"
    facts: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return {name: {key: str(facts.get(name, {}).get(key, "")) for key in SOURCE_FACTS} for name in sorted(names)}


def _stored(rows: Dataset, number: int, folder: Path) -> Image.Image:
    row = rows[number]
    try:
        return decode(row["image"]["bytes"] or b"").image
    except BadImage as bad:
        raise CelluScanError(
            f"{folder} is damaged: the image of {row['image_id']} cannot be decoded ({bad}); "
            "build the dataset again, or download it again"
        ) from bad


def load_cells_of_sources(specs: Sequence[str], scratch: Path, names: tuple[str, ...] = taxonomy.NAMES) -> Cells:
    """Load the cells of raw sources, given as `KEY=PATH`. `scratch` takes decompressed copies of compressed tars.

    `names` are the classes of the model: ours, or those of its own, by which folders are then named.

    Raises:
        CelluScanError: A source cannot be read, or no cell is of a class of the model's own.
    """
    sources = open_sources(specs, scratch, seed=0, licenses={})
    if names == taxonomy.NAMES:
        return load_cells(sources)
    found: list[str] = []
    cells = of_classes(load_cells([with_own_names(source, names) for source in sources], own_names=found), found, names)
    if not cells.kept:
        raise CelluScanError(
            f"no cell is of a class of the model ({', '.join(names)}); they are named {', '.join(found) or 'nothing'}"
        )
    return cells


def with_own_names(source: Source, names: Sequence[str] = ()) -> Source:
    """Return the source with cells of any class, by the names that it has for them; `names` are known to be classes."""
    if not isinstance(source, ImageFolder):
        source.keeps_unmapped = True
        return source
    folder = OwnFolder(source.name, source.tree, names)
    folder.key, folder.license = source.key, source.license
    return folder


def of_classes(cells: Cells, found: Sequence[str], classes: Sequence[str]) -> Cells:
    """Keep the cells of some classes, with labels that are numbers of these; the others are dropped with a reason.

    `found` are the names that the labels are numbers of.
    """
    kept, others = [], []
    for cell in cells.kept:
        if (name := found[cell.label]) in classes:
            kept.append(replace(cell, label=list(classes).index(name)))
        else:
            reason, detail = f"unknown_label:{cell.source_label}", "of none of the model's classes"
            others.append(Dropped(cell.image_id, reason, detail, cell.source_label))
    return replace(cells, kept=kept, dropped=[*cells.dropped, *others], names=tuple(classes))


def load_cells(
    sources: Sequence[Source], dataset_files: Collection[str] = frozenset(), own_names: list[str] | None = None
) -> Cells:
    """Load the cells of opened sources.

    With `own_names`, cells that are of none of our classes are kept too, by the name that their source has for them.
    Labels are then numbers of that list, to which new names are appended.

    Left out, each with a reason: files that are not a cell of a known class, copies that the publisher made of other
    images, files whose SHA-256 is among `dataset_files`, all but one of equal files, and equal files with labels that
    cannot both be true. Samples of more than 8 bits whose depth no file names get that of the largest in their source,
    as in a dataset.
    """
    samples: dict[str, dict[str, int]] = defaultdict(dict)
    bits: dict[str, int] = {}
    loaded: list[tuple[Cell, str]] = []
    dropped: list[Dropped] = []
    for source in sources:
        with progress(f"listing {source.name}", None, "record") as advance:
            for item in source.records():
                outcome = _load_cell(source, item, dataset_files, samples, bits, own_names)
                if isinstance(outcome, Dropped):
                    dropped.append(outcome)
                else:
                    loaded.append(outcome)
                advance(1)
        log_notes(source)
        if samples[source.name]:
            bits[source.name] = common_depth(source.name, samples[source.name])
    kept, copies = _deduplicate(loaded, taxonomy.NAMES if own_names is None else own_names)
    return Cells(kept, dropped + copies, _described(sources, kept))


def _load_cell(
    source: Source,
    item: Record | Dropped,
    dataset_files: Collection[str],
    samples: dict[str, dict[str, int]],
    bits: Mapping[str, int],
    own_names: list[str] | None,
) -> tuple[Cell, str] | Dropped:
    """Return the cell of a record and a digest of its content, or why there is none.

    `samples` takes the largest sample of each file that does not state its depth; `bits` will hold that of the source.
    """
    if isinstance(item, Dropped):
        return item
    if item.augmented:
        return Dropped(item.image_id, AUGMENTED, "made from another image, for training only", item.source_label)
    try:
        data = source.read(item)
        sample = largest_sample(data)
        name = item.label or (item.source_label if own_names is not None else "")
        if not name:
            decode(data)  # names the fault of a file that is not an image
            raise BadImage(f"unknown_label:{item.source_label}", "expected a label that maps to one of our classes")
    except BadImage as bad:
        return Dropped(item.image_id, bad.reason, bad.detail, item.source_label)
    digest = hashlib.sha256(data).hexdigest()
    if digest in dataset_files:
        return Dropped(item.image_id, IN_DATASET, "the dataset holds a cell of the same file", item.source_label)
    if sample is not None:
        samples[source.name][item.image_id] = sample
    cell = Cell(
        image_id=item.image_id,
        source=source.name,
        source_label=item.source_label,
        license=source.license,
        group_id=item.group,
        sha256=digest,
        label=_number(name, own_names),
        read=partial(_raw, source, item, bits),
    )
    return cell, f"{digest}{item.box or ''}"


def _number(name: str, own_names: list[str] | None) -> int:
    if own_names is None:
        return taxonomy.LABEL2ID[name]
    if name not in own_names:
        own_names.append(name)
    return own_names.index(name)


def _raw(source: Source, record: Record, bits: Mapping[str, int]) -> Image.Image:
    image = decode(source.read(record), bits.get(source.name)).image
    return image if record.box is None else crop(image, record.box)


def _deduplicate(loaded: Sequence[tuple[Cell, str]], names: Sequence[str]) -> tuple[list[Cell], list[Dropped]]:
    """Keep one of the cells with equal digests, by the rule of the build; the others are dropped."""
    if not loaded:
        return [], []
    cells = [cell for cell, _ in loaded]
    labels = [names[cell.label] for cell in cells]
    exact = exact_duplicates(np.array([digest for _, digest in loaded], np.bytes_), labels, [False] * len(cells))
    reasons: dict[int, tuple[str, str]] = {}
    for best, copies in exact.kept.items():
        reasons |= dict.fromkeys(copies, ("duplicate", f"equals {cells[best].image_id}"))
    for rows in exact.conflicts:
        conflict = ", ".join(f"{cells[row].image_id} = {labels[row]}" for row in rows)
        reasons |= dict.fromkeys(rows, ("label_conflict", conflict))
    dropped = [Dropped(cells[row].image_id, *reasons[row], cells[row].source_label) for row in sorted(reasons)]
    return [cell for row, cell in enumerate(cells) if row not in reasons], dropped


def _described(sources: Sequence[Source], kept: Sequence[Cell]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for cell in kept:
        digest.update(repr((cell.image_id, cell.sha256, cell.label)).encode())
    return {
        "sources": {
            source.name: {
                "title": source.info.title,
                "license": source.license,
                "caution": source.info.caution,
                "path": str(source.location or ""),
                "key": source.key,
            }
            for source in sources
        },
        "fingerprint": digest.hexdigest(),
    }
