"""Training throughput: images per second of the data loader and of the Trainer."""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import v2

from celluscan_hf import taxonomy

from ..augmentation.batches import Augmentation
from ..augmentation.view import View
from ..dataset.reading import CellDataset, open_dataset
from ..errors import CelluScanError
from ..modeling.checkpoints import start_model
from ..training import recipes
from ..training.images import CellImages, as_batch
from ..training.memory import keep_freed_memory
from ..training.sampling import CellSampler
from ..training.settings import TrainingSettings
from ..training.trainer import CellTrainer

SIDE = 224
JITTER = 0.1
MATRIX = 8192  # rows of the matrix product that measures the peak rate of the chip


def loader(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure augmented images per second from parquet to normalized tensors on the device, ours and torchvision's.

    All decode the same rows in the same number of workers. Ours augments whole batches in the training process; the
    other augments single PIL images in the workers with v2's flips, quarter rotations and colour jitter, as in its
    documentation. `celluscan` draws the same; `cpu-best` and `cpu-robust` what these recipes do, and `everything` all
    of the latter on every image.
    """
    keep_freed_memory()  # for all
    data = open_dataset(arguments.dataset)
    robust = _augmentation_of("cpu-robust")
    loaders = {
        "celluscan": _our_loader(data, arguments, Augmentation(rotate="dihedral", color_jitter=JITTER)),
        "torchvision": _their_loader(data, arguments),
        "cpu-best": _our_loader(data, arguments, _augmentation_of("cpu-best")),
        "cpu-robust": _our_loader(data, arguments, robust),
        "everything": _our_loader(data, arguments, replace(robust, augmented_share=1.0, background_randomization=1.0)),
    }
    rates: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(arguments.rounds):
        for name, batches in loaders.items():
            rates[name].append(_rate(batches(), arguments.device))
    medians = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    ratios = [ours / theirs for ours, theirs in zip(rates["celluscan"], rates["torchvision"], strict=True)]
    return {
        "data": {"fingerprint": data.fingerprint, "rows": len(data.split("originals", "train"))},
        "device": arguments.device,
        "batch_size": arguments.batch_size,
        "images_per_second": medians,
        "rounds": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "times_as_fast": round(statistics.median(ratios), 2),
    }


def _augmentation_of(recipe: str) -> Augmentation:
    """The augmentation of a recipe, without its shift: whole images have no margin."""
    settings = recipes.load(recipe)[-1]
    given = {item.name: settings[item.name] for item in fields(Augmentation) if item.name in settings}
    return Augmentation(**given | {"shift": 0.0})


def _our_loader(
    data: CellDataset, arguments: argparse.Namespace, augmentation: Augmentation
) -> Callable[[], Iterator[torch.Tensor]]:
    images = CellImages(data.split("originals", "train"), SIDE)
    sampler = CellSampler(images.labels.tolist(), "natural", 0, arguments.batch_size)
    view = View(SIDE, 1.0, *data.channel_statistics)

    def batches() -> Iterator[torch.Tensor]:
        for batch in _loader(images, arguments, sampler=sampler, collate_fn=as_batch):
            yield augmentation(batch["pixels"].to(arguments.device), batch["draws"], view)

    return batches


class _PerImage(Dataset[torch.Tensor]):
    """Single images, decoded by `datasets` and augmented by torchvision's v2 transforms."""

    def __init__(self, data: CellDataset) -> None:
        from datasets import Image

        self.rows = data.split("originals", "train").cast_column("image", Image())
        mean, std = data.channel_statistics
        self.transform = v2.Compose(
            [
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomChoice([v2.Identity(), v2.RandomRotation((90, 90))]),
                v2.ColorJitter(JITTER, JITTER, JITTER),
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(mean, std),
            ]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(self.rows[row]["image"])
        return image


def _their_loader(data: CellDataset, arguments: argparse.Namespace) -> Callable[[], Iterator[torch.Tensor]]:
    images = _PerImage(data)

    def batches() -> Iterator[torch.Tensor]:
        for batch in _loader(images, arguments, shuffle=True, drop_last=True):
            yield batch.to(arguments.device)

    return batches


def _loader(images: Any, arguments: argparse.Namespace, **options: Any) -> "DataLoader[Any]":
    pinned = arguments.device == "cuda"
    return DataLoader(
        images, arguments.batch_size, num_workers=arguments.num_proc, pin_memory=pinned, prefetch_factor=4, **options
    )


def _rate(batches: Iterator[torch.Tensor], device: str) -> float:
    """Measure images per second of one epoch after its first batch, with workers already started."""
    next(batches)
    started, images = time.perf_counter(), 0
    for batch in batches:
        images += len(batch)
    if device == "cuda":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - started)


class _Timed(CellTrainer):
    """Measure the time spent waiting for batches after a warm-up."""

    warm_up = 10
    waited = 0.0
    started = 0.0

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == self.warm_up:
            _synchronize(self.args.device)
            self.started, self.waited = time.perf_counter(), 0.0
        requested = time.perf_counter()
        batches = super().get_batch_samples(*arguments, **options)
        self.waited += time.perf_counter() - requested
        return batches


def training(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure ViT-B/16 in the Trainer: images per second, share of peak rate, time waiting for data, memory."""
    keep_freed_memory()
    data = open_dataset(arguments.dataset)
    folder = Path(tempfile.mkdtemp())
    try:
        return _measured(_timed_trainer(data, folder, arguments), data, arguments)
    finally:
        shutil.rmtree(folder)


def _timed_trainer(data: CellDataset, folder: Path, arguments: argparse.Namespace) -> _Timed:
    settings = TrainingSettings(
        output_dir=str(folder),
        dataset=arguments.dataset,
        max_steps=_Timed.warm_up + arguments.steps,
        per_device_train_batch_size=arguments.batch_size,
        dataloader_num_workers=0 if arguments.cache_images else arguments.num_proc,
        cache_images=arguments.cache_images,
        color_jitter=JITTER,
        bf16=True,
        torch_compile=arguments.compile,
        use_cpu=arguments.device == "cpu",
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        disable_tqdm=True,
    )
    model = start_model("scratch", taxonomy.ID2LABEL, hidden_dropout_prob=0.0)
    view = View(SIDE, 1.0, *data.channel_statistics)
    train = CellImages(data.split("default", "train"), SIDE, settings.cache_images)
    validation = CellImages(data.split("originals", "validation"), SIDE)
    return _Timed(model, settings, train, validation, view, view)


def _measured(trainer: _Timed, data: CellDataset, arguments: argparse.Namespace) -> dict[str, Any]:
    device = trainer.args.device
    rate = matrix_rate(device)
    operations = 3 * forward_operations(trainer.model)  # the backward pass costs twice the forward
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    _synchronize(device)
    seconds = time.perf_counter() - trainer.started
    images = arguments.steps * arguments.batch_size / seconds
    return {
        "data": {"fingerprint": data.fingerprint, "rows": len(trainer.train_dataset)},
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "batch_size": arguments.batch_size,
        "compiled": arguments.compile,
        "cache_images": arguments.cache_images,
        "images_per_second": round(images, 1),
        "operations_per_image": operations,
        "bf16_matrix_operations_per_second": rate,
        "model_flop_utilisation": round(images * operations / rate, 4),
        "share_of_time_waiting_for_data": round(trainer.waited / seconds, 4),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device.type == "cuda" else None,
        "minutes_for_12_epochs_of_58120_images": round(12 * 58120 / images / 60, 2),
    }


def forward_operations(model: torch.nn.Module) -> int:
    """Count the floating-point operations of one image's forward pass; a multiply-add counts as two."""
    device = next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, SIDE, SIDE, device=device))
    return int(counter.get_total_flops())


def matrix_rate(device: torch.device) -> float:
    """Measure operations per second of a large bf16 matrix product: the best of five runs."""
    size = MATRIX if device.type == "cuda" else 2048
    factor = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    rates = []
    for repeats in (2, 20, 20, 20, 20, 20):
        _synchronize(device)
        started = time.perf_counter()
        for _ in range(repeats):
            factor @ factor
        _synchronize(device)
        rates.append(repeats * 2 * size**3 / (time.perf_counter() - started))
    return max(rates)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def check_needs(arguments: argparse.Namespace) -> None:
    """Exit if the GPU is missing."""
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise CelluScanError("--device cuda: torch sees no GPU")
