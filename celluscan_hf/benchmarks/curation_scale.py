"""Time and peak memory of curation without pixels, on invented tables of growing size.

Measured are the stages of a build between the scan and the writing of images, and the statistics of what was written.
Left out are the search for near duplicates, whose pairs are invented (`celluscan benchmark duplicates` measures it),
and what reads images: scan, write, read back, checks and the audit of shortcuts. Peak memory counts the pages of mapped
files that are resident, which the system can take back, and, apart, what is not backed by a file.
"""

import argparse
import logging
import multiprocessing
import resource
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..curation.curate import Curated, clean, exclude, store_hashes, usable_rows
from ..curation.depth import chunks_to_rescan
from ..curation.scan import load_tables
from ..dataset.describe import padding_colour, write_curation
from ..dataset.inspection import FileReport
from ..dataset.listing import Listing
from ..dataset.plan import Shard, plan_augmented, plan_originals
from ..dataset.statistics import statistics
from ..errors import CelluScanError
from ..sources.synthetic import Synthetic
from . import curation_tables

_SEED, _SIDE, _TARGET = 42, 224, 4_500
_EXCLUDED = "363x363/jpeg-3/warm"  # an acquisition of about 2 % of the images
_SAMPLES_PER_SECOND = 20
_log = logging.getLogger(__name__)


def curation_scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure each number of rows in a process of its own, and draw time and memory against the number of rows."""
    measured = {}
    for count in arguments.counts:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            _isolated(curation_tables.write_scanned, Path(folder, "scanned"), count, _SEED)
            _log.info("%d rows were invented", count)
            measured[str(count)] = _isolated(_measure, Path(folder), count)
    if arguments.json and len(measured) > 1:
        draw(measured, arguments.json.with_suffix(".png"))
    return measured


def _isolated(function: Any, *values: object) -> Any:
    """Run in a new process, so that no measurement inherits another's memory or imports."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *values).result()


class _Stages:
    """Seconds of each stage and the peaks of memory during it, in MiB."""

    def __init__(self) -> None:
        import psutil

        self.metrics: dict[str, dict[str, float]] = {}
        self._process = psutil.Process()
        self._peaks = [0.0, 0.0]
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self._sample()
            time.sleep(1 / _SAMPLES_PER_SECOND)

    def _sample(self) -> None:
        memory = self._process.memory_info()
        for place, size in enumerate((memory.rss, memory.rss - memory.shared)):
            self._peaks[place] = max(self._peaks[place], size / 2**20)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._peaks[:] = [0.0, 0.0]
        started, used = time.perf_counter(), time.process_time()
        yield
        self._sample()
        resident, anonymous = self._peaks
        self.metrics[name] = {
            "seconds": round(time.perf_counter() - started, 2),
            "processor_seconds": round(time.process_time() - used, 2),
            "peak_mib": round(resident, 1),
            "peak_without_mapped_files_mib": round(anonymous, 1),
        }


def _measure(folder: Path, count: int) -> dict[str, Any]:
    stages, scanned_folder = _Stages(), folder / "scanned"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    with stages.stage("load scanned tables"):
        scanned = load_tables(scanned_folder)
        if chunks_to_rescan(scanned):
            raise CelluScanError("the invented files have one bit depth, and yet some would be scanned again")
    with stages.stage("exclude an acquisition"):
        scanned = exclude(scanned, [_EXCLUDED])
    with stages.stage("sort"):
        usable = usable_rows(scanned)
        store_hashes(scanned, usable, scanned_folder)
    near = curation_tables.near_pairs(len(usable), _SEED)
    with stages.stage("duplicates, groups, splits, tiers, outliers"):
        curated = clean(scanned, usable, near, scanned_folder, _SEED, {curation_tables.SOURCES[-1]})
    licenses = dict.fromkeys(curation_tables.SOURCES, "CC-BY-4.0")
    with stages.stage("plans"):
        shards = plan_originals(curated.rows, licenses, _SEED, folder / "plans")
        shards += plan_augmented(curated.rows, licenses, _SEED, _TARGET, folder / "plans")
        padding_colour(curated.rows, _SIDE)
    with stages.stage("curation tables"):
        write_curation(curated, curated.dropped, folder / "curation")
    reports = [_report(shard, folder / "plans") for shard in shards]
    with stages.stage("statistics"):
        summary = _statistics(curated, reports)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {
        "rows": count,
        "kept": curated.rows.num_rows,
        "near_pairs_invented": len(near),
        "exact_duplicates": summary["duplicates"]["exact"],
        "shards": len(shards),
        "seconds": round(sum(stage["seconds"] for stage in stages.metrics.values()), 1),
        "processor_seconds": round(sum(stage["processor_seconds"] for stage in stages.metrics.values()), 1),
        "peak_mib": round(peak, 1),
        "bytes_per_row": round((peak - before) * 2**20 / count, 1),
        "stages": stages.metrics,
    }


def _report(shard: Shard, plans: Path) -> FileReport:
    """Invent what would be read back from the file of a shard, from its plan; pixel sums are ones."""
    path = shard.plan_path(plans)
    plan = pq.read_table(path, columns=["label", "license"])
    labels, licenses = (
        {entry["values"]: entry["counts"] for entry in plan[name].value_counts().to_pylist()}
        for name in ("label", "license")
    )
    ones = np.ones(3, np.int64)
    return FileReport(path, shard.part, path, plan.num_rows, labels, licenses, plan.nbytes, ones, ones, 1)


def _statistics(curated: Curated, reports: list[FileReport]) -> dict[str, Any]:
    sources = [Synthetic(name, 0, _SEED) for name in curation_tables.SOURCES]
    listing = Listing(found={name: Counter() for name in curation_tables.SOURCES})
    return statistics({"seed": _SEED}, listing, sources, curated.dropped, curated, reports, {})


def draw(measured: dict[str, Any], path: Path) -> None:
    """Draw seconds and peak memory against the number of rows, beside proportional growth from the first point."""
    from matplotlib.figure import Figure

    rows = [metrics["rows"] for metrics in measured.values()]
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, name, label in zip(
        figure.subplots(1, 2), ("seconds", "peak_mib"), ("seconds", "peak resident memory, MiB"), strict=True
    ):
        values = [metrics[name] for metrics in measured.values()]
        axes.loglog(rows, values, "o-", label="measured")
        axes.loglog(rows, [values[0] * count / rows[0] for count in rows], "--", color="grey", label="proportional")
        axes.set(xlabel="images", ylabel=label)
        axes.grid(alpha=0.3)
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if a package is missing."""
    if find_spec("psutil") is None:
        raise CelluScanError('psutil is not installed: pip install "celluscan_hf[benchmark]"')
    if arguments.folder is not None and not arguments.folder.is_dir():
        raise CelluScanError(f"{arguments.folder} is not a directory; give one with --folder")
