"""Result file of an audit: its metrics with the command, seed, data and software versions."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ..atomic_io import atomic_write
from ..dataset.reading import CellDataset
from ..training.record import git_revision
from ..versions import versions

_SOFTWARE = ("celluscan_hf", "datasets", "numpy", "pillow", "scikit-learn", "torch", "torchvision", "transformers")


def result(
    what: str, data: CellDataset, seed: int, settings: dict[str, Any], metrics: dict[str, Any]
) -> dict[str, Any]:
    """Content of the file."""
    return {
        "what": what,
        "command": _command(),
        "seed": seed,
        "settings": settings,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        "software": versions(("python", *_SOFTWARE)),
        "git": git_revision(),
        "metrics": metrics,
    }


def _command() -> str:
    """This process as a `celluscan` command; `scripts/audit.py` is `celluscan audit`."""
    script = Path(sys.argv[0])
    subcommand = [script.stem] if script.parent.name == "scripts" else []
    return shlex.join(["celluscan", *subcommand, *sys.argv[1:]])


def write(content: dict[str, Any], path: Path) -> None:
    """Write the content as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
