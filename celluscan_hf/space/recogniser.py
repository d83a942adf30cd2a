"""Answers for the page: several images in one forward pass; a bad file becomes a result, not an exception."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import functional

from .. import taxonomy
from ..curation.decoding import Decoded, decode
from ..errors import BadImage, CelluScanError
from ..inference.attention import record_attention
from ..inference.explain import MIN_SCALE, TINT, displayed, smooth
from ..inference.loading import load_classifier, load_reliability
from ..inference.prediction import best_device, computes_bfloat16
from ..modeling.reliability_celluscan import capture_features, colours
from ..modeling.stain_celluscan import refusal
from .answer import Answer, answer

MAX_BYTES = 10_000_000  # size of a file
MAX_SIDE = 4096  # pixels; an image of one cell has a few hundred
BATCH_SIZE = 16  # images in one forward pass
_DISPLAY_SIDE = 320  # pixels: the side of the image with the overlay


@dataclass(frozen=True)
class Result:
    """The result for one file.

    - `answer`: None if `problem` says why the file cannot be used.
    - `doubt`: why the image does not look like a stained cell; the answer is not shown then.
    - `cell`: the model's input; `overlay`, if requested, shows the attention over it.
    - `note`: what was guessed about the file.
    - `seconds`: time from files to answers, for the batch.
    """

    name: str
    answer: Answer | None = None
    doubt: str | None = None
    problem: str | None = None
    cell: Image.Image | None = None
    overlay: Image.Image | None = None
    note: str = ""
    seconds: float = 0.0


class Recogniser:
    """A model that answers for image files.

    Args:
        model: A checkpoint folder, or the name of a model on the Hub, with the 14 classes of CelluScan, or adapted to
            classes of one's own.
        revision: Revision on the Hub.
        views: Mirrored copies of an image that are averaged over; None for those of the model.

    Raises:
        CelluScanError: The model cannot be loaded, or its classes are not ours.
    """

    def __init__(self, model: str, revision: str | None = None, views: int | None = None) -> None:
        self.model, self.processor = load_classifier(model, revision=revision, views=views)
        labels = self.model.config.id2label
        self.reliability = load_reliability(self.model)
        known = taxonomy.NAMES if self.reliability is None else tuple(cell.name for cell in self.reliability.classes)
        if labels != dict(enumerate(known)):
            raise CelluScanError(
                f"{model} has the classes {', '.join(map(str, labels.values()))}: expected the "
                f"{len(taxonomy.NAMES)} of CelluScan in their order; train it with celluscan train, or make it with "
                "celluscan adapt --classes own"
            )
        device = best_device()
        self.model.to(device).eval()
        self._bfloat16 = computes_bfloat16(device)
        self._one_at_a_time = Lock()  # the attention kernel is a state of the model

    def recognise(self, files: Sequence[str | Path], overlay: bool = False) -> list[Result]:
        """Answer for each file, in order, also for files that cannot be read.

        An overlay needs the attention weights, which fused kernels do not return: it takes about 10 % more time.
        """
        started = time.perf_counter()
        opened = {position: (Path(file).name, _open(Path(file))) for position, file in enumerate(files)}
        decoded = {position: image for position, (_, image) in opened.items() if isinstance(image, Decoded)}
        answered = self._results([image.image for image in decoded.values()], overlay)
        results = dict(zip(decoded, answered, strict=True))
        seconds = time.perf_counter() - started
        return [
            replace(results[position], name=name, note=image.note, seconds=seconds)
            if isinstance(image, Decoded)
            else Result(name, problem=image)
            for position, (name, image) in opened.items()
        ]

    def _results(self, images: list[Image.Image], overlay: bool) -> list[Result]:
        if not images:
            return []
        pixel_values = torch.cat(
            [self.processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
        )
        logits, features, maps = self._run(pixel_values, overlay)
        cells = functional.resize(pixel_values, [_DISPLAY_SIDE, _DISPLAY_SIDE], antialias=True)
        rows = logits.softmax(dim=-1).tolist()
        answers = [answer(row, self.reliability, values) for row, values in zip(rows, features, strict=True)]
        return [
            Result("", cell_answer, refusal(image), None, *self._images(cell, attention))
            for image, cell_answer, cell, attention in zip(images, answers, cells, maps, strict=True)
        ]

    def _run(
        self, pixel_values: torch.Tensor, overlay: bool
    ) -> tuple[torch.Tensor, NDArray[np.float32], Iterable[torch.Tensor | None]]:
        """Return logits (B, classes), features as in `forward`, and each image's attention rollout, or None.

        A rollout, (rows, columns), is scaled so that even attention is 1.
        """
        device = self.model.device
        precision = torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16)
        with self._one_at_a_time, torch.inference_mode(), precision, capture_features(self.model) as captured:
            self.model.set_attn_implementation("eager" if overlay else "sdpa")
            record = record_attention(self.model, pixel_values) if overlay else None
            logits = record.logits if record else self.model(pixel_values.to(device)).logits
            maps = record.rollout() * record.grid[0] * record.grid[1] if record else [None] * len(logits)
        features = torch.cat((captured[0].float().cpu(), colours(pixel_values)), dim=1)
        return logits.float().cpu(), features.numpy(), maps

    def _images(self, cell: torch.Tensor, attention: torch.Tensor | None) -> tuple[Image.Image, Image.Image | None]:
        """Return the model's input as an image, and the same with attention in warm colours, if given."""
        pixels = displayed(cell, self.processor)
        if attention is None:
            return _to_image(pixels), None
        strength = smooth(attention, (_DISPLAY_SIDE, _DISPLAY_SIDE)) / max(float(attention.max()), MIN_SCALE)
        tint = TINT[(strength.clip(0, 1) * (len(TINT) - 1)).astype(int)]
        colour, opacity = tint[..., :3], tint[..., 3:]
        return _to_image(pixels), _to_image(pixels * (1 - opacity) + colour * opacity)


def _to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray((pixels * 255).round().astype(np.uint8))


def _open(file: Path) -> Decoded | str:
    """Decode an image, or return a sentence on why it cannot be used."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        return f"the file has {size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read"
    try:
        decoded = decode(file.read_bytes())
    except BadImage as error:
        return f"it is not a usable image: {BadImage(error.reason.replace('_', ' '), error.detail)}"
    image = decoded.image
    if max(image.size) > MAX_SIDE:
        return f"the image has {image.width} x {image.height} pixels; crop it to the cell, at most {MAX_SIDE} a side"
    return decoded
