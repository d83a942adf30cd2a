"""Batch prediction, the one place of it: images are read and prepared in threads, ahead of the model."""

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

MAX_READERS = 16  # threads; more prepare images faster than any GPU classifies them
ReadImage = Callable[[], Image.Image]  # decodes one upright RGB image; may raise BadImage
Read = Callable[[], Image.Image | Decoded]  # the same, maybe with what was guessed
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Output:
    """Of one image: `probabilities` and `logits` (classes,), and `features` (D + 9,), what was read of it.

    `note` says what was guessed of its file.
    """

    probabilities: NDArray[np.float32]
    logits: NDArray[np.float32]
    features: NDArray[np.float32] | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The `pixel_values` of one image, (C, H, W), and what was guessed of its file."""

    pixel_values: torch.Tensor
    note: str


def probabilities(
    images: Iterable[ReadImage], model: PreTrainedModel, processor: BaseImageProcessor, *, batch_size: int = 64
) -> Generator[NDArray[np.float32] | BadImage, None, None]:
    """The probabilities of `outputs`, which has the arguments and errors: (classes,) for each image."""
    with closing(outputs(images, model, processor, batch_size=batch_size)) as found:
        for item in found:
            yield item if isinstance(item, BadImage) else item.probabilities


def outputs(
    images: Iterable[Read],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    batch_size: int = 64,
    with_features: bool = False,
) -> Generator[Output | BadImage, None, None]:
    """One result per image, in order: what the model gives for it, or why the image cannot be used.

    Probabilities are those of `pipeline("image-classification")`. About two batches are in memory at a time, as
    `pixel_values`.

    Args:
        images: Read once, in this thread; each image is then decoded in another.
        model: Runs where and as precisely as it was placed (`model.to(device, dtype)`).
        processor: The image processor of its checkpoint.
        batch_size: Images in one forward pass, at most.
        with_features: Keep what the classifier reads, and colours; for models that end in one linear map.

    Raises:
        CelluScanError: The model predicts a quantity, not classes, gives no finite numbers, or a batch does not fit
            into its device's memory. What else an image raises is a bug and passes.
    """
    with _readers(model.device) as pool:
        prepared = _ahead(pool, partial(_prepare, processor), images, batch_size)
        while batch := list(islice(prepared, batch_size)):
            good = [item.pixel_values for item in batch if isinstance(item, _Prepared)]
            done = iter(_outputs(model, torch.stack(good), with_features) if good else ())
            for item in batch:
                yield item if isinstance(item, BadImage) else replace(next(done), note=item.note)


def best_device() -> torch.device:
    """Where a model runs fastest on this machine: a GPU (CUDA, or Apple's MPS), else the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


@contextmanager
def _readers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """Threads that prepare images for a model on `device`.

    Beside a GPU each keeps to one core, or teams of threads in every reader would fight over the cores. Beside a model
    on the CPU they are left alone: with few threads in all, OpenMP waits by spinning, and the model's wait then takes
    the readers' cores (measured on two: half the images per second).
    """
    count, threads = min(cores(), MAX_READERS), torch.get_num_threads()
    alone = device.type != "cpu"
    pool = ThreadPoolExecutor(count, initializer=partial(torch.set_num_threads, 1) if alone else None)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        if alone:
            torch.set_num_threads(threads)  # the readers' 1 would be that of every thread started later


def _ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], count: int
) -> Iterator[Result]:
    """`map` in threads, in order, with `count` items under way or done before they are asked for."""
    waiting: deque[Future[Result]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _prepare(processor: BaseImageProcessor, read: Read) -> _Prepared | BadImage:
    try:
        found = read()
        image, note = (found.image, found.note) if isinstance(found, Decoded) else (found, "")
        check_shape(image)
    except BadImage as error:
        return BadImage(error.reason, error.detail)  # anew: the traceback would keep the file's bytes in memory
    pixel_values: torch.Tensor = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    return _Prepared(pixel_values, note)


@torch.inference_mode()
def _outputs(model: PreTrainedModel, pixel_values: torch.Tensor, with_features: bool) -> list[Output]:
    """(B, C, H, W) to the output of each image, in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        placed = pixel_values.to(model.device, model.dtype)
        if with_features:
            logits, features = forward(model, placed)  # (B, classes), (B, D + 9)
        else:
            logits, features = model(pixel_values=placed).logits.float(), None
        scores: NDArray[np.float32] = _normalised(logits, model.config).cpu().numpy()
    except torch.OutOfMemoryError as error:
        raise CelluScanError(
            f"{len(pixel_values)} images at once do not fit into the memory of {model.device}; lower --batch-size "
            "(in Python: batch_size)"
        ) from error
    finally:
        model.train(was_training)
    if not np.isfinite(scores).all():
        raise CelluScanError(
            f"the model gives scores that are no numbers; its weights are damaged, or {model.dtype} is too narrow"
        )
    read = [None] * len(scores) if features is None else features.cpu().numpy()
    return [Output(*one) for one in zip(scores, logits.cpu().numpy(), read, strict=True)]


def _normalised(logits: torch.Tensor, config: object) -> torch.Tensor:
    """Logits (B, classes) to scores, as `pipeline("image-classification")` chooses: softmax, or a sigmoid for each."""
    problem = getattr(config, "problem_type", None)
    if problem == "regression":
        raise CelluScanError("the model predicts a quantity (regression); expected one that predicts classes")
    if problem == "multi_label_classification" or logits.shape[-1] == 1:
        return logits.sigmoid()
    return logits.softmax(dim=-1)
