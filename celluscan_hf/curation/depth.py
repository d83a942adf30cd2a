"""The bit depth of files that do not state it: one for all files of a source, from the largest sample among them.

A dark image scaled by its own range would come out as bright as the others of its source. So files are first scanned
with their own range, and once the range of the source is known, those with another range are scanned again. If most
files stay far below the largest sample, the source mixes depths, or single pixels are hot: then no depth is right.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import CelluScanError
from ..modeling.samples_celluscan import depth_of
from . import facts
from .facts import Facts

_SHOWN = 3  # files in a message


def common_depth(source: str, samples: Mapping[str, int]) -> int:
    """Return the bits per sample of a source, from the largest sample of each file.

    Raises:
        CelluScanError: More than half of the files need fewer bits than the largest.
    """
    names = list(samples)
    return _common_depth(source, np.array(list(samples.values()), np.int64), lambda rows: [names[row] for row in rows])


def _common_depth(source: str, samples: NDArray[np.int64], names_of: Callable[[list[int]], list[str]]) -> int:
    depths = _depths(samples)
    most = int(depths.max())
    if 2 * np.sum(depths < most) > len(depths):
        deepest = np.flatnonzero(depths == most).tolist()
        raise CelluScanError(
            f"source {source}: most of its {len(depths):,} files of more than 8 bits have no sample above "
            f"{samples[depths < most].max():,}, but {len(deepest):,} reach "
            f"{samples.max():,}: {', '.join(sorted(names_of(deepest))[:_SHOWN])}{', …' * (len(deepest) > _SHOWN)}; "
            "one depth for all would make images nearly black. Give files of each depth as a source of their own, "
            "state the depth in the tag MaxSampleValue, or save them with 8 bits"
        )
    return most


def _depths(samples: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bits that each sample needs, (N,)."""
    distinct, places = np.unique(samples, return_inverse=True)
    return np.array([depth_of(int(sample)) for sample in distinct], np.int64)[places]


def source_depths(scanned: Facts) -> dict[str, int]:
    """Return the bits per sample of each source that has files without a stated depth."""
    rows, samples = _unstated(scanned)
    sources, names = facts.codes(scanned["source"])[rows], facts.values(scanned["source"])
    depths = {}
    for code in np.unique(sources).tolist():
        own = rows[sources == code]
        names_of = partial(_names, scanned, own)
        depths[names[code]] = _common_depth(names[code], samples[sources == code], names_of)
    return depths


def _names(scanned: Facts, rows: NDArray[np.int64], chosen: list[int]) -> list[str]:
    names: list[str] = scanned["image_id"].take(pa.array(rows[chosen])).to_pylist()
    return names


def chunks_to_rescan(scanned: Facts) -> dict[int, int]:
    """Return the correct bits per sample of each chunk with images that were scaled by another depth."""
    depths = source_depths(scanned)
    rows, samples = _unstated(scanned)
    correct = np.array([depths.get(name, 0) for name in facts.values(scanned["source"])], np.int64)
    correct = correct[facts.codes(scanned["source"])[rows]]
    used = np.maximum(pc.fill_null(scanned["sample_bits"], 0).to_numpy()[rows], _depths(samples))
    wrong = used != correct
    chunks, first = np.unique(scanned["chunk"].to_numpy()[rows[wrong]], return_index=True)
    return dict(zip(chunks.tolist(), correct[wrong][first].tolist(), strict=True))


def _unstated(scanned: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows without a stated depth and the largest sample of each."""
    column = scanned["largest_sample"]
    rows = np.flatnonzero(pc.is_valid(column).to_numpy(zero_copy_only=False))
    return rows, column.drop_null().to_numpy().astype(np.int64)
