"""The dataset built once per session, and helpers to build, run and compare others."""

import hashlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.settings import BuildSettings

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "build_dataset.py"
SMALL = {"image_size": 48, "target_per_class": 10, "num_proc": 1}


def build_small(output: Path, *sources: str, **changes: Any) -> dict[str, Any]:
    """Build in this process with small settings."""
    return build(BuildSettings(sources or ("synthetic=8",), output, **(SMALL | changes)))


def command(output: Path, *arguments: str) -> list[str]:
    """The command line of a small build."""
    options = {"--source": "synthetic=8", "--image-size": "48", "--target-per-class": "10", "--num-proc": "1"}
    given = {argument.partition("=")[0] for argument in arguments}
    defaults = [f"{name}={value}" for name, value in options.items() if name not in given]
    return [sys.executable, str(SCRIPT), f"--output={output}", *defaults, *arguments]


def run(output: Path, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command of a small build."""
    return subprocess.run(command(output, *arguments), capture_output=True, text=True, timeout=300, **options)


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file of a folder, by its path."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="session")
def built(data_set: Path) -> Path:
    """The dataset of the session."""
    return data_set


@pytest.fixture(scope="session")
def built_small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `build_small` builds."""
    folder = tmp_path_factory.mktemp("built_small") / "wbc"
    build_small(folder)
    return folder


@pytest.fixture
def cell_folder(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """An image folder with 12 images of each of two classes."""
    for number in range(12):
        write_image(tmp_path / "own" / "Basophil" / f"{number}.png", number)
        write_image(tmp_path / "own" / "Monocyte" / f"{number}.png", 100 + number)
    return tmp_path / "own"
