"""`pipeline("wbc-classification", model=…)`: class, prediction set, abstention and OOD score of a single cell.

    classify = pipeline("wbc-classification", model="celluscan/vit-b16-wbc-handbuilt", trust_remote_code=True)
    classify("cell.png", coverage=0.95)
    {"label": "Neutrophil", "score": 0.93, "code": "NEU", "lineage": "granulocytic", "stage": None, "parent": None,
     "abnormal_in_blood": False, "abnormal": 0.01, "set": ["Band Neutrophil", "Segmented Neutrophil"], "abstain": True,
     "reason": "children of Neutrophil compete", "hint": None, "ood_score": 0.2,
     "top": [{"label": "Band Neutrophil", …}, …], "note": None}

Files are decoded as in `celluscan predict`: the same pixels, the same errors. `note` says what was guessed about a
file, such as the bit depth of its samples. An image that shows no stained cell gets the reason "not a stained cell" to
abstain, and `hint` says why; a cell unlike those of the training laboratories gets a hint only.

Once `celluscan_hf` is imported, the task also works for native checkpoints, without `trust_remote_code`. This file is
shipped with every hand-built checkpoint as remote code, so it stands alone: it imports nothing of this package but the
files beside it.
"""

import base64
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from PIL import Image
from transformers.pipelines.base import Pipeline

from .decoding_celluscan import Decoded, check_shape, decode, decode_array, decode_opened
from .errors_celluscan import BadImage
from .reliability_celluscan import COVERAGE, FACTS, find_reliability, forward
from .stain_celluscan import refusal

TASK = "wbc-classification"
MAX_FILE_BYTES = 64 * 2**20
_MIN_FILE_BYTES = 40  # a shorter base64 string was meant as a path
_OPTIONS = ("coverage", "by_class", "top_k")
_EXPECTED = "a path, an address, a base64 string, a PIL image, an array or a tensor"


class WhiteBloodCellPipeline(Pipeline):
    """Classify images: files, addresses, base64 strings, PIL images, arrays, tensors, or lists of them.

    Arrays of uint8 or uint16, (H, W) or (H, W, channels), are read like files; other arrays, and tensors, go straight
    to the image processor, as in the plain pipeline; whether they show a stained cell is not checked.

    Options, for one call or for the pipeline:
        coverage: Share of prediction sets that hold the true class, above 0 and below 1 (default: 0.9).
        by_class: Reach the coverage for each class, not only over all cells (default: False); sets are larger then.
        top_k: Number of classes in `top`, likeliest first (default: 5).

    Raises:
        ValueError: The model was not calibrated, an option is out of range, or an image cannot be used.
    """

    _load_tokenizer = False
    _load_feature_extractor = False
    _load_processor = False
    _load_image_processor = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        reliability = find_reliability(self.model)
        if reliability is None:
            name = self.model.name_or_path or "the model"
            raise ValueError(
                f"{name} has no {FACTS}, as it was not calibrated: run celluscan calibrate {name} --dataset FOLDER on "
                'a local copy, or use pipeline("image-classification")'
            )
        self.reliability = reliability

    def __call__(self, inputs: Any = None, **options: Any) -> Any:
        """Classify an image, or a list of them. `images` is another name of `inputs`."""
        inputs = options.pop("images", inputs)
        if inputs is None:
            raise ValueError(f"no image was given; expected {_EXPECTED}, or a list of them")
        return super().__call__(inputs, **options)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := sorted(set(given) - {*_OPTIONS, "timeout"}):
            raise ValueError(f"{TASK} has no option {', '.join(unknown)}; it has {', '.join(_OPTIONS)} and timeout")
        if not 0 < given.get("coverage", COVERAGE) < 1:
            raise ValueError(f"coverage must be above 0 and below 1, such as 0.9, got {given['coverage']}")
        if given.get("top_k", 1) < 1:
            raise ValueError(f"top_k must be at least 1, got {given['top_k']}")
        options = {name: given[name] for name in _OPTIONS if name in given}
        return {"timeout": given["timeout"]} if "timeout" in given else {}, {}, options

    def preprocess(self, image: Any, timeout: float | None = None) -> dict[str, Any]:
        note, refused = "", None
        if not isinstance(image, torch.Tensor) and (not isinstance(image, np.ndarray) or _is_pixels(image)):
            decoded = _read(image, timeout)
            image, note, refused = decoded.image, decoded.note, refusal(decoded.image)
        inputs = self.image_processor(images=image, return_tensors="pt").to(self.dtype)
        return {"pixel_values": inputs["pixel_values"], "note": note, "refusal": refused or ""}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        logits, features = forward(self.model, model_inputs["pixel_values"])  # (B, classes), (B, D + 9)
        kept = {name: model_inputs[name] for name in ("note", "refusal")}
        return {"probabilities": logits.softmax(dim=-1), "features": features, **kept}

    def postprocess(self, model_outputs: dict[str, Any], **options: Any) -> dict[str, Any]:
        probabilities, features = (model_outputs[name][0].numpy() for name in ("probabilities", "features"))
        answer = self.reliability.answer(probabilities, features, refusal=model_outputs["refusal"], **options)
        return answer | {"note": model_outputs["note"] or None}


def _read(image: Any, timeout: float | None) -> Decoded:
    """Decode what a user gave to RGB. Raises a `ValueError` if it cannot be used."""
    try:
        if isinstance(image, np.ndarray):
            decoded = decode_array(image)
        else:
            decoded = decode_opened(image) if isinstance(image, Image.Image) else decode(_content(image, timeout))
        check_shape(decoded.image)
    except BadImage as error:
        name = f"{image!s:.200}" if isinstance(image, (str, Path)) else "the image"
        raise ValueError(f"{name} cannot be used: {error}") from error
    return decoded


def _is_pixels(image: np.ndarray[Any, Any]) -> bool:
    """Whether an array has the type and shape of an image file's pixels."""
    return image.dtype in (np.uint8, np.uint16) and (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    )


def _content(image: Any, timeout: float | None) -> bytes:
    """Return the bytes of an image file, from a path, an address or a base64 string."""
    if not isinstance(image, (str, Path)):
        raise TypeError(f"got {type(image).__name__}, expected {_EXPECTED}")
    if str(image).startswith(("http://", "https://")):
        try:
            content = httpx.get(str(image), timeout=timeout, follow_redirects=True).raise_for_status().content
        except httpx.HTTPError as error:
            raise ValueError(f"{image} cannot be fetched: {error}") from error
    elif _is_file(image):
        content = Path(image).read_bytes()
    else:
        content = _from_base64(str(image))
        if len(content) < _MIN_FILE_BYTES:
            raise ValueError(f"{image!s:.200} is not a file; expected {_EXPECTED}")
    if len(content) > MAX_FILE_BYTES:
        raise BadImage("too_many_bytes", f"over {MAX_FILE_BYTES >> 20} MiB")
    return content


def _from_base64(text: str) -> bytes:
    """Decode a base64 string or data URL; empty if the text is neither."""
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except ValueError:
        return b""


def _is_file(image: str | Path) -> bool:
    try:
        return Path(image).is_file()
    except (OSError, ValueError):  # a base64 string is too long for a path
        return False
