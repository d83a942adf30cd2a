"""What the page asks: pictures in, answers out, several at once in one forward pass; a bad file is told, not raised."""

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
from ..inference.explain import LEAST_TOP, TINT, displayed, smooth
from ..inference.loading import load_classifier, load_reliability
from ..inference.prediction import best_device
from ..modeling.reliability_celluscan import colours, watched
from . import stain
from .answer import Answer, answer

MAX_BYTES = 10_000_000  # of a file
MAX_SIDE = 4096  # pixels; a picture of one cell has a few hundred
AT_ONCE = 16  # pictures in one forward pass
_SHOWN = 320  # pixels: the side of the picture with the overlay


@dataclass(frozen=True)
class Seen:
    """What came of one file.

    - `answer`: None where `problem` says why the file cannot be used.
    - `doubt`: why the picture does not look like a stained cell; the answer is then not shown as one.
    - `cell`: what the model saw; `overlay`, where it was asked for, has the attention over it.
    - `note`: what was guessed of the file.
    - `seconds`: from file to answer, of the whole batch.
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
    """A model, loaded once.

    Args:
        model: A checkpoint folder, or the name of a model on the Hub, with the 14 classes of CelluScan.
        revision: Of the Hub.

    Raises:
        CelluScanError: It cannot be loaded, or its classes are not ours.
    """

    def __init__(self, model: str, revision: str | None = None) -> None:
        self.model, self.processor = load_classifier(model, revision=revision)
        labels = self.model.config.id2label
        if labels != taxonomy.ID2LABEL:
            raise CelluScanError(
                f"{model} has the classes {', '.join(map(str, labels.values()))}: expected the "
                f"{len(taxonomy.NAMES)} of CelluScan in their order; train it with scripts/train.py"
            )
        self.known = load_reliability(self.model)
        device = best_device()
        self.model.to(device).eval()
        self._bfloat16 = computes_bfloat16(device)
        self._one_at_a_time = Lock()  # the kernel of the attention is a state of the model

    def recognise(self, files: Sequence[str | Path], overlay: bool = False) -> list[Seen]:
        """An answer for each file, in order; what cannot be read takes no other's place.

        An overlay needs the attention itself, which the fused kernels do not keep: it costs a tenth of the time.
        """
        began = time.perf_counter()
        opened = {position: (Path(file).name, _open(Path(file))) for position, file in enumerate(files)}
        decoded = {position: found for position, (_, found) in opened.items() if isinstance(found, Decoded)}
        answered = self._seen([found.image for found in decoded.values()], overlay)
        seen = dict(zip(decoded, answered, strict=True))
        seconds = time.perf_counter() - began
        return [
            replace(seen[position], name=name, note=found.note, seconds=seconds)
            if isinstance(found, Decoded)
            else Seen(name, problem=found)
            for position, (name, found) in opened.items()
        ]

    def _seen(self, images: list[Image.Image], overlay: bool) -> list[Seen]:
        if not images:
            return []
        pixel_values = torch.cat(
            [self.processor(images=image, return_tensors="pt")["pixel_values"] for image in images]
        )
        logits, features, maps = self._run(pixel_values, overlay)
        cells = functional.resize(pixel_values, [_SHOWN, _SHOWN], antialias=True)
        rows = logits.softmax(dim=-1).tolist()
        answers = [answer(row, self.known, read) for row, read in zip(rows, features, strict=True)]
        return [
            Seen("", said, stain.doubt(image), None, *self._pictures(cell, attention))
            for image, said, cell, attention in zip(images, answers, cells, maps, strict=True)
        ]

    def _run(
        self, pixel_values: torch.Tensor, overlay: bool
    ) -> tuple[torch.Tensor, NDArray[np.float32], Iterable[torch.Tensor | None]]:
        """Logits (B, 14), features as `forward` gives them, and for each picture its attention rollout, or None.

        A rollout, (rows, columns), is 1 where attention is even.
        """
        device = self.model.device
        precision = torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16)
        with self._one_at_a_time, torch.inference_mode(), precision, watched(self.model) as read:
            self.model.set_attn_implementation("eager" if overlay else "sdpa")
            record = record_attention(self.model, pixel_values) if overlay else None
            logits = record.logits if record else self.model(pixel_values.to(device)).logits
            maps = record.rollout() * record.grid[0] * record.grid[1] if record else [None] * len(logits)
        features = torch.cat((read[0].float().cpu(), colours(pixel_values)), dim=1)
        return logits.float().cpu(), features.numpy(), maps

    def _pictures(self, cell: torch.Tensor, attention: torch.Tensor | None) -> tuple[Image.Image, Image.Image | None]:
        """What the model saw of a picture, and with its attention the same under warm colours."""
        shown = displayed(cell, self.processor)
        if attention is None:
            return _picture(shown), None
        strength = smooth(attention, (_SHOWN, _SHOWN)) / max(float(attention.max()), LEAST_TOP)
        tint = TINT[(strength.clip(0, 1) * (len(TINT) - 1)).astype(int)]
        colour, opacity = tint[..., :3], tint[..., 3:]
        return _picture(shown), _picture(shown * (1 - opacity) + colour * opacity)


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 by itself: half the time, and probabilities up to 0.03 off."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _picture(shares: np.ndarray) -> Image.Image:
    return Image.fromarray((shares * 255).round().astype(np.uint8))


def _open(file: Path) -> Decoded | str:
    """A decoded image, or in words why it cannot be used."""
    size = file.stat().st_size
    if size > MAX_BYTES:
        return f"the file has {size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read"
    try:
        decoded = decode(file.read_bytes())
    except BadImage as error:
        return f"it is no picture that can be used: {BadImage(error.reason.replace('_', ' '), error.detail)}"
    image = decoded.image
    if max(image.size) > MAX_SIDE:
        return f"the picture has {image.width} x {image.height} pixels; cut the cell out, at most {MAX_SIDE} a side"
    return decoded
