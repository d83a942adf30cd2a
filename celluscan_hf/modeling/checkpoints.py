"""Load weights from torchvision, the Hub, folders and files.

A source is one of: `celluscan:wbc-small`, `torchvision:vit_b_16` (or another ViT of torchvision), `dinobloom:base` or
`dinov2:base` (`downloads`), a Hub repository or local folder with a ViT of transformers, timm or ours, a `.safetensors`
file, or a file written by `torch.save`, whatever its ending. A `preprocessor_config.json` beside a file, or beside
torchvision's `model.safetensors` in a folder, is read too. Weights are read as tensors only; no code in a file is run.
State dicts saved by trainers are unwrapped (`unwrapping`).
"""

import dataclasses
import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from torchvision.models import get_model_weights, list_models
from transformers import Dinov2Config, Dinov2WithRegistersConfig, ViTConfig

from ..bundled_model import NAME, WBC_SMALL
from .configuration_celluscan import CelluScanConfig
from .conversion import (
    POOLING,
    TIMM_ACT_LAYERS,
    Checkpoint,
    Rgb,
    check_weights,
    fields_of_dinov2,
    fields_of_vit,
    from_weights,
    make_config,
    require_square,
)
from .downloads import fetch
from .key_mapping import HALF, IMAGENET_MEAN, IMAGENET_STD, WeightsError
from .modeling_celluscan import CelluScanForImageClassification
from .tensor_files import ENDINGS, read_tensor_file
from .unwrapping import unwrap

logger = logging.getLogger(__name__)

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
OURS = CelluScanConfig.model_type
TRANSFORMERS_KINDS = {  # by model_type
    "vit": (ViTConfig, fields_of_vit),
    "dinov2": (Dinov2Config, fields_of_dinov2),
    "dinov2_with_registers": (Dinov2WithRegistersConfig, fields_of_dinov2),
}
_IMAGENET = {"image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
FOLDER_WEIGHTS = (WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")  # the first that exists is read


def read_checkpoint(
    source: str | Path, *, revision: str | None = None, key: str | None = None, **fields: Any
) -> Checkpoint:
    """Load weights from any source, under our names.

    Args:
        source: `celluscan:wbc-small`, `torchvision:NAME`, `dinobloom:SIZE`, `dinov2:SIZE`, a folder, a file of tensors,
            or a Hub name `owner/name`.
        revision: Commit, branch or tag of a Hub repository.
        key: Which weights to use if a file holds several, such as `"student"` (`unwrapping.unwrap`).
        **fields: Fields of the config that the source does not state, such as `num_attention_heads`, or that should
            differ, such as `hidden_dropout_prob`; `image_size` resizes the position table; also
            `image_mean` and `image_std`, in [0, 1].

    Raises:
        WeightsError: The source does not exist, cannot be downloaded (the message says which file to download, and
            where to put it), is not a ViT, or does not fit.
    """
    text = str(WBC_SMALL) if source == NAME else str(source)
    _require_known(fields)
    if text.startswith("torchvision:"):
        return _from_torchvision(text.removeprefix("torchvision:"), fields)
    if text.startswith(("dinobloom:", "dinov2:")):
        return from_weights(read_tensor_file(fetch(text)), **(_IMAGENET | fields))
    path = Path(text).expanduser()
    options = fields if key is None else fields | {"key": key}
    if text and path.is_dir():
        return _from_folder(path, options)
    if path.is_file():
        return _from_tensors(read_tensor_file(path), path.parent, options)
    if text.count("/") != 1 or path.suffix in ENDINGS:
        raise WeightsError(
            f"{text}: no such file or folder, and not a Hub repository (owner/name), torchvision:NAME, dinobloom:SIZE, "
            f"dinov2:SIZE or {NAME}"
        )
    return _from_folder(_fetch(text, revision), options)


def start_model(
    start: str, id2label: Mapping[int, str], *, revision: str | None = None, **fields: Any
) -> CelluScanForImageClassification:
    """Create the model that a training run starts from: `scratch`, or weights from any source (`read_checkpoint`).

    Args:
        start: `scratch`, or a source of `read_checkpoint`.
        id2label: The classes to train.
        revision: Commit, branch or tag of a Hub repository.
        **fields: Fields of the config, such as `hidden_dropout_prob`; for `scratch` also the sizes.

    Raises:
        WeightsError: See `read_checkpoint` and `Checkpoint.build`.
    """
    if start == "scratch":
        _require_known(fields)
        return CelluScanForImageClassification(make_config({"id2label": dict(id2label)} | fields))
    unused = {"image_mean": HALF, "image_std": HALF}  # a training run uses those of its dataset
    return read_checkpoint(start, revision=revision, **(unused | fields)).build(id2label)


def _require_known(fields: Mapping[str, Any]) -> None:
    allowed = {field.name for field in dataclasses.fields(CelluScanConfig)} | {"image_mean", "image_std"}
    if unknown := sorted(set(fields) - allowed):
        raise WeightsError(f"CelluScanConfig has no field {', '.join(unknown)}; it has {', '.join(sorted(allowed))}")


def _from_torchvision(name: str, fields: Mapping[str, Any]) -> Checkpoint:
    models = [model for model in list_models() if model.startswith("vit_")]
    if name not in models:
        raise WeightsError(f"torchvision:{name}: expected one of {', '.join(models)}")
    published = get_model_weights(name)["DEFAULT"]
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(published.url).name
    try:
        weights = published.get_state_dict(progress=True, check_hash=True, weights_only=True)
    except OSError as error:
        raise WeightsError(
            f"torchvision:{name} cannot be downloaded ({error}): download {published.url} and put it at {file}"
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise WeightsError(f"{file} is damaged; delete it to download it again") from error
    transforms = published.transforms()
    labels = dict(enumerate(published.meta["categories"]))
    published_fields = {"id2label": labels, "image_mean": tuple(transforms.mean), "image_std": tuple(transforms.std)}
    return from_weights(weights, **(published_fields | dict(fields)))


def _fetch(repository: str, revision: str | None) -> Path:
    """Download a Hub repository's config and weights, or return the cached copy."""
    advice = (
        f"download {CONFIG}, {WEIGHTS} and {PROCESSOR} from https://huggingface.co/{repository}, put them into one "
        "folder and give that folder"
    )
    patterns = [CONFIG, PROCESSOR, "model*.safetensors", INDEX]
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except HFValidationError as error:
        raise WeightsError(f"{repository}: no such folder, and not the name of a Hub repository: {error}") from error
    except RepositoryNotFoundError as error:
        raise WeightsError(
            f"{repository}: no such file or folder, and no Hub repository you can read; log in for a private one"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{repository} is not cached and cannot be downloaded ({reason}): {advice}") from error


def _from_tensors(content: Mapping[str, Any], folder: Path, options: dict[str, Any]) -> Checkpoint:
    """Build a checkpoint from bare tensors; mean and std come from a processor in the same folder, if there is one."""
    processor = folder / PROCESSOR
    if not processor.is_file():
        return from_weights(content, **options)
    if not {"image_mean", "image_std"} <= set(options):
        logger.warning("image mean and std are read from %s", processor)
    checkpoint = from_weights(content, **(_read_normalisation(processor) | options))
    return dataclasses.replace(checkpoint, resized=_resized(folder, checkpoint.config.picture_size))


def _from_folder(folder: Path, options: dict[str, Any]) -> Checkpoint:
    if not (folder / CONFIG).is_file() and any((folder / name).is_file() for name in FOLDER_WEIGHTS):
        content = _read_weights(folder)
        mapping = unwrap(content, options.get("key")).mapping
        if mapping is not None and mapping.library == "torchvision":  # it has no config file
            return _from_tensors(content, folder, options)
    checkpoint = _of_any_folder(folder, options)
    return dataclasses.replace(checkpoint, resized=_resized(folder, checkpoint.config.picture_size))


def _resized(folder: Path, side: int) -> int | None:
    """Return the side that the folder's processor resizes images to before a centre crop; None without a crop."""
    path = folder / PROCESSOR
    processor = _read_json(path) if path.is_file() else {}
    size, crop = processor.get("size") or {}, processor.get("crop_size") or {}
    if not processor.get("do_center_crop") or size.get("height") is None:
        return None
    if crop.get("height") != side or crop.get("width") != side or size["height"] != size.get("width"):
        raise WeightsError(f"{path}: expected squares that are cut to {side} pixels, got {size} cut to {crop}")
    return int(size["height"])


def _of_any_folder(folder: Path, options: dict[str, Any]) -> Checkpoint:
    config = _read_json(folder / CONFIG)
    if config.get("model_type") == OURS:
        return _from_ours(folder, config, options)
    if config.get("model_type") in TRANSFORMERS_KINDS:
        described = _of_transformers_folder(folder, config, options)
    elif str(config.get("architecture", "")).startswith(("vit_", "deit_")):
        described = _of_timm_folder(config)
    else:
        model_type, known = config.get("model_type") or config.get("architecture"), [*TRANSFORMERS_KINDS, OURS]
        raise WeightsError(
            f"{folder / CONFIG}: expected a model_type of {', '.join(known)}, or a timm architecture vit_…, got "
            f"{model_type!r}"
        )
    return from_weights(_read_weights(folder), **(described | options))


def _from_ours(folder: Path, config: Mapping[str, Any], options: dict[str, Any]) -> Checkpoint:
    fields = _normalisation(folder, IMAGENET_MEAN, IMAGENET_STD, options)
    mean, std, key = fields.pop("image_mean"), fields.pop("image_std"), fields.pop("key", None)
    unwrapped = unwrap(_read_weights(folder), key)
    if unwrapped.mapping is not None:
        library = unwrapped.mapping.library
        raise WeightsError(f"{folder}: {CONFIG} belongs to a CelluScan model, the tensors to a model of {library}")
    if unwrapped.note:
        logger.warning("weights: %s", unwrapped.note)
    weights = unwrapped.weights
    if not any(name.startswith("vit.") for name in weights):  # saved without a head
        weights = {f"vit.{name}": tensor for name, tensor in weights.items()}
    complete = make_config(dict(config) | fields)
    check_weights({name: [(name, tensor)] for name, tensor in weights.items()}, complete)
    return Checkpoint(weights, complete, mean, std)


def _of_transformers_folder(folder: Path, config: Mapping[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    has_head = any(name.endswith("ForImageClassification") for name in config.get("architectures") or [])
    config_class, describe = TRANSFORMERS_KINDS[config["model_type"]]
    try:
        described = config_class.from_dict(dict(config))
    except (StrictDataclassError, TypeError, ValueError) as error:
        raise WeightsError(f"{folder / CONFIG}: {str(error).splitlines()[-1].strip()}") from error
    usual = (HALF, HALF) if config_class is ViTConfig else (IMAGENET_MEAN, IMAGENET_STD)
    return _normalisation(folder, *usual, describe(described, has_head) | options)


def _of_timm_folder(config: Mapping[str, Any]) -> dict[str, Any]:
    pretrained, arguments = config.get("pretrained_cfg") or {}, config.get("model_args") or {}
    fields: dict[str, Any] = {}
    if "mean" in pretrained and "std" in pretrained:
        fields |= {"image_mean": tuple(pretrained["mean"]), "image_std": tuple(pretrained["std"])}
    if "num_heads" in arguments:
        fields["num_attention_heads"] = arguments["num_heads"]
    if "act_layer" in arguments:
        fields["hidden_act"] = TIMM_ACT_LAYERS.get(arguments["act_layer"], arguments["act_layer"])
    pooling = config.get("global_pool", "token")
    if pooling not in POOLING or arguments.get("pool_include_prefix"):
        raise WeightsError(f"pooling: expected the class token or the mean of the patch tokens, got {pooling!r}")
    require_square(pretrained.get("input_size", (3, 1, 1))[1:])
    fields["pooling"] = POOLING[pooling]
    names = config.get("label_names") or pretrained.get("label_names")
    if isinstance(names, list) and len(names) == config.get("num_classes"):
        fields["id2label"] = dict(enumerate(names))
    return fields


def _normalisation(folder: Path, usual_mean: Rgb, usual_std: Rgb, options: dict[str, Any]) -> dict[str, Any]:
    """Add mean and std to the options: the processor's, else the usual ones with a warning."""
    path = folder / PROCESSOR
    if {"image_mean", "image_std"} <= set(options):
        return options
    if not path.is_file():
        logger.warning(
            "%s is missing: normalization is a guess, mean %s, std %s; give --normalization (in Python image_mean and "
            "image_std) if these weights need others",
            path,
            usual_mean,
            usual_std,
        )
        return {"image_mean": usual_mean, "image_std": usual_std} | options
    return _read_normalisation(path) | options


def _read_normalisation(path: Path) -> dict[str, Rgb]:
    processor = _read_json(path)
    if processor.get("do_rescale") is False or processor.get("rescale_factor", 1 / 255) != 1 / 255:
        raise WeightsError(f"{path}: expected pixels scaled to [0, 1] (do_rescale, rescale_factor 1/255)")
    if processor.get("do_normalize") is False:
        return {"image_mean": (0.0, 0.0, 0.0), "image_std": (1.0, 1.0, 1.0)}
    normalisation: dict[str, Rgb] = {}
    for name in ("image_mean", "image_std"):
        value = processor.get(name)
        numbers = isinstance(value, list) and all(isinstance(item, int | float) and 0 <= item <= 1 for item in value)
        if not isinstance(value, list) or not numbers or len(value) != 3 or (name == "image_std" and 0 in value):
            raise WeightsError(f"{path}: {name} must be three numbers in [0, 1], got {value!r}")
        normalisation[name] = (value[0], value[1], value[2])
    return normalisation


def _read_weights(folder: Path) -> dict[str, Any]:
    name = next((name for name in FOLDER_WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        files = ", ".join(sorted(path.name for path in folder.iterdir()))
        raise WeightsError(
            f"{folder}: expected one of {', '.join(FOLDER_WEIGHTS)} (a file with another name can be given directly; "
            f"from the Hub no pickle is downloaded), got: {files}"
        )
    if not name.endswith(".json"):
        return read_tensor_file(folder / name)
    weight_map = _read_json(folder / name).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise WeightsError(f"{folder / name}: expected weight_map, the file of each tensor, got {weight_map!r}")
    shards = sorted({Path(shard).name for shard in weight_map.values()})
    return {tensor: value for shard in shards for tensor, value in read_tensor_file(folder / shard).items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path} is missing: expected a checkpoint folder with {CONFIG} and {WEIGHTS}, or a file of bare tensors"
        ) from error
    except ValueError as error:  # neither JSON nor text
        raise WeightsError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
