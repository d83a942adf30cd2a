"""Speed of a build and of prediction on Ray: two workers against one, and one against a process without Ray.

Each measurement starts a Ray cluster of its own with one core for each worker. The start of worker processes, which
import the package, is not measured: it is the same for ten images and for ten million.
"""

import argparse
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import CelluScanError
from .data import StageTimes
from .isolated import isolated

ENGINES = {"one_process": 0, "one_ray_worker": 1, "two_ray_workers": 2}
_STAGES = ("scanning", "writing", "checking")  # of a build: those that workers do
_SHARD = 64  # images of an output file: enough files that both workers end together


def ray(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure images per second of all engines in turns, and their ratios."""
    with tempfile.TemporaryDirectory() as folder:
        cells = _sample(arguments.pbc, arguments.count, Path(folder, "PBC_dataset_normal_DIB"))
        images = len(list(cells.rglob("*.jpg")))
        builds: dict[str, list[dict[str, float]]] = {name: [] for name in ENGINES}
        predictions: dict[str, list[float]] = {name: [] for name in ENGINES}
        for _ in range(arguments.rounds):
            for name, workers in ENGINES.items():
                builds[name].append(isolated(_time_build, cells, workers))
                predictions[name].append(isolated(_time_predict, cells, workers))
    return {
        "images": images,
        "build_stages_of_workers": _compared({name: [t["stages"] for t in times] for name, times in builds.items()}),
        "build_as_a_whole": _compared({name: [t["whole"] for t in times] for name, times in builds.items()}),
        "predict": _compared(predictions),
    }


def _compared(rates: dict[str, list[float]]) -> dict[str, Any]:
    one, two = rates["one_ray_worker"], rates["two_ray_workers"]
    return {
        "images_per_second": {name: [round(rate, 1) for rate in values] for name, values in rates.items()},
        "two_ray_workers_to_one": _ratio(two, one),
        "one_ray_worker_to_one_process": _ratio(one, rates["one_process"]),
    }


def _ratio(first: list[float], second: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(first, second, strict=True)), 2)


def _sample(pbc: Path, count: int, folder: Path) -> Path:
    """Link `count` images of each class into a folder of the same layout."""
    for path in sorted(pbc.iterdir()):
        if path.is_dir():
            (folder / path.name).mkdir(parents=True)
            for file in islice(sorted(path.glob("[!.]*.jpg")), count):
                (folder / path.name / file.name).symlink_to(file.resolve())
    return folder


@contextmanager
def _engine(workers: int) -> Iterator[str | None]:
    """Start a Ray cluster with some cores, and yield its address; None for no worker."""
    if workers == 0:
        yield None
        return
    os.environ.update(RAY_worker_niceness="0")  # that of a process without Ray
    import ray

    ray.init(
        address="local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        yield "auto"
    finally:
        ray.shutdown()


def _time_build(cells: Path, workers: int) -> dict[str, float]:
    """Return images per second of the stages that workers do, and of a whole build, after a small one."""
    from ..dataset.build import build
    from ..dataset.settings import BuildSettings

    with _engine(workers) as address, tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"target_per_class": 0, "num_proc": 1, "ray": address}
        build(BuildSettings(("synthetic=20",), Path(folder, "warm"), **options))
        stages = StageTimes()
        started = time.perf_counter()
        images = build(BuildSettings((f"pbc={cells}",), Path(folder, "wbc"), **options))["seen"]
        seconds = time.perf_counter() - started
    return {"stages": images / sum(stages.seconds[name] for name in _STAGES), "whole": images / seconds}


def _time_predict(cells: Path, workers: int) -> float:
    """Return images per second of `wbc-small` with one view, on one core for each worker."""
    from ..bundled_model import default_model
    from ..inference.predict import predict

    with _engine(workers) as address, tempfile.TemporaryDirectory() as folder:
        if address is None:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            summary = predict([cells], default_model(), Path(folder, "rows.csv"), views=1, device="cpu")
            return summary.images / summary.seconds
        from ..inference.predict_ray import predict_on_ray
        from ..inference.shard_predictor import Settings

        settings = Settings(views=1, shard_size=_SHARD)
        output = Path(folder, "rows")
        predict_on_ray([cells], default_model(), output, address, settings=settings, device="cpu")
        return _rate_after_start(output, workers)


def _rate_after_start(output: Path, workers: int) -> float:
    """Return images per second from the first shard of each worker on."""
    import pyarrow.parquet as pq

    parts = sorted(output.glob("part-*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    seconds = (parts[-1].stat().st_mtime_ns - parts[workers - 1].stat().st_mtime_ns) / 1e9
    return float(sum(pq.read_metadata(path).num_rows for path in parts[workers:])) / seconds


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if source images or Ray are missing, or there are too few images to measure."""
    if not arguments.pbc.is_dir():
        raise CelluScanError(f"{arguments.pbc} does not exist; give the folder of PBC with --pbc")
    if find_spec("ray") is None:
        raise CelluScanError('ray is not installed: pip install "celluscan_hf[ray]"')
    if arguments.count < _SHARD:
        raise CelluScanError(f"--count {arguments.count}: expected {_SHARD} or more")
