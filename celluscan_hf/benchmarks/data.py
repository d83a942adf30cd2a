"""Speed and memory of building a dataset: curation, balancing."""

import argparse
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import CelluScanError
from ..sources.morphology import DRAWN
from .isolated import isolated


def curation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure images per second from files to parquet without balancing, and of CleanVision's default checks."""
    ours: list[dict[str, float]] = []
    theirs: list[float] = []
    for _ in range(arguments.rounds):
        ours.append(isolated(_time_build, arguments.pbc, 0, arguments.num_proc))
        theirs.append(isolated(_time_cleanvision, arguments.pbc, arguments.num_proc))
    to_parquet = [timing["images"] / timing["seconds_to_parquet"] for timing in ours]
    complete = [timing["images"] / timing["seconds"] for timing in ours]
    cleanvision = [ours[0]["images"] / seconds for seconds in theirs]
    return {
        "images": ours[0]["images"],
        "images_per_second_to_parquet": _rounded(to_parquet),
        "images_per_second_with_read_back_audit_and_card": _rounded(complete),
        "cleanvision_images_per_second": _rounded(cleanvision),
        "ratio_to_cleanvision": _rounded([a / b for a, b in zip(to_parquet, cleanvision, strict=True)]),
        "median_images_per_second_to_parquet": round(statistics.median(to_parquet), 1),
        "median_ratio_to_cleanvision": round(
            statistics.median(a / b for a, b in zip(to_parquet, cleanvision, strict=True)), 2
        ),
    }


def balancing(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure augmented images per second while a build fills up train classes, including the start of processes."""
    timings = [
        isolated(_time_build, arguments.pbc, arguments.target, arguments.num_proc) for _ in range(arguments.rounds)
    ]
    speeds = [timing["variants"] / timing["seconds_augmenting"] for timing in timings]
    return {
        "variants": timings[0]["variants"],
        "variants_per_second": _rounded(speeds),
        "median_variants_per_second": round(statistics.median(speeds), 1),
    }


def memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure peak memory of builds, main and largest worker process, for `--count` and 4x synthetic cells a class."""
    peaks = {}
    for factor in (1, 4):
        peaks[f"{factor}x"] = isolated(_peak_of_build, arguments.count * factor, arguments.num_proc)
    return peaks | {"ratio_4x_to_1x": round(peaks["4x"]["main_mib"] / peaks["1x"]["main_mib"], 3)}


def _time_build(pbc: Path, target: int, num_proc: int) -> dict[str, float]:
    """Measure the time of a build of PBC and of its stages, from its log."""
    from ..dataset.build import build
    from ..dataset.settings import BuildSettings

    stages = StageTimes()
    with tempfile.TemporaryDirectory() as folder:
        settings = BuildSettings((f"pbc={pbc}",), Path(folder, "wbc"), target_per_class=target, num_proc=num_proc)
        started = time.perf_counter()
        facts = build(settings)
        seconds = time.perf_counter() - started
    return {
        "images": facts["seen"],
        "variants": facts["rows"]["augmented"],
        "seconds": seconds,
        "seconds_to_parquet": stages.ended["writing"] - started,
        "seconds_augmenting": stages.seconds.get("augmenting", 0.0),
    }


class StageTimes(logging.Handler):
    """Record when each stage of a build ended and how long it took."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        logger = logging.getLogger("celluscan_hf.workers")
        logger.setLevel(logging.INFO)
        logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        stage, *_, seconds = record.args if isinstance(record.args, tuple) else ()
        self.ended[str(stage)] = time.perf_counter()
        self.seconds[str(stage)] = float(str(seconds))


def _time_cleanvision(pbc: Path, num_proc: int) -> float:
    from cleanvision import Imagelab

    files = [str(path) for path in sorted(pbc.rglob("*.jpg")) if not path.name.startswith(".")]
    started = time.perf_counter()
    Imagelab(filepaths=files).find_issues(n_jobs=num_proc, verbose=False)
    return time.perf_counter() - started


def _peak_of_build(count: int, num_proc: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "celluscan_hf.cli", "build", f"--source=synthetic={count}"]
        command += [f"--output={folder}/wbc", "--target-per-class=0", f"--num-proc={num_proc}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        peaks = _watch(process)
    return {"images": len(DRAWN) * count, **peaks}


def _watch(process: "subprocess.Popen[bytes]") -> dict[str, float]:
    """Measure peak resident memory in MiB of a process and of its largest child, 20 times a second."""
    import psutil

    main = psutil.Process(process.pid)
    peaks = {"main_mib": 0.0, "worker_mib": 0.0}
    while process.poll() is None:
        try:
            peaks["main_mib"] = max(peaks["main_mib"], main.memory_info().rss / 2**20)
            for child in main.children():
                peaks["worker_mib"] = max(peaks["worker_mib"], child.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            pass
        time.sleep(0.05)
    if process.returncode:
        raise CelluScanError(f"the build ended with status {process.returncode}")
    return {name: round(value, 1) for name, value in peaks.items()}


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 2) for value in values]


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if source images or packages are missing."""
    pbc = getattr(arguments, "pbc", None)
    if pbc is not None and not pbc.is_dir():
        raise CelluScanError(f"{pbc} does not exist; give the folder of PBC with --pbc")
    for module in {"curation": ["cleanvision"], "memory": ["psutil"]}.get(arguments.what, []):
        if find_spec(module) is None:
            raise CelluScanError(f'{module} is not installed: pip install "celluscan_hf[benchmark]"')
