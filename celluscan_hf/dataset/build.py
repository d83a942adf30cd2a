"""The build: sources -> records -> clean rows -> balanced, in parquet, with card and checks -> the folder of the Hub.

Stages: list, scan (each image is decoded once), curate, write, read back, describe, check, publish. All but the two
that spread over processes are short; what those have written is used again by a resumed build.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..curation.curate import Curated, curate, exclude
from ..curation.depth import chunks_to_rescan, source_depths
from ..curation.scan import Chunk, PixelReader, load_tables, scan
from ..errors import CelluScanError
from ..sources import Dropped, Record, Source, open_sources
from .describe import describe, padding_colour
from .inspection import FileReport, FileTask, inspect, parquet_files
from .listing import Listing, list_sources
from .plan import Shard, plan_augmented, plan_originals
from .settings import BuildSettings
from .shards import ShardTask, write_originals
from .statistics import software_versions
from .unusable import list_beside, require_usable
from .workers import Workers, progress
from .workspace import Workspace

CHUNK_RECORDS = 128
_log = logging.getLogger(__name__)


def build(settings: BuildSettings) -> dict[str, Any]:
    """Build the data set folder `settings.output`; its statistics.

    A finished folder is left as it is and its statistics are returned. Raises `CelluScanError` where the request
    cannot be met, and `OSError` where a file cannot be written; what is done so far is kept for `resume`.
    """
    with Workspace(settings) as work:
        sources = open_sources(
            settings.sources,
            work.archives,
            settings.seed,
            dict(settings.licenses),
            selections=dict(settings.selections),
        )
        _refuse_output_inside(sources, settings.output)
        listing = list_sources(sources)
        require_usable(sources, listing.usable, listing.dropped, settings.output)
        done = work.finished()
        if done is not None:
            work.check_listing(done, listing.digest)
            work.clear()
            _log.info("%s is already built; nothing was changed", settings.output)
            return done
        work.open(
            {**settings.content, "listing": listing.digest, "files": listing.files, "software": software_versions()}
        )
        with Workers(settings.num_proc) as workers:
            curated = _scan_and_curate(sources, listing, work, workers)
            reports = _write(sources, curated, work, workers)
        figures = describe(sources, listing, curated, reports, work)
        work.publish()
        list_beside(settings.output).unlink(missing_ok=True)  # of a build that found nothing
    _log.info("built %s", settings.output)
    return figures


def _refuse_output_inside(sources: Iterable[Source], output: Path) -> None:
    for source in sources:
        if source.location is not None and output.resolve().is_relative_to(source.location.resolve()):
            raise CelluScanError(f"--output {output} lies in source {source.name}; choose a folder outside of it")


def _scan_and_curate(sources: Sequence[Source], listing: Listing, work: Workspace, workers: Workers) -> Curated:
    size, seed = work.settings.image_size, work.settings.seed
    with progress("looking", listing.records, "image") as advance:

        def pending() -> Iterator[Chunk]:
            for chunk in _chunks(sources, size, work.scanned):
                if chunk.table_path.exists():
                    advance(len(chunk.records))
                else:
                    yield chunk

        for done in workers.run(scan, pending()):
            advance(done)
    scanned = _scaled_alike(sources, load_tables(work.scanned), work, workers)
    _require_usable(sources, listing, scanned, work)
    derived = {source.info.derived_from for source in sources}
    scanned = exclude(scanned, work.settings.exclude_acquisitions)
    with progress("comparing", scanned["reason"].null_count, "image") as advance:
        curated = curate(scanned, PixelReader(work.scanned, size), seed, {name for name in derived if name}, advance)
    _log.info("%d images kept, %d dropped", curated.rows.num_rows, len(curated.dropped) + len(listing.dropped))
    return curated


def _scaled_alike(sources: Sequence[Source], scanned: pa.Table, work: Workspace, workers: Workers) -> pa.Table:
    """The scanned rows, with the samples of all files of a source scaled by one depth."""
    again = chunks_to_rescan(scanned)
    if not again:
        return scanned
    for name, bits in source_depths(scanned).items():
        _log.info("%s: samples of files that do not name their depth are taken for %d-bit ones", name, bits)
    chunks = (chunk for chunk in _chunks(sources, work.settings.image_size, work.scanned) if chunk.number in again)
    with progress("rescaling", None, "image") as advance:
        for done in workers.run(scan, (replace(chunk, sample_bits=again[chunk.number]) for chunk in chunks)):
            advance(done)
    return load_tables(work.scanned)


def _require_usable(sources: Sequence[Source], listing: Listing, scanned: pa.Table, work: Workspace) -> None:
    """Stop, and leave nothing to resume, where a source gives no usable image."""
    good = scanned.filter(pc.is_null(scanned["reason"]))["source"].to_pylist()
    bad = scanned.filter(pc.is_valid(scanned["reason"])).select(["image_id", "reason", "detail", "source_label"])
    dropped = [Dropped(*row.values()) for row in bad.to_pylist()]
    try:
        require_usable(sources, Counter(good), [*listing.dropped, *dropped], work.output)
    except CelluScanError:
        work.clear()
        raise


def _chunks(sources: Iterable[Source], size: int, folder: Path) -> Iterator[Chunk]:
    numbers = count()
    for source in sources:
        records = (item for item in source.records() if isinstance(item, Record))
        while chosen := tuple(islice(records, CHUNK_RECORDS)):
            yield Chunk(next(numbers), source, chosen, size, folder)


def _write(sources: Sequence[Source], curated: Curated, work: Workspace, workers: Workers) -> list[FileReport]:
    settings = work.settings
    licenses = {source.name: source.license for source in sources}
    colour = padding_colour(curated.rows, settings.image_size)

    def run(stage: str, function: Any, shards: list[Shard]) -> None:
        with progress(stage, sum(shard.rows for shard in shards), "image") as advance:
            tasks = [
                ShardTask(shard, work.plans, work.scanned, work.final, settings.image_size, colour, settings.seed)
                for shard in sorted(shards, key=lambda shard: -shard.rows)  # largest first: all processes end together
            ]
            advance(sum(task.shard.rows for task in tasks if task.path.exists()))
            for rows in workers.run(function, (task for task in tasks if not task.path.exists())):
                advance(rows)

    run("storing", write_originals, plan_originals(curated.rows, licenses, settings.seed, work.plans))
    shards = plan_augmented(curated.rows, licenses, settings.seed, settings.target_per_class, work.plans)
    if shards:
        from .augment import write_augmented  # imports torch, which takes seconds: only where there is something to do

        run("augmenting", write_augmented, shards)
    return _read_back(work, workers)


def _read_back(work: Workspace, workers: Workers) -> list[FileReport]:
    files = parquet_files(work.final)
    with progress("checking", len(files), "file") as advance:
        reports = []
        for report in workers.run(inspect, (FileTask(path, work.settings.image_size) for path in files)):
            reports.append(report)
            advance(1)
    return sorted(reports, key=lambda report: report.path)
