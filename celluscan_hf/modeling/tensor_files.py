"""What a file of weights holds: safetensors, or what `torch.save` wrote. Kinds are told by content, not by the ending.

Pickled objects are refused unopened (`weights_only=True`): opening one can run whatever its author wrote.
"""

import argparse
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from .key_mapping import WeightsError

# Endings that people give to files of weights: a name that ends like this is not that of a Hub repository.
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".onnx")

_HEAD_LENGTH = 512
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_SAVE = "torch.save(model.state_dict(), 'weights.pth')"

# How other files begin, and what to do.
_OTHER_KINDS = {
    b"version https://git-lfs": "is a Git LFS pointer, not the file itself: run git lfs pull",
    b"<": "is a web page (HTML or XML), not weights: download the file itself",
    b"{": "is JSON, not weights",
    b"\x89HDF": "is an HDF5 file, as Keras writes it: only safetensors and files of torch.save are read",
    b"\x1f\x8b": "is a gzip archive: unpack it first",
}

# Classes, beside those that torch allows, whose objects only hold settings: trainers leave their arguments so.
_ALLOWED: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace]


def read_tensor_file(path: Path) -> dict[str, Any]:
    """Tensors by name, or the dictionary that a trainer saved around them.

    Raises:
        WeightsError: It is missing, of another kind, damaged, or holds objects that only pickling could restore.
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
    raise WeightsError(f"{path} {_kind(path, head)}")


def _kind(path: Path, head: bytes) -> str:
    """What a file is that holds no weights we read."""
    if not head:
        return "is empty (0 bytes)"
    for start, kind in _OTHER_KINDS.items():
        if head.lstrip().startswith(start):
            return kind
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):  # its version, then its producer
        return f"is an ONNX file, a graph without the model's names: give the model that it was made of ({_SAVE})"
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first"
    return "is neither safetensors nor a file of torch.save"


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a whole safetensors file: {error}") from error


def _read_zip(path: Path) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {Path(name).name for name in archive.namelist()}
    except zipfile.BadZipFile as error:
        raise WeightsError(f"{path} is damaged or was cut off: fetch or save it again") from error
    if "constants.pkl" in names:
        raise WeightsError(
            f"{path} is a TorchScript archive, which holds code: save its tensors alone, "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
        )
    if "archive_format" in names:
        raise WeightsError(
            f"{path} is an archive of torch.export, a graph: give the model that it was made of ({_SAVE})"
        )
    if "data.pkl" not in names:
        listed = ", ".join(sorted(names)[:3])
        raise WeightsError(f"{path} is a zip archive that torch.save did not write ({listed}): unpack or convert it")
    return _load(path)


def _load(path: Path) -> dict[str, Any]:
    """The dictionary that `torch.save` wrote, of tensors, numbers, text and settings."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever an unpickler stumbles over
        if classes := _unsafe_classes(path, error):
            raise WeightsError(f"{path} {_pickled(path, classes)}") from error
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path} is damaged, or not a file of torch.save ({reason})") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected tensors by name, got {type(content).__name__}; save them: {_SAVE}")
    return content


def _unsafe_classes(path: Path, error: Exception) -> list[str]:
    """Classes and functions that opening the file would need, by name."""
    try:
        with torch.serialization.safe_globals(_ALLOWED):
            classes = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            return sorted(classes, key=lambda name: (name.startswith(("torch.", "functools.")), name))
    except Exception:  # not a zip: the message names the first of them
        return re.findall(r"GLOBAL (\S+)", str(error))[:1]


def _pickled(path: Path, classes: Sequence[str]) -> str:
    listed = ", ".join(classes[:3]) + (f" and {len(classes) - 3} more" if len(classes) > 3 else "")
    if any(".nn.modules." in name for name in classes):
        return (
            f"is a whole pickled model ({listed}), and opening it could run code: where it was made, save its tensors "
            f"alone, {_SAVE}"
        )
    return (
        f"holds objects beside tensors ({listed}), and opening them could run code: where it was made, or where you "
        f"trust it, save its tensors alone, torch.save(torch.load({path.name!r}, weights_only=False)['state_dict'], "
        "'weights.pth')"
    )
