"""Load a trained classifier with its image processor and calibration; explain failed loads."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    ViTConfig,
)
from transformers.utils.hub import cached_file

from ..errors import CelluScanError
from ..modeling.configuration_celluscan import CelluScanConfig
from ..modeling.reliability_celluscan import Reliability, find_reliability

SETTINGS = "settings.json"  # what a training writes beside its model
_SAVE = "save it with model.save_pretrained(folder) and processor.save_pretrained(folder)"

_ABSENT = "does not exist; expected a checkpoint folder, or the name of a model on the Hub, owner/name"

# Words of the library's message -> our explanation.
_KNOWN_FAILURES = {
    "trust_remote_code": "needs code from the checkpoint; if you trust its author, allow it with "
    "--trust-remote-code (in Python: trust_remote_code=True)",
    "unrecognized configuration class": "is not an image classification model",
    "does not recognize this architecture": "has a model type that this version of transformers does not know; try "
    "pip install --upgrade transformers",
    "unrecognized model": "has a config.json without model_type; " + _SAVE,
    "valid json": "has a configuration file that is not valid JSON; " + _SAVE,
    "repo id must": _ABSENT,
    "not a local folder": "is neither a folder here nor a model on the Hub; check the name (and, for a private model, "
    "log in: hf auth login)",
    "couldn't connect": "is not a folder here, and the Hub could not be reached; check the path, or the connection",
    "no file named model.safetensors": "has no model.safetensors; pickles are not read, as they can run code; " + _SAVE,
    "ignore_mismatched_sizes": "has weights of other sizes than its config.json says; " + _SAVE,
    "load image processor": "has no preprocessor_config.json, which says how to prepare an image; " + _SAVE,
}
_ONE_SIZE = (CelluScanConfig.model_type, ViTConfig.model_type)  # other models may take images of any size
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_DAMAGED = (SafetensorError, StrictDataclassError, JSONDecodeError, UnicodeDecodeError)


def load_classifier(
    name: str | Path,
    trust_remote_code: bool = False,
    *,
    revision: str | None = None,
    views: int | None = None,
    **kwargs: Any,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load an image classification model, ready for inference, and its image processor.

    Args:
        name: A checkpoint folder, or the name of a model on the Hub.
        trust_remote_code: Run code from the checkpoint. The hand-built CelluScan model does not need it.
        revision: Commit, branch or tag on the Hub; give a commit if you trust remote code.
        views: Mirrored copies of an image that a CelluScan model averages over, instead of those in its config.
        **kwargs: Arguments for the model's `from_pretrained`, such as `attn_implementation` or `dtype`.

    Raises:
        CelluScanError: The checkpoint is missing, incomplete, damaged, of another kind, needs remote code that is not
            trusted, or cannot be downloaded; or its processor makes images of a size that the model does not accept.
    """
    _check_name(name)
    hub = {"trust_remote_code": trust_remote_code, "revision": revision}
    with _failures_explained(name):
        model, report = AutoModelForImageClassification.from_pretrained(
            name, use_safetensors=True, output_loading_info=True, **hub, **kwargs
        )
        processor = AutoImageProcessor.from_pretrained(name, **hub)
    if missing := sorted(report["missing_keys"]):
        raise CelluScanError(
            f"{name} is not a trained classifier: it lacks {', '.join(missing[:3])}"
            f"{f' and {len(missing) - 3} more weights' if len(missing) > 3 else ''}; train it, or give another model"
        )
    _check_images(name, model.config, processor)
    if views is not None and views != getattr(model.config, "views", 1):
        _set_views(name, model.config, views)
    return model.eval(), processor


def _set_views(name: str | Path, config: PreTrainedConfig, views: int) -> None:
    if config.model_type != CelluScanConfig.model_type:
        raise CelluScanError(
            f"--views {views}: {name} is a {type(config).__name__[:-6]}, which looks once at an image; leave it out, "
            "or give a CelluScan model"
        )
    config.views = views


def _check_images(name: str | Path, config: PreTrainedConfig, processor: BaseImageProcessor) -> None:
    """Raise a `CelluScanError` if processor and model disagree on the shape of images."""
    if config.model_type not in _ONE_SIZE:
        return
    size = getattr(config, "picture_size", config.image_size)
    sides = size if isinstance(size, list | tuple) else [size] * 2
    expected = (config.num_channels, *sides)
    blank = Image.new("RGB", tuple(reversed(sides)))
    prepared = tuple(processor(blank, return_tensors="pt").pixel_values.shape[1:])
    if prepared != expected:
        raise CelluScanError(
            f"{name} has a processor that makes images of {_shape(prepared)}, its model expects {_shape(expected)} "
            "(channels x height x width); save the processor of its training with processor.save_pretrained(folder)"
        )


def _shape(sides: tuple[int, ...]) -> str:
    return " x ".join(map(str, sides))


def trained_on(name: str | Path, revision: str | None = None) -> dict[str, Any]:
    """Return what a model's training says of its data: `sources`, `fingerprint`, …; empty if it does not say."""
    record = cached_file(name, SETTINGS, revision=revision, _raise_exceptions_for_missing_entries=False)
    return dict(json.loads(Path(record).read_text("utf-8"))["data"]) if record else {}


def seen_sources(data: Mapping[str, Any], sources: Iterable[str], fingerprint: str | None) -> list[str]:
    """Return the sources whose cells a model may have been trained on, of other data than it was trained on.

    A built dataset is known by its `fingerprint`: if it is that of the training, its test split was held out.
    """
    return [] if data.get("fingerprint") == fingerprint else sorted(set(data.get("sources", ())) & set(sources))


def load_reliability(model: PreTrainedModel) -> Reliability | None:
    """Load the calibration of a model from `load_classifier`; None if it was not calibrated.

    Raises:
        CelluScanError: The calibration cannot be used, or belongs to other weights.
    """
    try:
        return find_reliability(model)
    except ValueError as error:
        raise CelluScanError(f"{error} (celluscan calibrate MODEL --dataset FOLDER)") from error


def _check_name(name: str | Path) -> None:
    """Raise errors that the library would report unclearly, or only after a request to the Hub."""
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CelluScanError(f"{name} is not a checkpoint: it has no config.json; {_SAVE}")
    elif folder.exists():
        raise CelluScanError(f"{name} is a file; expected a checkpoint folder, or the name of a model on the Hub")
    elif not _HUB_NAME.fullmatch(str(name)):  # the library would ask the Hub for it, several times if that is far
        raise CelluScanError(f"{name} {_ABSENT}")


@contextmanager
def _failures_explained(name: str | Path) -> Iterator[None]:
    """Turn the errors of a bad checkpoint into a `CelluScanError`; anything else is a bug and propagates."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, *_DAMAGED) as error:
        message = str(error)
        for words, explanation in _KNOWN_FAILURES.items():
            if words in message.lower():
                raise CelluScanError(f"{name} {explanation}") from error
        if isinstance(error, OSError):
            raise CelluScanError(f"{name} cannot be loaded: {' '.join(message.split())}") from error
        if isinstance(error, _DAMAGED):
            raise CelluScanError(f"{name} is damaged: {' '.join(message.split())}") from error
        raise
