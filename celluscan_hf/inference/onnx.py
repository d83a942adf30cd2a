"""Export a classifier to ONNX and check it against PyTorch.

The graph is made by the library's exporter (`transformers.exporters`). It takes `pixel_values` (batch, channels,
height, width), float32, from the image processor, and returns `logits` (batch, labels); only the batch size varies.
Needs the extra `onnx`.
"""

import contextlib
import copy
import io
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import BaseImageProcessor, PreTrainedModel

from ..errors import CelluScanError
from .loading import load_classifier

MODEL_FILE = "model.onnx"
INPUT, OUTPUT, BATCH_AXIS = "pixel_values", "logits", "batch"
TOLERANCE = 1e-4  # largest difference of a logit; other float32 kernels stay far below
CHECKED_BATCHES = (1, 3)
ONE_FILE_BYTES = 2_000_000_000  # a protobuf file is limited to 2 GiB; larger weights go to a second file
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class OnnxExport:
    """The exported file, its size with weights in bytes, and the largest difference of a logit."""

    file: Path
    size: int
    max_difference: float


def export_onnx(
    model: str | Path | PreTrainedModel,
    folder: str | Path,
    processor: BaseImageProcessor | None = None,
    *,
    views: int | None = None,
    trust_remote_code: bool = False,
) -> OnnxExport:
    """Write `model.onnx`, `config.json` and `preprocessor_config.json` into a folder.

    The weights are written in float32. The folder appears only after the file was compared with PyTorch on batches of
    one and three random images.

    Args:
        model: A checkpoint folder, the name of a model on the Hub, or a model, which is not changed.
        folder: Output folder; must be new or empty.
        processor: The image processor, if `model` is a model object.
        views: Mirrored copies of an image that the graph averages over; None for those of the model.
        trust_remote_code: Run code from the checkpoint.

    Raises:
        CelluScanError: The extra `onnx` is not installed, the folder is not empty, the model cannot be loaded, or
            ONNX Runtime and PyTorch differ by more than `TOLERANCE`.
    """
    folder = Path(folder).resolve()
    _require_packages()
    _require_free(folder)
    if isinstance(model, (str, Path)):
        model, processor = load_classifier(model, trust_remote_code, views=views)
    elif processor is None or views is not None:
        raise CelluScanError("a model object needs its image processor, and has its views: export_onnx(…, processor)")
    model = _exportable(model)
    program = _trace(model)
    with _atomic_folder(folder) as partial:
        _save(program, partial / MODEL_FILE)
        model.config.save_pretrained(partial)
        processor.save_pretrained(partial)
        difference = max_difference(model, partial / MODEL_FILE)
        if not difference <= TOLERANCE:
            raise CelluScanError(
                f"the ONNX file was discarded: its logits differ from PyTorch by {difference:.3g}, expected at most "
                f"{TOLERANCE:g}; try other versions of torch and onnxscript"
            )
        size = sum(file.stat().st_size for file in partial.glob(f"{MODEL_FILE}*"))
    return OnnxExport(folder / MODEL_FILE, size, difference)


def max_difference(model: PreTrainedModel, file: Path) -> float:
    """Compute the largest difference between logits of ONNX Runtime and PyTorch on seeded random images.

    NaN if one of them gives NaN; infinite if the shapes differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences = []
    for batch in CHECKED_BATCHES:
        images = torch.randn(batch, *image_shape(model.config), generator=generator)
        with torch.no_grad():
            expected = model(images).logits.numpy()
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        same_shape = logits.shape == expected.shape
        differences.append(float(np.abs(logits - expected).max()) if same_shape else float("inf"))
    return float(np.max(differences))


def image_shape(config: Any) -> tuple[int, int, int]:
    """Return channels, height and width of a model's images."""
    size = getattr(config, "picture_size", getattr(config, "image_size", None))
    height, width = (size, size) if isinstance(size, int) else size or (None, None)
    if not isinstance(height, int) or not isinstance(width, int):
        raise CelluScanError(
            f"expected a Vision Transformer, whose config has image_size; {type(config).__name__} has {size!r}"
        )
    return getattr(config, "num_channels", 3), height, width


def _require_packages() -> None:
    if missing := [name for name in _PACKAGES if find_spec(name) is None]:
        raise CelluScanError(f'ONNX export needs {", ".join(missing)}: pip install "celluscan_hf[onnx]"')


def _require_free(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise CelluScanError(f"{folder} is not empty; give a new or empty folder")
    if folder.exists() and not folder.is_dir():
        raise CelluScanError(f"{folder} is a file; give a new or empty folder")


def _exportable(model: PreTrainedModel) -> PreTrainedModel:
    """Copy the model to the CPU in float32, with logits only and the attention that gives the smallest graph."""
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()
    model.set_attn_implementation("eager")
    model.config.dtype = torch.float32
    model.config.output_attentions = model.config.output_hidden_states = False
    return model


def _trace(model: PreTrainedModel) -> Any:
    """Trace the graph, an `onnx_ir.Model`, without paths of this machine."""
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from transformers.exporters import OnnxConfig, OnnxExporter

    images = torch.zeros(2, *image_shape(model.config))  # two images, as a batch of one would become a constant
    varying = {INPUT: {0: torch.export.Dim(BATCH_AXIS)}}
    with _quiet():
        exported = OnnxExporter().export(model, {INPUT: images}, OnnxConfig(dynamic=True, dynamic_shapes=varying))
    # transformers 5.17 gives torch's ONNXProgram, 5.23 its own ExportedModel
    program = exported.model if isinstance(exported, torch.onnx.ONNXProgram) else exported.program
    ClearMetadataAndDocStringPass()(program)
    _name_batch_axis(program.graph)
    return program


def _name_batch_axis(graph: Any) -> None:
    """Name the varying axis `batch` in every shape of the graph; the exporter calls it `s99` or similar."""
    from onnx_ir import Shape

    symbol = graph.inputs[0].shape[0]
    values = [*graph.inputs, *(output for node in graph for output in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = Shape([BATCH_AXIS if size == symbol else size for size in value.shape])


def _save(program: Any, file: Path) -> None:
    """Save one file if protobuf allows it, else with the weights in `model.onnx.data`."""
    import onnx_ir

    weights = sum(value.const_value.nbytes for value in program.graph.initializers.values())
    onnx_ir.save(program, file, external_data=f"{file.name}.data" if weights > ONE_FILE_BYTES else None)


@contextlib.contextmanager
def _atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `folder` on success and is removed on failure."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress and version warnings; its result is checked anyway."""
    threshold = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(threshold)
