"""The depth of samples whose files do not name it: one for all files of a source, by the largest sample among them.

Scaled by its own range, a dark image would come out as bright as any other of its source. So what was scanned by its
own range, and wrongly, is scanned again once the range of the source is known.
"""

import pyarrow as pa
import pyarrow.compute as pc

from ..modeling.samples_celluscan import depth_of


def source_depths(scanned: pa.Table) -> dict[str, int]:
    """The bits of a sample, of each source with files that do not name it."""
    unnamed = scanned.filter(pc.is_valid(scanned["largest_sample"]))
    largest = unnamed.group_by("source").aggregate([("largest_sample", "max")])
    return {row["source"]: depth_of(row["largest_sample_max"]) for row in largest.to_pylist()}


def chunks_to_rescan(scanned: pa.Table) -> dict[int, int]:
    """The bits of a sample, of each chunk with images that were scaled by other bits than those of their source."""
    depths = source_depths(scanned)
    columns = scanned.filter(pc.is_valid(scanned["largest_sample"])).select(
        ["chunk", "source", "largest_sample", "sample_bits"]
    )
    return {
        row["chunk"]: depths[row["source"]]
        for row in columns.to_pylist()
        if max(row["sample_bits"] or 0, depth_of(row["largest_sample"])) != depths[row["source"]]
    }
