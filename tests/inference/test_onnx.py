"""An ONNX file gives the logits of PyTorch for any batch, or it is not written."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    LlavaImageProcessor,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference import onnx as exporting
from celluscan_hf.inference.onnx import TOLERANCE, export_onnx, image_shape
from celluscan_hf.modeling.processor import build_image_processor

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Build = Callable[..., PreTrainedModel]
KINDS = {
    "linear": {},
    "convolution": {"pooling": "mean", "input_norm": "image", "views": 8, "crops": [1.0, 0.8, 0.64]},
    "native": {},
}


def side_of(model: PreTrainedModel) -> int:
    """Side in pixels of the images that a model takes."""
    return image_shape(model.config)[1]


def run(file: Path, images: torch.Tensor) -> Any:
    (logits,) = onnxruntime.InferenceSession(file).run(["logits"], {"pixel_values": images.numpy()})
    return logits


@pytest.fixture(scope="module", params=KINDS)
def exported(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    build_model: Build,
    processor: LlavaImageProcessor,
) -> tuple[PreTrainedModel, Path]:
    """A model of each kind, and the folder it was exported to."""
    model, folder = (
        build_model(request.param, **KINDS[request.param]),
        tmp_path_factory.mktemp(request.param) / "exported",
    )
    if side_of(model) != 32:
        processor = build_image_processor(side_of(model), processor.image_mean, processor.image_std)
    done = export_onnx(model, folder, processor)
    assert done.file == folder / "model.onnx"
    assert done.size == done.file.stat().st_size
    assert done.max_difference <= TOLERANCE
    return model, folder


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, exported: tuple[PreTrainedModel, Path]) -> None:
    """Skip the tracing: use the graph that was exported already."""
    import onnx_ir

    monkeypatch.setattr(exporting, "_trace", lambda model: onnx_ir.load(exported[1] / "model.onnx"))


only_one_kind = pytest.mark.parametrize("exported", ["linear"], indirect=True)


def test_logits_are_those_of_pytorch_for_any_batch(exported: tuple[PreTrainedModel, Path]) -> None:
    model, folder = exported
    for batch in (1, 2, 5):
        side = side_of(model)
        images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            expected = model(images).logits.numpy()
        np.testing.assert_allclose(run(folder / "model.onnx", images), expected, rtol=0, atol=1e-5)


def test_only_the_batch_varies(exported: tuple[PreTrainedModel, Path]) -> None:
    session, side = onnxruntime.InferenceSession(exported[1] / "model.onnx"), side_of(exported[0])
    assert [(value.name, value.shape) for value in session.get_inputs()] == [("pixel_values", ["batch", 3, side, side])]
    assert [(value.name, value.shape) for value in session.get_outputs()] == [("logits", ["batch", 14])]


def test_the_file_is_valid_and_does_not_name_files_of_this_machine(exported: tuple[PreTrainedModel, Path]) -> None:
    file = exported[1] / "model.onnx"
    onnx.checker.check_model(file, full_check=True)
    assert b".py" not in file.read_bytes()


def test_the_folder_is_all_that_a_prediction_needs(exported: tuple[PreTrainedModel, Path], tmp_path: Path) -> None:
    model, folder = exported
    moved = shutil.copytree(folder, tmp_path / "moved")
    image = Image.effect_noise((60, 40), 90).convert("RGB")
    pixels = AutoImageProcessor.from_pretrained(moved)(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = int(model(pixels).logits.argmax())
    predicted = int(run(moved / "model.onnx", pixels).argmax())
    assert AutoConfig.from_pretrained(moved).id2label[predicted] == model.config.id2label[expected]


def test_the_given_model_is_not_changed(tmp_path: Path, build_model: Build, processor: LlavaImageProcessor) -> None:
    model = build_model("linear", attn_implementation="sdpa", output_attentions=False).to(torch.bfloat16).train()
    done = export_onnx(model, tmp_path / "exported", processor)
    assert done.max_difference <= TOLERANCE
    assert (model.dtype, model.training, model.config._attn_implementation) == (torch.bfloat16, True, "sdpa")
    assert AutoConfig.from_pretrained(done.file.parent).dtype == torch.float32


@only_one_kind
@pytest.mark.usefixtures("quick")
def test_large_weights_of_a_checkpoint_folder_lie_beside_the_graph(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "ONE_FILE_BYTES", 1000)
    (tmp_path / "exported").mkdir()
    done = export_onnx(str(checkpoint), tmp_path / "exported")
    graph, weights = done.file.stat().st_size, (done.file.parent / "model.onnx.data").stat().st_size
    assert weights > graph
    assert done.size == graph + weights
    names = {file.name for file in done.file.parent.iterdir()}
    assert names >= {"model.onnx", "config.json", "preprocessor_config.json"}


@only_one_kind
@pytest.mark.usefixtures("quick")
def test_a_file_with_other_logits_is_discarded(
    tmp_path: Path, build_model: Build, processor: LlavaImageProcessor, exported: tuple[PreTrainedModel, Path]
) -> None:
    model = build_model("linear")
    model.classifier.linear.bias.data[3] += 2 * TOLERANCE
    with pytest.raises(CelluScanError, match=r"logits differ from PyTorch by 0\.0002, expected at most 0\.0001"):
        export_onnx(model, tmp_path / "exported", processor)
    assert not list(tmp_path.iterdir())
    assert exporting.max_difference(build_model("native", num_labels=1), exported[1] / "model.onnx") == float("inf")


@only_one_kind
@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("difference", [float("nan"), float("inf")])
def test_nan_and_infinity_are_not_small(
    difference: float,
    tmp_path: Path,
    build_model: Build,
    processor: LlavaImageProcessor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "max_difference", lambda model, file: difference)
    with pytest.raises(CelluScanError, match="logits differ"):
        export_onnx(build_model("linear"), tmp_path / "exported", processor)


def test_a_folder_that_is_not_empty_is_left_alone(checkpoint: Path) -> None:
    before = sorted(checkpoint.iterdir())
    with pytest.raises(CelluScanError, match="is not empty"):
        export_onnx(checkpoint, checkpoint)
    assert sorted(checkpoint.iterdir()) == before


def test_a_file_where_the_folder_should_be(checkpoint: Path) -> None:
    with pytest.raises(CelluScanError, match="is a file; give a new or empty folder"):
        export_onnx(checkpoint, checkpoint / "config.json")


def test_a_model_without_its_processor(tmp_path: Path, build_model: Build) -> None:
    with pytest.raises(CelluScanError, match="needs its image processor"):
        export_onnx(build_model("linear"), tmp_path / "exported")


def test_a_model_other_than_a_vision_transformer(tmp_path: Path, processor: LlavaImageProcessor) -> None:
    model = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(CelluScanError, match="expected a Vision Transformer"):
        export_onnx(model, tmp_path / "exported", processor)


def test_a_missing_package_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(CelluScanError, match=r'needs onnxscript: pip install "celluscan_hf\[onnx\]"'):
        export_onnx("no/matter", tmp_path / "exported")
