"""The benchmark of the duplicate search: what it counts, and that it says what it has not run."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celluscan_hf.benchmarks import duplicates as module
from celluscan_hf.benchmarks.duplicates_plot import plot
from celluscan_hf.curation import hash_search
from celluscan_hf.curation.hash_masks import covering_masks


def test_candidates_and_parts_are_counted_as_one_by_one() -> None:
    hashes = np.random.default_rng(0).integers(0, 4, (8, 40), np.uint64) << np.uint64(20)
    skew = module._skew_of(hashes)
    masks = covering_masks()[:: len(covering_masks()) // module._SKEW_MASKS]
    turned = sum(int(((hashes[1:, :, None] ^ hashes[0]) & mask == 0).sum()) for mask in masks)
    upright = sum(int(np.triu((hashes[0, :, None] ^ hashes[0]) & mask == 0, 1).sum()) for mask in masks)
    assert skew["candidates_per_key"] == pytest.approx((turned + upright) / len(masks) / hashes.size, abs=1e-5)
    assert skew["most_upright_hashes_that_agree"] == 40  # a mask without these two bits
    assert skew["share_of_the_largest_part"]["256"] == 1


def test_a_search_of_some_tasks_says_so_and_is_scaled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hash_search, "_TASK_KEYS", 400 * 8 * 64)
    monkeypatch.setattr(
        module,
        "_timed",
        lambda task: {"masks": len(task.masks), "pairs": 0, "peak_mib": 1.0} | {"cpu_seconds": 2.0 * len(task.masks)},
    )
    hashes = module._draw("random", 400, tmp_path)
    for most, run, is_sample in ((None, 8, False), (2, 2, True)):
        result = module._search(hashes, most, 1, tmp_path)
        assert (result["tasks"], result["tasks_run"], result["extrapolated"]) == (8, run, is_sample)
        assert result["cpu_seconds"] == 2 * 511
    assert list(tmp_path.iterdir()) == []


def test_the_benchmark_of_cells_measures_and_plots_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cell_image: Any
) -> None:
    monkeypatch.setattr(module, "isolated", lambda function, *arguments: function(*arguments))
    (tmp_path / "cells").mkdir()
    for seed in range(4):
        cell_image(seed).save(tmp_path / "cells" / f"{seed}.png")
    (tmp_path / "cells" / "broken.png").write_bytes(b"no image")
    arguments = Namespace(
        counts=[50, 300], cells=tmp_path / "cells", tasks=None, faiss_queries=0, num_proc=1, folder=tmp_path,
        plot=tmp_path / "plot.png",
    )  # fmt: skip
    metrics = module.duplicates(arguments)
    assert set(metrics) == {"cells_50", "cells_300", "skew"}
    assert metrics["skew"]["cells"]["hashes"] == 4
    assert metrics["cells_300"]["eight_orientations"]["pairs_of_these_tasks"] > 0
    assert Image.open(tmp_path / "plot.png").size[0] > 500


def test_a_curve_is_drawn_for_each_kind_and_search(tmp_path: Path) -> None:
    one = {"hashes": 10, "seconds": 1.0}
    metrics = {f"{kind}_10": {"eight_orientations": one, "faiss_upright_only": one} for kind in ("random", "clustered")}
    plot(metrics, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000
