"""Fixtures for all tests: synthetic images, small file trees, caches in a temp folder, the real cells if present."""

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image, ImageDraw

PROJECT = Path(__file__).resolve().parents[1]
GUARD = PROJECT / "tests" / "hub" / "guard" / "sitecustomize.py"


@pytest.fixture(scope="session", autouse=True)
def hub_offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests away from the user's caches and from the Hub."""
    home = tmp_path_factory.mktemp("hf_home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(home))
        patch.setenv("HF_DATASETS_CACHE", str(home / "datasets"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        # Test modules are imported before this runs; what they import has read the environment already.
        if "huggingface_hub" in sys.modules:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            patch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(home / "hub"))
        if "datasets" in sys.modules:
            patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
            patch.setattr("datasets.config.HF_DATASETS_CACHE", home / "datasets")
            patch.setattr("datasets.config.HF_MODULES_CACHE", home / "modules")
        yield


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Refuse connections to other machines, as in the clean processes of the loop-back Hub."""
    specification = importlib.util.spec_from_file_location("network_guard", GUARD)
    assert specification and specification.loader
    guard = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(guard)
    with guard.installed():
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real cells, for tests marked `real_data`."""
    folder = PROJECT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real cells of ../shared/data are missing")
    return folder


def _shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this run that all its test processes share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "data_set"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A built dataset, 14 classes of synthetic cells, 48 px: 392 (half augmented), 28 and 56 rows in its splits."""
    from celluscan_hf.dataset.build import build
    from celluscan_hf.dataset.settings import BuildSettings

    folder = _shared(tmp_path_factory) / "celluscan" / "wbc"
    with FileLock(folder.parents[1] / "lock"):
        if not folder.exists():  # published when it is complete
            build(BuildSettings(("synthetic=20",), folder, image_size=48, target_per_class=28, num_proc=1))
    return folder


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory, data_set: Path) -> Path:
    """A folder with a tiny hand-built model, calibrated on `data_set`; not to be changed.

    Weights come from a seed; the head is fitted to the cells, and overconfident.
    """
    import torch

    from celluscan_hf.evaluation.cells import load_cells_of_split
    from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
    from celluscan_hf.modeling.exporting import export_hand_built
    from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
    from celluscan_hf.modeling.processor import build_image_processor
    from celluscan_hf.reliability.calibrate import calibrate, run_model

    folder = tmp_path_factory.mktemp("calibrated") / "run"
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
    model = CelluScanForImageClassification(CelluScanConfig(**sizes, image_size=32, patch_size=8))
    processor = build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15))
    outputs = run_model(load_cells_of_split(str(data_set), "train").kept, model, processor)
    features = outputs.features[:, :32]  # the rest are colours
    centered = features - features.mean(axis=0)
    weight = np.linalg.solve(
        centered.T @ centered + 0.1 * np.eye(32), centered.T @ np.eye(14)[outputs.labels]
    )  # ridge regression
    model.classifier.linear.weight.data = torch.from_numpy(20 * weight.T).float()
    model.classifier.linear.bias.data = torch.from_numpy(-20 * features.mean(axis=0) @ weight).float()
    export_hand_built(model, folder, processor)
    calibrate(folder, str(data_set))
    return folder


@pytest.fixture(scope="session")
def cell_image() -> Callable[..., Image.Image]:
    """Draw a purple cell among red ones on a bright background; each seed gives another image."""

    def draw(seed: int, size: tuple[int, int] = (64, 64)) -> Image.Image:
        rng = np.random.default_rng(seed)
        width, height = size
        image = Image.new("RGB", size, tuple(rng.integers(225, 250, 3).tolist()))
        canvas = ImageDraw.Draw(image)

        def disc(x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
            x, y, radius = x * width, y * height, radius * min(size)
            canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

        for x, y in rng.uniform(0, 1, (4, 2)):
            disc(x, y, rng.uniform(0.1, 0.2), (214, 168, 170))
        x, y = rng.uniform(0.4, 0.6, 2)
        disc(x, y, rng.uniform(0.25, 0.33), (198, 176, 206))
        for turn in rng.uniform(0, 2 * np.pi, 3):
            disc(x + 0.12 * np.cos(turn), y + 0.12 * np.sin(turn), rng.uniform(0.07, 0.14), (92, 44, 140))
        return image

    return draw


@pytest.fixture(scope="session")
def write_image(cell_image: Callable[..., Image.Image]) -> Callable[..., Path]:
    """Save an image, or the cell drawn from a seed, and create the folders it needs."""

    def write(path: Path, image: Image.Image | int, **options: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        (cell_image(image) if isinstance(image, int) else image).save(path, **options)
        return path

    return write


@pytest.fixture(scope="session")
def write_files() -> Callable[[Path, Mapping[str, bytes | str]], Path]:
    """Write files by their paths below a folder, and return the folder."""

    def write(folder: Path, files: Mapping[str, bytes | str]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        return folder

    return write


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[Any]:
    """A Ray cluster of two nodes on this machine; see `ray_clusters.TwoNodes`."""
    pytest.importorskip("ray", reason='Ray is missing: pip install "celluscan_hf[ray]"')
    from .ray_clusters import two_nodes

    with two_nodes() as nodes:
        yield nodes
