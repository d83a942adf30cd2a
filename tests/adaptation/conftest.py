"""Cells of another microscope: the drawn cells under another lamp, and a model to adapt."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from celluscan_hf.adaptation.adapt import Start, load_start
from celluscan_hf.adaptation.cells import LabelledCells, read_cells
from celluscan_hf.sources import open_sources

CLASSES = ("Eosinophil", "Lymphocyte", "Monocyte")
PER_CLASS = 6


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six bluish drawn cells of each of `CLASSES`, two of each patient."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (source,) = open_sources([f"synthetic={PER_CLASS}"], folder, seed=5, licenses={})
    counts = dict.fromkeys(CLASSES, 0)
    for record in source.records():
        if record.label in counts:
            number = counts[record.label]
            counts[record.label] += 1
            path = folder / record.label / f"patient {number // 2}-{record.label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read(record))
            pixels = np.asarray(Image.open(path).convert("RGB")).astype(float) * (0.75, 0.85, 1.0)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    assert set(counts.values()) == {PER_CLASS}
    return folder


@pytest.fixture(scope="session")
def start(calibrated: Path) -> Start:
    return load_start(calibrated)


@pytest.fixture
def read(start: Start, tmp_path: Path) -> Callable[..., LabelledCells]:
    """Read the cells of a folder for the model."""

    def of(folder: Path, own: bool = False) -> LabelledCells:
        return read_cells([f"imagefolder={folder}"], start.names, own, start.processor, tmp_path)

    return of
