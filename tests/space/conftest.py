"""A tiny model, images for it, and the page served in a thread."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.exporting import export_native
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor
from celluscan_hf.sources.drawing import draw_cell

gradio = pytest.importorskip("gradio", reason="the extra demo is not installed")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained ViT with its processor."""
    torch.manual_seed(0)
    config = CelluScanConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    folder = tmp_path_factory.mktemp("model") / "run"
    processor = build_image_processor(32, (0.87, 0.75, 0.72), (0.16, 0.19, 0.08))
    export_native(CelluScanForImageClassification(config).eval(), folder, processor)
    return folder


@pytest.fixture(scope="session")
def cell_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two synthetic cells, an image without a cell, a file that is not an image, and one with too many pixels."""
    folder = tmp_path_factory.mktemp("cell_files")
    for name in ("Basophil", "Monocyte"):
        cell = draw_cell(name, np.random.default_rng(0), 128)
        cell.save(folder / f"{name}.png")
    Image.new("RGB", (100, 100), (30, 120, 40)).save(folder / "meadow.png")
    Image.new("RGB", (5000, 100), "white").save(folder / "wide.png")
    (folder / "broken.jpg").write_bytes(b"this is not an image " * 40)
    return {file.stem: file for file in folder.iterdir()}


@pytest.fixture(scope="module")
def served(checkpoint: Path, cell_files: dict[str, Path]) -> Iterator[str]:
    """The address of the page, with one example."""
    from celluscan_hf.space.page import build_page, serve
    from celluscan_hf.space.recogniser import Recogniser

    page = build_page(Recogniser(str(checkpoint)), [(cell_files["Basophil"], taxonomy.NAMES[1])], "the tiny model")
    _, address, _ = serve(page, "127.0.0.1", None, prevent_thread_lock=True, quiet=True)
    yield address
    page.close()
