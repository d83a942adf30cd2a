"""The dataset build: sources -> records -> clean rows -> balanced parquet files -> card and checks -> dataset folder.

Stages: list, scan (decode each image once), curate, write, read back, describe, check, publish. Scanning and writing
run in several processes and take most of the time; a resumed build reuses the files that they have written.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ..curation.curate import Curated, curate, exclude
from ..curation.depth import chunks_to_rescan, source_depths
from ..curation.facts import Facts
from ..curation.scan import Chunk, PixelReader, load_tables, scan
from ..errors import CelluScanError
from ..remote import is_remote
from ..sources import Dropped, Record, Source, open_sources
from ..workers import Workers, open_workers, progress
from .describe import describe, padding_colour
from .inspection import FileReport, FileTask, inspect, parquet_files
from .listing import Listing, list_sources
from .plan import Shard, plan_augmented, plan_originals
from .settings import BuildSettings
from .shards import ShardTask, write_originals
from .statistics import software_versions
from .unusable import list_beside, require_usable
from .workspace import Workspace

CHUNK_RECORDS = 128
_log = logging.getLogger(__name__)


def build(settings: BuildSettings) -> dict[str, Any]:
    """Build the dataset folder `settings.output` and return its statistics.

    A finished folder is left unchanged. Finished work is kept for `resume` if the build fails.

    Raises:
        CelluScanError: The request cannot be met.
        OSError: A file cannot be written.
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
        inputs = [source.location for source in sources if source.location and not is_remote(source.location)]
        with open_workers(settings.num_proc, settings.ray, settings.output.parent, inputs) as workers:
            return _run(sources, work, workers)


def _run(sources: Sequence[Source], work: Workspace, workers: Workers) -> dict[str, Any]:
    """Do all stages, unless the output is finished; return its statistics."""
    settings = work.settings
    listing = list_sources(sources)
    require_usable(sources, listing.usable, listing.dropped, settings.output)
    finished = work.finished()
    if finished is not None:
        work.check_listing(finished, listing.digest)
        work.clear()
        _log.info("%s is already built; nothing was changed", settings.output)
        return finished
    work.open({**settings.content, "listing": listing.digest, "files": listing.files, "software": software_versions()})
    curated = _scan_and_curate(sources, listing, work, workers)
    reports = _write(sources, curated, work, workers)
    summary = describe(sources, listing, curated, reports, work, workers)
    work.publish()
    list_beside(settings.output).unlink(missing_ok=True)  # left by an earlier build without a usable image
    _log.info("built %s", settings.output)
    return summary


def _refuse_output_inside(sources: Iterable[Source], output: Path) -> None:
    for source in sources:
        if (
            source.location
            and not is_remote(source.location)
            and output.resolve().is_relative_to(source.location.resolve())
        ):
            raise CelluScanError(f"--output {output} is inside source {source.name}; choose a folder outside it")


def _scan_and_curate(sources: Sequence[Source], listing: Listing, work: Workspace, workers: Workers) -> Curated:
    size, seed = work.settings.image_size, work.settings.seed
    with progress("scanning", listing.records, "image") as advance:

        def pending() -> Iterator[Chunk]:
            for chunk in _chunks(sources, size, work.scanned):
                if chunk.table_path.exists():
                    advance(len(chunk.records))
                else:
                    yield chunk

        for images in workers.run(scan, pending()):
            advance(images)
    scanned = _rescale_to_source_depth(sources, load_tables(work.scanned), work, workers)
    _require_usable(sources, listing, scanned, work)
    derived = {source.info.derived_from for source in sources}
    scanned = exclude(scanned, work.settings.exclude_acquisitions)
    with progress("comparing", scanned["reason"].null_count, "image") as advance:
        train_only = {name for name in derived if name}
        search = work.folder / "near_duplicates"
        curated = curate(scanned, PixelReader(work.scanned, size), seed, train_only, advance, workers.run, search)
    _log.info("%d images kept, %d dropped", curated.rows.num_rows, len(curated.dropped) + len(listing.dropped))
    return curated


def _rescale_to_source_depth(sources: Sequence[Source], scanned: Facts, work: Workspace, workers: Workers) -> Facts:
    """Scale the samples of all files of a source by one bit depth, and return the scanned rows."""
    rescan = chunks_to_rescan(scanned)
    if not rescan:
        return scanned
    for name, bits in source_depths(scanned).items():
        _log.info("%s: files without a stated bit depth are read as %d-bit", name, bits)
    chunks = (chunk for chunk in _chunks(sources, work.settings.image_size, work.scanned) if chunk.number in rescan)
    with progress("rescaling", None, "image") as advance:
        for images in workers.run(scan, (replace(chunk, sample_bits=rescan[chunk.number]) for chunk in chunks)):
            advance(images)
    return load_tables(work.scanned)


def _require_usable(sources: Sequence[Source], listing: Listing, scanned: Facts, work: Workspace) -> None:
    """Stop, and leave nothing to resume, if a source has no usable image."""
    is_rejected = pc.is_valid(scanned["reason"])
    rejected = scanned.select(["image_id", "reason", "detail", "source_label"]).filter(is_rejected)
    dropped = [Dropped(*row.values()) for row in rejected.to_pylist()]
    usable = scanned.select(["source"]).filter(pc.invert(is_rejected))["source"].value_counts().to_pylist()
    counts = {entry["values"]: entry["counts"] for entry in usable}
    try:
        require_usable(sources, counts, [*listing.dropped, *dropped], work.output)
    except CelluScanError:
        work.clear()
        raise


def _chunks(sources: Iterable[Source], size: int, folder: Path) -> Iterator[Chunk]:
    numbers = count()
    for source in sources:
        records = (item for item in source.records() if isinstance(item, Record))
        while batch := tuple(islice(records, CHUNK_RECORDS)):
            yield Chunk(next(numbers), source, batch, size, folder)


def _write(sources: Sequence[Source], curated: Curated, work: Workspace, workers: Workers) -> list[FileReport]:
    settings = work.settings
    licenses = {source.name: source.license for source in sources}
    colour = padding_colour(curated.rows, settings.image_size)

    def run(stage: str, function: Any, shards: list[Shard]) -> None:
        with progress(stage, sum(shard.rows for shard in shards), "image") as advance:
            tasks = [
                ShardTask(shard, work.plans, work.scanned, work.final, settings.image_size, colour, settings.seed)
                for shard in sorted(
                    shards, key=lambda shard: -shard.rows
                )  # largest first, so that all processes end together
            ]
            advance(sum(task.shard.rows for task in tasks if task.path.exists()))
            for rows in workers.run(function, (task for task in tasks if not task.path.exists())):
                advance(rows)

    run("writing", write_originals, plan_originals(curated.rows, licenses, settings.seed, work.plans))
    shards = plan_augmented(curated.rows, licenses, settings.seed, settings.target_per_class, work.plans)
    if shards:
        from .augment import write_augmented  # imports torch, which takes seconds

        run("augmenting", write_augmented, shards)
    return _read_back(work, workers)


def _read_back(work: Workspace, workers: Workers) -> list[FileReport]:
    files, facts = parquet_files(work.final), work.folder / "read_back"
    with progress("checking", len(files), "file") as advance:
        reports = []
        for report in workers.run(inspect, (FileTask(path, work.settings.image_size, facts) for path in files)):
            reports.append(report)
            advance(1)
    return sorted(reports, key=lambda report: report.path)
