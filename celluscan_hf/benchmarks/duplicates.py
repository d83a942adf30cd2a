"""Time, memory and skew of the search for pairs of hashes within 8 bits, against the number of hashes.

Three kinds of hashes: `random`; `clustered`, some bits away from few centres as they stand and random when turned; and
`cells`, real cells with noise on their DCT coefficients, so that all orientations belong together.
"""

import argparse
import logging
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..curation.decoding import decode
from ..curation.fingerprints import hashes_of, low_frequencies
from ..curation.hash_masks import MAX_DISTANCE, covering_masks
from ..curation.hash_search import Hashes, SearchTask, SortedKeys, pairs_within, search, search_tasks
from ..errors import BadImage, CelluScanError
from ..workers import LocalWorkers
from .isolated import isolated, peak_mib

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff")
_NOISE = 0.75  # of the std of a coefficient over all cells: as many near pairs as among real cells, or a few more
_DRAWN = 2**16  # rows of hashes drawn at a time
_COMPARED = 100_000  # hashes searched for the share of near pairs
_FAISS_QUERIES = 16_384  # at a time: bounds memory
_PARTS = (1, 4, 16, 64, 256)
_SKEW_MASKS = 8  # evenly spread
_log = logging.getLogger(__name__)


def duplicates(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the search at each number of hashes, beside faiss (upright images alone), and the skew of its parts."""
    metrics: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        if arguments.cells:
            np.save(Path(folder, "cells.npy"), _coefficients(arguments.cells))
        for kind in ("cells",) if arguments.cells else ("random", "clustered"):
            for count in arguments.counts:
                metrics[f"{kind}_{count}"] = isolated(_measure, kind, count, arguments, Path(folder))
                _log.info("%s, %d hashes: %s", kind, count, metrics[f"{kind}_{count}"])
        if arguments.cells:
            metrics["skew"] = isolated(_skew, Path(folder), max(arguments.counts))
    if arguments.plot:
        from .duplicates_plot import plot  # matplotlib would weigh on what measures memory

        plot(metrics, arguments.plot)
    return metrics


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if packages or images are missing."""
    if arguments.faiss_queries and find_spec("faiss") is None:
        raise CelluScanError('faiss is not installed: pip install "celluscan_hf[benchmark]", or --faiss-queries 0')
    if arguments.cells and not arguments.cells.is_dir():
        raise CelluScanError(f"{arguments.cells} does not exist; give a folder of images of cells with --cells")


def _measure(kind: str, count: int, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    hashes = _draw(kind, count, folder)
    ours = _search(hashes, arguments.tasks, arguments.num_proc, folder)
    if not arguments.faiss_queries:
        return {"eight_orientations": ours}
    upright = np.unique(hashes[:, 0])
    return {
        "eight_orientations": ours,
        "faiss_upright_only": isolated(_search_by_faiss, upright, arguments.faiss_queries),
    }


def _search(hashes: Hashes, most: int | None, num_proc: int, folder: Path) -> dict[str, Any]:
    """Run all tasks, or about `most` of them evenly spread over the masks; then times are scaled to all."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder) as searched, LocalWorkers(num_proc) as workers:
        tasks = search_tasks(hashes, Path(searched))
        written = time.perf_counter() - started
        chosen = tasks[:: max(1, len(tasks) // most)] if most else tasks
        started = time.perf_counter()
        results = list(workers.run(_timed, chosen))
        seconds = time.perf_counter() - started
    masks = sum(len(task.masks) / task.parts for task in chosen)
    scale = len(covering_masks()) / masks
    cpu = sum(result["cpu_seconds"] for result in results)
    per_mask = [result["cpu_seconds"] / result["masks"] for result in results]
    return {
        "hashes": len(hashes),
        "tasks": len(tasks),
        "tasks_run": len(chosen),
        "extrapolated": len(chosen) < len(tasks),
        "pairs_of_these_tasks": sum(result["pairs"] for result in results),
        "seconds": round(written + seconds * scale, 2),
        "cpu_seconds": round(cpu * scale, 2),
        "cpu_ns_per_key": round(cpu / (masks * hashes.size) * 1e9, 2),
        "slowest_task_to_mean": round(max(per_mask) / (sum(per_mask) / len(per_mask)), 2),
        "processes": num_proc,
        "peak_mib_of_a_worker": max(result["peak_mib"] for result in results),
        "peak_mib_of_the_main_process": peak_mib(),  # which has drawn the hashes
    }


def _timed(task: SearchTask) -> dict[str, float]:
    started = time.process_time()
    pairs = search(task)
    seconds = time.process_time() - started
    return {"masks": len(task.masks), "pairs": pairs, "cpu_seconds": seconds, "peak_mib": peak_mib()}


def _search_by_faiss(upright: Hashes, most: int) -> dict[str, Any]:
    """Search with faiss's multi-index hashing: three blocks of 21 bits, two flipped bits, a radius of 8."""
    import faiss

    codes = upright.astype(">u8").view(np.uint8).reshape(-1, 8)
    queries = codes[:: max(1, len(codes) // most)]
    started = time.perf_counter()
    index = faiss.IndexBinaryMultiHash(64, 3, 21)
    index.nflip = 2
    index.add(codes)
    added = time.perf_counter() - started
    started, found = time.perf_counter(), 0
    for start in range(0, len(queries), _FAISS_QUERIES):
        limits, _, _ = index.range_search(queries[start : start + _FAISS_QUERIES], MAX_DISTANCE + 1)
        found += int(limits[-1])
    scale = len(codes) / len(queries)
    return {
        "hashes": len(codes),
        "queries_run": len(queries),
        "extrapolated": len(queries) < len(codes),
        "pairs": round((found - len(queries)) / 2 * scale),
        "seconds": round(added + (time.perf_counter() - started) * scale, 2),
        "peak_mib": peak_mib(),
    }


def _skew(folder: Path, count: int) -> dict[str, Any]:
    """Measure the shares of parts of the range of keys, and the hashes that agree under a mask, for real hashes.

    `cells` are the hashes of the real images, `resampled` are `count` of them with noise, `random` as many random ones.
    """
    cells = hashes_of(np.load(folder / "cells.npy"))
    drawn = {"cells": cells, "resampled": _draw("cells", count, folder), "random": _draw("random", count, folder)}
    return {name: _skew_of(np.ascontiguousarray(hashes.T)) for name, hashes in drawn.items()}


def _skew_of(hashes: Hashes) -> dict[str, Any]:
    """Measure the skew of hashes (8, N)."""
    masks = covering_masks()[:: len(covering_masks()) // _SKEW_MASKS]
    largest = dict.fromkeys(_PARTS, 0.0)
    most, candidates = 0, 0
    sorted_keys = SortedKeys(hashes, 0, 1)
    for mask in masks:
        keys = sorted_keys.under(mask)
        for parts in _PARTS:
            edges = np.array([2**64 * part // parts for part in range(1, parts)], np.uint64)
            sizes = np.diff([0, *np.searchsorted(keys, edges), len(keys)])
            largest[parts] = max(largest[parts], float(sizes.max() / len(keys)))
        upright, agreeing = _runs(keys, sorted_keys.positions, hashes.shape[1])
        most = max(most, int(upright.max()))
        candidates += int((upright * (agreeing - upright) + upright * (upright - 1) // 2).sum())
    sample = hashes[:, :: max(1, hashes.shape[1] // _COMPARED)]
    return {
        "hashes": hashes.shape[1],
        "near_pairs_to_squared_hashes": _near_pairs(sample) / sample.shape[1] ** 2,
        "ns_to_pass_over_a_key": _ns_to_pass_over_a_key(hashes),
        "largest_part_to_mean": {f"{parts}": round(share * parts, 3) for parts, share in largest.items()},
        "share_of_the_largest_part": {f"{parts}": round(share, 5) for parts, share in largest.items()},
        "most_upright_hashes_that_agree": most,
        "candidates_per_key": round(candidates / len(masks) / hashes.size, 5),
    }


def _runs(keys: Hashes, positions: np.uint64, count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the upright hashes and all hashes of each key that an upright one has."""
    upright, counts = np.unique(keys[(keys & positions) < count] & ~positions, return_counts=True)
    starts, ends = np.searchsorted(keys, upright), np.searchsorted(keys, upright | positions, side="right")
    return counts, ends - starts


def _near_pairs(hashes: Hashes) -> int:
    """Count the pairs within 8 bits, in all orientations, among hashes (8, n)."""
    with tempfile.TemporaryDirectory() as folder:
        distinct = np.unique(hashes.T, axis=0)
        return sum(len(pairs.first) for pairs in pairs_within(distinct, Path(folder)))


def _ns_to_pass_over_a_key(hashes: Hashes) -> float:
    """Measure what a key costs in a task that leaves it to another part of the range of keys."""
    keys = SortedKeys(hashes, 0, _PARTS[-1])
    started = time.process_time()
    keys.under(covering_masks()[0])
    return round((time.process_time() - started) / hashes.size * 1e9, 2)


def _draw(kind: str, count: int, folder: Path) -> Hashes:
    """Draw hashes (N, 8) without equal upright ones, about `count` of them."""
    rng = np.random.default_rng(0)
    if kind == "cells":
        return _drawn_cells(count, folder)
    upright = rng.integers(0, 2**64, count, dtype=np.uint64)
    if kind == "clustered":  # few bits away from some hundred centres
        centres = upright[: max(1, count // 2000)]
        upright = rng.choice(centres, count) ^ _noise(rng, count, bits=16)
    upright = np.unique(upright)
    turned = np.random.default_rng(1).integers(0, 2**64, (len(upright), 7), np.uint64)
    return np.concatenate([upright[:, None], turned], axis=1)


def _drawn_cells(count: int, folder: Path) -> Hashes:
    """Draw the hashes of real cells with noise once, and keep them in the folder, where their coefficients are."""
    path = folder / f"cells-{count}.npy"
    if not path.exists():
        hashes = np.concatenate(list(_resampled(np.load(folder / "cells.npy"), count, np.random.default_rng(0))))
        np.save(path, hashes[np.unique(hashes[:, 0], return_index=True)[1]])
    drawn: Hashes = np.load(path)
    return drawn


def _noise(rng: np.random.Generator, count: int, bits: int) -> Hashes:
    noise = np.zeros(count, np.uint64)
    for _ in range(bits):
        noise ^= np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64)
    return noise


def _resampled(cells: NDArray[np.float64], count: int, rng: np.random.Generator) -> Iterator[Hashes]:
    """Yield hashes of real cells, drawn with replacement, with noise on their coefficients."""
    std = _NOISE * cells.std(axis=0)
    for start in range(0, count, _DRAWN):
        rows = min(_DRAWN, count - start)
        yield hashes_of(cells[rng.integers(0, len(cells), rows)] + std * rng.standard_normal((rows, *std.shape)))


def _coefficients(folder: Path) -> NDArray[np.float64]:
    """Compute the lowest DCT coefficients of all images below a folder, (M, 8, 8), of equal contrast."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."):
            try:
                found.append(low_frequencies(decode(path.read_bytes()).image.convert("L")))
            except BadImage as error:
                _log.warning("%s is left out: %s", path, error)
    if not found:
        raise CelluScanError(f"{folder} has no image that can be read; give a folder of images of cells with --cells")
    coefficients = np.array(found)
    contrasts = np.linalg.norm(coefficients.reshape(len(found), -1)[:, 1:], axis=1)
    scaled: NDArray[np.float64] = coefficients[contrasts > 0] / contrasts[contrasts > 0, None, None]
    return scaled
