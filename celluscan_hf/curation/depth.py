"""The bit depth of files that do not state it: one for all files of a source, from the largest sample among them.

A dark image scaled by its own range would come out as bright as the others of its source. So files are first scanned
with their own range, and once the range of the source is known, those with another range are scanned again. If most
files stay far below the largest sample, the source mixes depths, or single pixels are hot: then no depth is right.
"""

from collections import defaultdict
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import CelluScanError
from ..modeling.samples_celluscan import depth_of

_SHOWN = 3  # files in a message


def common_depth(source: str, samples: Mapping[str, int]) -> int:
    """Return the bits per sample of a source, from the largest sample of each file.

    Raises:
        CelluScanError: More than half of the files need fewer bits than the largest.
    """
    depths = {name: depth_of(sample) for name, sample in samples.items()}
    most = max(depths.values())
    if 2 * sum(bits < most for bits in depths.values()) > len(depths):
        deepest = sorted(name for name, bits in depths.items() if bits == most)
        raise CelluScanError(
            f"source {source}: most of its {len(depths):,} files of more than 8 bits have no sample above "
            f"{max(samples[name] for name, bits in depths.items() if bits < most):,}, but {len(deepest):,} reach "
            f"{max(samples.values()):,}: {', '.join(deepest[:_SHOWN])}{', …' * (len(deepest) > _SHOWN)}; one depth for "
            "all would make images nearly black. Give files of each depth as a source of their own, state the depth in "
            "the tag MaxSampleValue, or save them with 8 bits"
        )
    return most


def source_depths(scanned: pa.Table) -> dict[str, int]:
    """Return the bits per sample of each source that has files without a stated depth."""
    unstated = scanned.filter(pc.is_valid(scanned["largest_sample"]))
    samples: dict[str, dict[str, int]] = defaultdict(dict)
    for row in unstated.select(["source", "image_id", "largest_sample"]).to_pylist():
        samples[row["source"]][row["image_id"]] = row["largest_sample"]
    return {source: common_depth(source, files) for source, files in samples.items()}


def chunks_to_rescan(scanned: pa.Table) -> dict[int, int]:
    """Return the correct bits per sample of each chunk with images that were scaled by another depth."""
    depths = source_depths(scanned)
    columns = scanned.filter(pc.is_valid(scanned["largest_sample"])).select(
        ["chunk", "source", "largest_sample", "sample_bits"]
    )
    return {
        row["chunk"]: depths[row["source"]]
        for row in columns.to_pylist()
        if max(row["sample_bits"] or 0, depth_of(row["largest_sample"])) != depths[row["source"]]
    }
