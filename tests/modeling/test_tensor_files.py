"""Files of weights are read whatever their ending, tensors only; others are refused with their format and advice."""

import argparse
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from celluscan_hf.modeling.checkpoints import read_checkpoint
from celluscan_hf.modeling.exporting import to_torchvision
from celluscan_hf.modeling.key_mapping import WeightsError
from celluscan_hf.modeling.tensor_files import read_tensor_file

from .conftest import images, tiny_model


class Settings(dict):
    """A class of a trainer, as Lightning's AttributeDict."""


def weights() -> dict[str, torch.Tensor]:
    return dict(to_torchvision(tiny_model()).state_dict())


def refusal(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path, num_attention_heads=4)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ENDINGS = ["w.pth", "model_best.pth.tar", "w.bin", "without_ending"]


@pytest.mark.parametrize("name", ENDINGS)
def test_a_file_is_read_whatever_its_ending(name, tmp_path):
    for zipped in (True, False):
        torch.save(weights(), tmp_path / name, _use_new_zipfile_serialization=zipped)
        checkpoint = read_checkpoint(tmp_path / name, num_attention_heads=4)
        assert_close(checkpoint.build().state_dict(), tiny_model().state_dict(), rtol=0, atol=0)
    save_file(weights(), tmp_path / name)
    assert read_tensor_file(tmp_path / name).keys() == weights().keys()


def test_a_checkpoint_of_lightning_is_read(tmp_path, caplog):
    state = {f"model.{name}": tensor for name, tensor in weights().items()}
    content = {
        "epoch": 2,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": state,
        "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 0.1}]}],
        "callbacks": {"ModelCheckpoint{}": {"best_model_score": torch.ones(1), "dirpath": "out"}},
        "hparams_name": "kwargs",
        "hyper_parameters": {"lr": 0.1, "classes": ["a", "b"], "size": (32, 32), "pretrained": None},
    }
    torch.save(content, tmp_path / "last.ckpt")
    checkpoint = read_checkpoint(tmp_path / "last.ckpt", num_attention_heads=4)
    assert_close(checkpoint.build().state_dict(), tiny_model().state_dict(), rtol=0, atol=0)
    assert "used 'state_dict', removed the prefix 'model.'" in caplog.text


def test_arguments_of_a_trainer_beside_the_weights_are_accepted(tmp_path):
    torch.save({"model": weights(), "args": argparse.Namespace(lr=0.1, data="x")}, tmp_path / "last.pth")
    assert read_checkpoint(tmp_path / "last.pth", num_attention_heads=4).config.num_labels == 14


@pytest.mark.parametrize("zipped", [True, False])
def test_objects_beside_tensors_are_refused_unopened_by_their_class(zipped, tmp_path):
    content = {"state_dict": weights(), "hyper_parameters": Settings(lr=0.1), "path": Path("out")}
    torch.save(content, tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    error = refusal(tmp_path / "last.ckpt")
    assert "holds objects beside tensors (" in error
    assert f"{Settings.__module__}.Settings" in error
    assert "torch.save(torch.load('last.ckpt', weights_only=False)['state_dict'], 'weights.pth')" in error


class Malicious:
    """Would leave a file behind if it was unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_that_a_file_holds_is_run(tmp_path):
    torch.save({"state_dict": weights(), "extra": Malicious(tmp_path / "ran")}, tmp_path / "last.ckpt")
    refusal(tmp_path / "last.ckpt")
    assert not (tmp_path / "ran").exists()


def test_a_pickled_model_is_refused_unopened(tmp_path):
    torch.save(to_torchvision(tiny_model()), tmp_path / "model.pth")
    error = refusal(tmp_path / "model.pth")
    assert "is a pickled model (torchvision." in error
    assert "torch.save(model.state_dict(), 'weights.pth')" in error


@pytest.mark.filterwarnings("ignore")
def test_a_torchscript_archive_is_refused_with_what_to_do(tmp_path):
    torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)).save(tmp_path / "model.pt")
    error = refusal(tmp_path / "model.pt")
    assert "is a TorchScript archive" in error
    assert "torch.jit.load('model.pt').state_dict()" in error


def test_an_exported_program_is_refused_by_its_format(tmp_path):
    torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.ones(1, 3),)), tmp_path / "model.pt2")
    assert "is an archive of torch.export" in refusal(tmp_path / "model.pt2")


def test_an_onnx_file_is_refused_by_its_format(tmp_path):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "empty", [], [])
    for name in ("model.onnx", "model.bin"):
        onnx.save(onnx.helper.make_model(graph, producer_name="pytorch"), tmp_path / name)
        assert "is an ONNX file" in refusal(tmp_path / name)


OTHERS = [
    (b"", "is empty (0 bytes)"),
    (b"  \n<!DOCTYPE html><html>", "is a web page"),
    (b"<html>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid", "is a Git LFS pointer, not the file itself: run git lfs pull"),
    (b'{"error": "not found"}', "is JSON"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file"),
    (b"\x1f\x8b\x08\x00", "is a gzip archive"),
    (b"hello", "is neither safetensors nor a file of torch.save"),
    (b"\x00" * 600, "is neither safetensors nor a file of torch.save"),
    (b"PK\x03\x04 cut", "is damaged or was cut off"),
    (pickle.dumps({"a": 1}), "is damaged, or not a file of torch.save"),
]


@pytest.mark.parametrize(("content", "message"), OTHERS)
def test_another_format_is_named(content, message, tmp_path):
    for path in (tmp_path / "model.pth", tmp_path / "model.safetensors"):
        path.write_bytes(content)
        assert f"{path} {message}" in refusal(path)


def archive(kind: str, path: Path) -> None:
    (path.parent / "inside.pth").write_bytes(b"x")
    if kind == "tar":
        with tarfile.open(path, "w") as file:
            file.add(path.parent / "inside.pth", "inside.pth")
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.write(path.parent / "inside.pth", "inside.pth")


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_asks_to_be_unpacked(kind, tmp_path):
    archive(kind, tmp_path / "model.pth.tar")
    assert f"is a {kind} archive" in refusal(tmp_path / "model.pth.tar")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_truncated_file_is_reported(zipped, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(weights(), path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize("make", [list, torch.stack], ids=["list", "tensor"])
def test_anything_but_tensors_by_name_is_refused(make: Callable[[Any], Any], tmp_path):
    torch.save(make([images(), images()]), tmp_path / "model.pth")
    assert "expected tensors by name, got" in refusal(tmp_path / "model.pth")
