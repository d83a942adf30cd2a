"""Batch prediction; threads read and prepare images ahead of the model."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import BaseImageProcessor, PreTrainedModel

from ..dataset.settings import cores
from ..errors import BadImage, CelluScanError
from ..modeling.decoding_celluscan import Decoded, check_shape
from ..modeling.reliability_celluscan import forward
from ..modeling.stain_celluscan import refusal
from ..processes import ALONE, Processes, processes_on_this_machine

MAX_READERS = 16  # threads; more prepare images faster than any GPU classifies them
ReadImage = Callable[[], Image.Image]  # decodes one upright RGB image; may raise BadImage
Read = Callable[[], Image.Image | Decoded]  # the same, or with a note on what was guessed
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Output:
    """A model's output for one image: `probabilities` and `logits` (classes,), `features` with colours (D + 9,).

    `note` says what was guessed about the file, `refusal` why the image does not show a stained cell, if checked.
    """

    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None
    note: str = ""
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """The `pixel_values` of one image, (C, H, W); `note` and `refusal` as in `Output`."""

    pixel_values: torch.Tensor
    note: str
    refusal: str | None


def probabilities(
    images: Iterable[ReadImage], model: PreTrainedModel, processor: BaseImageProcessor, *, batch_size: int = 64
) -> Generator[NDArray[np.float32] | BadImage, None, None]:
    """Yield only the probabilities of `outputs`, (classes,) for each image; see there for arguments and errors."""
    with closing(outputs(images, model, processor, batch_size=batch_size)) as results:
        for result in results:
            yield result if isinstance(result, BadImage) else result.probabilities


def outputs(
    images: Iterable[Read],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    batch_size: int = 64,
    with_features: bool = False,
    check_stain: bool = False,
    readers: int | None = None,
) -> Generator[Output | BadImage, None, None]:
    """Yield one result per image, in order: the model's output, or why the image cannot be used.

    Probabilities are those of `pipeline("image-classification")`. About two batches of `pixel_values` are in memory at
    a time.

    Args:
        images: Iterated once, in this thread; images are decoded in other threads.
        model: Runs on its current device, in its current dtype.
        processor: The image processor of its checkpoint.
        batch_size: Maximum number of images in one forward pass.
        with_features: Keep the classifier's features, and colours; for models that end in one linear layer.
        check_stain: Check whether each image shows a stained cell.
        readers: Threads that prepare images; None for one per core, 0 to prepare them in this thread.

    Raises:
        CelluScanError: The model predicts a quantity instead of classes or gives non-finite scores, or a batch does
            not fit into its device's memory. Any other error of an image is a bug and propagates.
    """
    with _readers(model.device, _default_readers() if readers is None else readers) as pool:
        one = partial(prepare, processor, check_stain)
        prepared = _ahead(pool, one, images, batch_size) if pool else map(one, images)
        while batch := list(islice(prepared, batch_size)):
            good = [item.pixel_values for item in batch if isinstance(item, Prepared)]
            done = iter(_outputs(model, torch.stack(good), with_features) if good else ())
            for item in batch:
                yield item if isinstance(item, BadImage) else replace(next(done), note=item.note, refusal=item.refusal)


def best_device() -> torch.device:
    """Return the fastest device of this machine: a GPU (CUDA, or Apple's MPS), else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_for(name: str | None, processes: Processes = ALONE) -> torch.device:
    """Return the named device, by default the fastest; each process of a launcher has its own GPU, if there are enough.

    Raises:
        RuntimeError: Torch has no device of this name.
    """
    device = torch.device(name) if name else best_device()
    if processes.size == 1 or device.type == "cpu" or device.index is not None:
        return device
    from accelerate.utils import parse_flag_from_env

    if not name and parse_flag_from_env("ACCELERATE_USE_CPU"):  # accelerate launch --cpu
        return torch.device("cpu")
    return torch.device(device.type, processes.local_rank % max(1, torch.accelerator.device_count()))


def computes_bfloat16(device: torch.device) -> bool:
    """Whether a device supports bfloat16 natively: half the time, and probabilities up to 0.03 off."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _default_readers() -> int:
    return max(1, min(cores() // processes_on_this_machine(), MAX_READERS))


@contextmanager
def _readers(device: torch.device, count: int) -> Iterator[ThreadPoolExecutor | None]:
    """Start `count` threads that prepare images for a model on `device`; None without any.

    With a GPU each thread is limited to one core, as nested threads would compete for the cores. If the model runs on
    the CPU, readers are not limited: with few threads in all, OpenMP waits by spinning, and the model's wait then takes
    the readers' cores (measured on two cores: half the images per second).
    """
    if count == 0:
        yield None
        return
    threads = torch.get_num_threads()
    one_core_each = device.type != "cpu"
    pool = ThreadPoolExecutor(count, initializer=partial(torch.set_num_threads, 1) if one_core_each else None)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if one_core_each:
            torch.set_num_threads(threads)  # threads started later would inherit the readers' limit


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """`map` in threads, in order, working up to `count` items ahead."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def prepare(processor: BaseImageProcessor, check_stain: bool, read: Read) -> Prepared | BadImage:
    """Decode an image and prepare it for the model, or say why it cannot be used."""
    try:
        result = read()
        image, note = (result.image, result.note) if isinstance(result, Decoded) else (result, "")
        check_shape(image)
    except BadImage as error:
        return BadImage(error.reason, error.detail)  # a new one: the traceback would keep the file in memory
    pixel_values: torch.Tensor = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    return Prepared(pixel_values, note, refusal(image) if check_stain else None)


@torch.inference_mode()
def _outputs(model: PreTrainedModel, pixel_values: torch.Tensor, with_features: bool) -> list[Output]:
    """Run the model in evaluation mode: (B, C, H, W) -> one output per image."""
    was_training = model.training
    model.eval()
    try:
        placed = pixel_values.to(model.device, model.dtype)
        if with_features:
            logits, features = forward(model, placed)  # (B, classes), (B, D + 9)
        else:
            logits, features = model(pixel_values=placed).logits.float(), None
        scores: NDArray[np.float32] = _scores(logits, model.config).cpu().numpy()
    except torch.OutOfMemoryError as error:
        raise CelluScanError(
            f"{len(pixel_values)} images at once do not fit into the memory of {model.device}; lower --batch-size "
            "(in Python: batch_size)"
        ) from error
    finally:
        model.train(was_training)
    if not np.isfinite(scores).all():
        raise CelluScanError(
            f"the model gives non-finite scores; its weights are damaged, or {model.dtype} has too little range"
        )
    rows = [None] * len(scores) if features is None else features.cpu().numpy()
    return [Output(*row) for row in zip(scores, logits.cpu().numpy(), rows, strict=True)]


def _scores(logits: torch.Tensor, config: object) -> torch.Tensor:
    """Convert logits (B, classes) to scores as `pipeline("image-classification")` does: softmax, or sigmoids."""
    problem = getattr(config, "problem_type", None)
    if problem == "regression":
        raise CelluScanError("the model predicts a quantity (regression); expected one that predicts classes")
    if problem == "multi_label_classification" or logits.shape[-1] == 1:
        return logits.sigmoid()
    return logits.softmax(dim=-1)
