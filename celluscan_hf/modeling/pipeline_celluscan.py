"""`pipeline("wbc-classification", model=…)`: one cell, and all that its model can say of it.

    classify = pipeline("wbc-classification", model="celluscan/vit-b16-wbc-handbuilt", trust_remote_code=True)
    classify("cell.png", coverage=0.95)
    {"label": "Neutrophil", "score": 0.93, "code": "NEU", "lineage": "granulocytic", "stage": None, "parent": None,
     "abnormal_in_blood": False, "abnormal": 0.01, "set": ["Band Neutrophil", "Segmented Neutrophil"], "abstain": True,
     "reason": "children of Neutrophil compete", "ood_score": 0.2, "top": [{"label": "Band Neutrophil", …}, …],
     "note": None}

Files are read as `celluscan predict` reads them, to the same pixels, and refused for the same reasons. `note` says what
was guessed of a file, as the depth of its samples.

With the package of CelluScan imported, the task is known for native checkpoints too, and needs no trust. This file is
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
from .reliability_celluscan import COVERAGE, FACTS, find, forward

TASK = "wbc-classification"
MAX_FILE_BYTES = 64 * 2**20
_LEAST_BYTES = 40  # of an image file; what is shorter was meant as a path
_CALLED = ("coverage", "by_class", "top_k")
_EXPECTED = "a path, an address, a base64 string, a PIL image, an array or a tensor"


class WhiteBloodCellPipeline(Pipeline):
    """Images to answers: files, addresses, base64 strings, PIL images, arrays, tensors, or lists of them.

    Arrays of 8 or 16 unsigned bits, (H, W) or (H, W, channels), are read as files are; others, and tensors, go to the
    image processor as they are, as in the plain pipeline.

    Options of a call, or of the pipeline:
        coverage: How often the set is to hold the true class, above 0 and below 1 (0.9).
        by_class: Whether it is to do so for each class, not only over all cells (False); sets are then larger.
        top_k: How many classes `top` holds, likeliest first (5).

    Raises:
        ValueError: Nothing on reliability lies beside the weights, an option is out of range, or an image cannot be
            used.
    """

    _load_tokenizer = False
    _load_feature_extractor = False
    _load_processor = False
    _load_image_processor = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = find(self.model)
        if found is None:
            name = self.model.name_or_path or "the model"
            raise ValueError(
                f"{name} has no {FACTS}, so nothing is known of how far to trust it: run celluscan calibrate {name} "
                '--dataset FOLDER on a copy here, or use pipeline("image-classification")'
            )
        self.reliability = found

    def __call__(self, inputs: Any = None, **options: Any) -> Any:
        """The answer for an image, or a list of them for a list. `images` is another name of `inputs`."""
        inputs = options.pop("images", inputs)
        if inputs is None:
            raise ValueError(f"no image was given; expected {_EXPECTED}, or a list of them")
        return super().__call__(inputs, **options)

    def _sanitize_parameters(self, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := sorted(set(given) - {*_CALLED, "timeout"}):
            raise ValueError(f"{TASK} has no option {', '.join(unknown)}; it has {', '.join(_CALLED)} and timeout")
        if not 0 < given.get("coverage", COVERAGE) < 1:
            raise ValueError(f"coverage must be above 0 and below 1, such as 0.9, got {given['coverage']}")
        if given.get("top_k", 1) < 1:
            raise ValueError(f"top_k must be at least 1, got {given['top_k']}")
        told = {name: given[name] for name in _CALLED if name in given}
        return {"timeout": given["timeout"]} if "timeout" in given else {}, {}, told

    def preprocess(self, image: Any, timeout: float | None = None) -> dict[str, Any]:
        note = ""
        if not isinstance(image, torch.Tensor) and (not isinstance(image, np.ndarray) or _is_pixels(image)):
            decoded = _read(image, timeout)
            image, note = decoded.image, decoded.note
        inputs = self.image_processor(images=image, return_tensors="pt").to(self.dtype)
        return {"pixel_values": inputs["pixel_values"], "note": note}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        logits, features = forward(self.model, model_inputs["pixel_values"])  # (B, classes), (B, D + 9)
        return {"probabilities": logits.softmax(dim=-1), "features": features, "note": model_inputs["note"]}

    def postprocess(self, model_outputs: dict[str, Any], **told: Any) -> dict[str, Any]:
        probabilities, features = (model_outputs[name][0].numpy() for name in ("probabilities", "features"))
        answer = self.reliability.answer(probabilities, features, **told)
        return answer | {"note": model_outputs["note"] or None}


def _read(image: Any, timeout: float | None) -> Decoded:
    """The RGB image of what a user gives. Raises a `ValueError` where it cannot be used."""
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
    """Whether an array is grey levels or colours as an image file has them."""
    return image.dtype in (np.uint8, np.uint16) and (
        image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    )


def _content(image: Any, timeout: float | None) -> bytes:
    """The bytes of an image file, by its path or address, or from a base64 string."""
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
        if len(content) < _LEAST_BYTES:
            raise ValueError(f"{image!s:.200} is no file; expected {_EXPECTED}")
    if len(content) > MAX_FILE_BYTES:
        raise BadImage("too_many_bytes", f"over {MAX_FILE_BYTES >> 20} MiB")
    return content


def _from_base64(text: str) -> bytes:
    """The bytes of a base64 string, also of one in a data address; none where it is something else."""
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
