"""The file of an audit's figures: with the command, the seed, the data and the versions that made them."""

import json
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..atomic_io import atomic_write
from ..dataset.reading import CellDataset
from ..training.record import git_revision

_SOFTWARE = ("celluscan_hf", "datasets", "numpy", "pillow", "scikit-learn", "torch", "torchvision", "transformers")


def result(
    what: str, data: CellDataset, seed: int, settings: dict[str, Any], figures: dict[str, Any]
) -> dict[str, Any]:
    """All that stands in the file."""
    return {
        "what": what,
        "command": shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "seed": seed,
        "settings": settings,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "software": {"python": platform.python_version()} | {name: version(name) for name in _SOFTWARE},
        "git": git_revision(),
        "figures": figures,
    }


def write(content: dict[str, Any], path: Path) -> None:
    """Write it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
