"""Invented tables of scanned images, with what a build of many laboratories holds: for measuring curation at scale.

Half of the images belong to patients of some hundred cells, 1 % are exact copies, 1 % could not be read, and classes
are as skewed as in blood. Nothing of it comes from real cells, and no pixels are written.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..curation.duplicates import NearPair
from ..curation.scan import SCHEMA
from ..dataset.build import CHUNK_RECORDS
from ..taxonomy import CLASSES

SOURCES = ("clinic", "hospital", "institute", "laboratory", "university")
_SOURCE_SHARES = (0.4, 0.25, 0.2, 0.1, 0.05)
_DEEP = "university"  # the source of 12-bit files that do not state their depth
_ACQUISITIONS = 12  # of each source
_SHAPES = 40
_PATIENT_CELLS, _FIELD_CELLS = 200, 10  # cells in a row of which some name the patient, some the field
_GROUPED = (0.5, 0.1, 0.4)  # shares of images that name their patient, their field, or nothing
_COPIES, _CONFLICTS, _UNREADABLE, _CONVERTED = 0.01, 0.0005, 0.01, 0.02  # shares of the images
_NEAR = 0.005  # near duplicates as a share of the images
_ROWS = 512 * CHUNK_RECORDS  # rows that are invented at a time

Integers = NDArray[np.int64]


def write_scanned(folder: Path, count: int, seed: int) -> None:
    """Write the tables of a scan of `count` images to `folder`, one for each chunk."""
    folder.mkdir(parents=True)
    number = 0
    for table in _tables(count, seed):
        for start in range(0, table.num_rows, CHUNK_RECORDS):
            part = table.slice(start, CHUNK_RECORDS)
            place = SCHEMA.get_field_index("chunk")
            part = part.set_column(place, SCHEMA.field(place), pa.array([number] * part.num_rows, pa.int32()))
            pq.write_table(part, folder / f"{number:05d}.parquet")
            number += 1


def _tables(count: int, seed: int) -> Iterator[pa.Table]:
    """Yield tables of one source each, in the order of sources, as sources are scanned."""
    ends = np.round(np.cumsum(_SOURCE_SHARES) * count).astype(int).tolist()
    for source, start, end in zip(SOURCES, [0, *ends], ends, strict=False):
        for first in range(start, end, _ROWS):
            yield _table(source, first, min(_ROWS, end - first), np.random.default_rng([seed, first]))


def _table(source: str, first: int, count: int, rng: np.random.Generator) -> pa.Table:
    numbers = np.arange(first, first + count)
    shares = 0.6 ** np.arange(len(CLASSES))
    classes = rng.choice(len(CLASSES), count, p=shares / shares.sum())
    hashed = rng.integers(0, 2**64, (count, 2), np.uint64)
    copied = np.flatnonzero(rng.random(count) < _COPIES)
    copied = copied[copied > 0]
    hashed[copied] = hashed[copied - 1]
    classes[copied] = classes[copied - 1]
    conflicting = copied[rng.random(len(copied)) < _CONFLICTS / _COPIES]
    classes[conflicting] = (classes[conflicting] + 1) % len(CLASSES)
    ids = [
        f"{source}/{number // 500:06d}/{CLASSES[kind].code}_{number:09d}.png"
        for number, kind in zip(numbers, classes, strict=True)
    ]
    readable = rng.random(count) >= _UNREADABLE
    shapes = rng.integers(0, _SHAPES, count) * (rng.random(count) < 0.2)
    columns: dict[str, Any] = {
        "image_id": ids,
        "source": [source] * count,
        "source_label": [CLASSES[kind].code for kind in classes],
        "label": [CLASSES[kind].name for kind in classes],
        "group": _groups(source, numbers, ids, rng),
        "augmented": np.zeros(count, bool),
        "reason": pa.array(["truncated"] * count, mask=readable),
        "detail": pa.array(["the file ends early"] * count, mask=readable),
    }
    measured = {
        "sha256": [f"{a:016x}{b:016x}" * 2 for a, b in hashed.tolist()],
        "phashes": pa.ListArray.from_arrays(
            np.arange(0, 8 * count + 1, 8, dtype=np.int32), rng.integers(0, 2**64, 8 * count, np.uint64)
        ),
        "pixels": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), count, [None, pa.py_buffer(hashed)]),
        "acquisition": [f"{360 + shape}x363/jpeg-{shape}/warm" for shape in (shapes % _ACQUISITIONS).tolist()],
        "width": (360 + shapes).astype(np.int32),
        "height": np.full(count, 363, np.int32),
        "sharpness": np.round(rng.gamma(4.0, 100.0, count), 2),
        "brightness": np.round(rng.normal(0.7, 0.05, count), 4),
        "contrast": np.round(rng.normal(0.2, 0.02, count), 4),
        "channel_sums": pa.ListArray.from_arrays(
            np.arange(0, 3 * count + 1, 3, dtype=np.int32), rng.integers(5 * 10**6, 12 * 10**6, 3 * count)
        ),
        "conversions": [["palette"] if converted else [] for converted in rng.random(count) < _CONVERTED],
        "largest_sample": pa.array(rng.integers(3_000, 4_096, count, np.int32), mask=np.full(count, source != _DEEP)),
        "position": np.arange(count, dtype=np.int32) % CHUNK_RECORDS,
    }
    table = {name: _array(name, values) for name, values in columns.items()}
    for name, values in measured.items():
        table[name] = _array(name, values).take(pa.array(np.arange(count), mask=~readable))
    table |= {name: pa.nulls(count, SCHEMA.field(name).type) for name in SCHEMA.names if name not in table}
    return pa.table({name: table[name] for name in SCHEMA.names}, schema=SCHEMA)


def _array(name: str, values: Any) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, SCHEMA.field(name).type)


def _groups(source: str, numbers: Integers, ids: list[str], rng: np.random.Generator) -> list[str]:
    """Name the groups: patients of some hundred cells, fields of a few, and images of which nothing is known."""
    patients, fields = numbers // _PATIENT_CELLS, numbers // _FIELD_CELLS
    kinds = rng.choice(3, len(ids), p=_GROUPED)
    names = zip(
        (f"{source}/group:patient {number:08d}" for number in patients.tolist()),
        (f"{source}/group:field {number:08d}" for number in fields.tolist()),
        ids,
        strict=True,
    )
    return [name[kind] for name, kind in zip(names, kinds.tolist(), strict=True)]


def near_pairs(count: int, seed: int) -> list[NearPair]:
    """Invent the pairs that the search for near duplicates would find among `count` usable rows."""
    rng = np.random.default_rng([seed, count])
    firsts = np.unique(rng.integers(0, count - 20, round(_NEAR * count)))
    seconds = firsts + rng.integers(1, 20, len(firsts))
    return [NearPair(first, second, 3, 0.95) for first, second in zip(firsts.tolist(), seconds.tolist(), strict=True)]
