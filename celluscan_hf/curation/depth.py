"""The bit depth of files that do not state it: one for all files of a source, from the largest sample among them.

A dark image scaled by its own range would come out as bright as the others of its source. So files are first scanned
with their own range, and once the range of the source is known, those with another range are scanned again.
"""

import pyarrow as pa
import pyarrow.compute as pc

from ..modeling.samples_celluscan import depth_of


def source_depths(scanned: pa.Table) -> dict[str, int]:
    """Return the bits per sample of each source that has files without a stated depth."""
    unstated = scanned.filter(pc.is_valid(scanned["largest_sample"]))
    largest = unstated.group_by("source").aggregate([("largest_sample", "max")])
    return {row["source"]: depth_of(row["largest_sample_max"]) for row in largest.to_pylist()}


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
