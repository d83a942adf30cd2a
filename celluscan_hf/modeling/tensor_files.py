"""Read files of weights: safetensors, or written by `torch.save`; the format is detected from the content.

Pickled objects are refused without opening them (`weights_only=True`): opening one can run whatever its author wrote.
"""

import argparse
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .key_mapping import WeightsError, listed

# Common endings of files of weights; a name with one of them is not taken for a Hub repository.
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".onnx")

_HEAD_LENGTH = 512
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"

# First bytes of other formats, and what to do.
_OTHER_FORMATS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself: run git lfs pull",
    b"<": "is a web page (HTML or XML), not weights: download the file itself",
    b"{": "is JSON, not weights",
    b"\x89HDF": "is an HDF5 file, as written by Keras: only safetensors and files of torch.save are read",
    b"\x1f\x8b": "is a gzip archive: unpack it first",
}

# Harmless classes that torch does not allow by itself; trainers save their arguments as such objects.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]


def read_tensor_file(path: Path) -> dict[str, Any]:
    """Read tensors by name, or the dictionary in which a trainer saved them.

    Raises:
        WeightsError: The file is missing, damaged or of another format, or holds objects that need unpickling.
    """
    if not path.is_file():
        raise WeightsError(f"{path} is missing")
    with path.open("rb") as file:
        head = file.read(_HEAD_LENGTH)
    if head.startswith(_ZIP):
        return _read_zip(path)
    if head[8:9] == b"{":  # after the length of its header
        return _read_safetensors(path)
    if head.startswith(_PICKLE):
        return _load(path)
    raise WeightsError(f"{path} {_describe_format(path, head)}")


def _describe_format(path: Path, head: bytes) -> str:
    """Describe a file that is not a supported file of weights."""
    if not head:
        return "is empty (0 bytes)"
    for magic, description in _OTHER_FORMATS.items():
        if head.lstrip().startswith(magic):
            return description
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):  # its fields: version, producer
        return f"is an ONNX file, a graph without the model's tensor names: give the original model ({_SAVE})"
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    return "is neither safetensors nor a file of torch.save"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a complete safetensors file: {error}") from error


def _read_zip(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path} is damaged or was cut off: fetch or save it again") from error
    if "constants.pkl" in names:
        raise WeightsError(
            f"{path} is a TorchScript archive, which holds code: save only its tensors, "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    if "archive_format" in names:
        raise WeightsError(f"{path} is an archive of torch.export, a graph: give the original model ({_SAVE})")
    if "data.pkl" not in names:
        raise WeightsError(
            f"{path} is a zip archive that torch.save did not write ({listed(sorted(names), 3)}): unpack or convert it"
        )
    return _load(path)


def _load(path: Path) -> dict[str, Any]:
    """Load a dictionary of tensors, numbers, text and settings that `torch.save` wrote."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # an unpickler can raise any type
        if classes := _unsafe_classes(path, error):
            raise WeightsError(f"{path} {_describe_pickle(path, classes)}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is damaged, or not a file of torch.save ({reason})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected tensors by name, got {type(content).__name__}; save them: {_SAVE}")
    return content


def _unsafe_classes(path: Path, error: Exception) -> list[str]:
    """Return the names of the classes and functions that unpickling the file would need."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            return sorted(classes, key=lambda name: (name.startswith(("torch.", "functools.")), name))
    except Exception:  # not a zip: the error message names the first of them
        return re.findall(r"GLOBAL (\S+)", str(error))[:1]


def _describe_pickle(path: Path, classes: list[str]) -> str:
    names = listed(classes, 3)
    if any(".nn.modules." in name for name in classes):
        return (
            f"is a pickled model ({names}), and opening it could run code: save only its tensors where it was made, "
            f"{_SAVE}"
        )
    return (
        f"holds objects beside tensors ({names}), and opening them could run code: if you trust the file, save only "
        f"its tensors, torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], "
        "'weights.pth')"
    )
