"""Features of a frozen model, computed once: a file keeps them, and knows of which cells and weights they are."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from transformers import BaseImageProcessor, PreTrainedModel

from ..atomic_io import atomic_write
from ..errors import CelluScanError
from ..evaluation.cells import Cells
from ..modeling.reliability_celluscan import COLOURS
from ..reliability.calibrate import run_model

Features = NDArray[np.float32]
_OF = "of"  # what the features are of, in the metadata of their file


def keep_features(file: Path, cells: Cells, of: str, compute: Callable[[], Features]) -> Features:
    """Return features (n, D) of cells: those in `file`, if they are of these cells and of `of`, else computed anew."""
    digest = hashlib.sha256(f"{of}\n{cells.described.get('fingerprint')}".encode())
    for cell in cells.kept:
        digest.update(f"\n{cell.image_id} {cell.sha256}".encode())
    identity = digest.hexdigest()
    if not file.is_file() or _identity(file) != identity:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as partial:
            save_file({"features": np.ascontiguousarray(compute(), np.float32)}, partial, metadata={_OF: identity})
    features: Features = load_file(file)["features"]
    return features


def _identity(file: Path) -> str | None:
    with safe_open(file, framework="numpy") as opened:
        return (opened.metadata() or {}).get(_OF)


def model_features(model: PreTrainedModel, processor: BaseImageProcessor, cells: Cells) -> Features:
    """Compute what the classifier of a model of the 14 classes reads, (n, D).

    Raises:
        CelluScanError: An image cannot be used.
    """
    features = run_model(cells.kept, model, processor).features[:, :-COLOURS]
    if len(features) != len(cells.kept):
        raise CelluScanError(
            f"{len(cells.kept) - len(features)} of {len(cells.kept)} images cannot be used: celluscan evaluate lists "
            "them; leave them out of the source"
        )
    return features


def identify(model: PreTrainedModel, processor: BaseImageProcessor) -> str:
    """Compute a digest of a model's weights and looks at an image, and of how its images are prepared."""
    digest = hashlib.sha256(f"{model.config.to_json_string()}{processor.to_json_string()}".encode())
    for name, tensor in model.vit.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def labels_of(cells: Cells) -> NDArray[Any]:
    """Return the labels (n,) of cells, as numbers of the 14 classes."""
    return np.array([cell.label for cell in cells.kept], np.int64)
