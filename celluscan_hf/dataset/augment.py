"""Augment train originals with TrivialAugmentWide (Müller and Hutter, ICCV 2021; torchvision v2).

Every variant has its own seed. A draw that leaves the pixels unchanged or repeats a sibling is rejected and drawn
again; after some rejections one more transform is stacked on top, since a single transform has only a few hundred
results and a class with one original needs thousands.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torchvision.transforms import v2

from ..curation.fingerprints import background_colour, perceptual_hashes
from ..curation.splits import seeded_order
from ..curation.squares import content_box
from ..errors import CelluScanError
from .schema import SCHEMA
from .shards import ROW_GROUP, ShardTask, encode, stored, write_groups

_DRAWS_PER_DEPTH = 8
_MAX_DEPTH = 4


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread: images are small, and the worker processes share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_augmented(task: ShardTask) -> int:
    """Write one shard of augmented images and return its number of rows."""
    square = task.squares()
    with one_thread():
        rows = [row for parent in task.plan().to_pylist() for row in variants(parent, square(parent), task.seed)]
    rows = [rows[position] for position in seeded_order([row["image_id"] for row in rows], task.seed)]
    groups = (rows[start : start + ROW_GROUP] for start in range(0, len(rows), ROW_GROUP))
    write_groups((_table(group) for group in groups), task.path)
    return len(rows)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row[name] for row in rows] for name in SCHEMA.names}, schema=SCHEMA)


def variants(parent: dict[str, Any], image: Image.Image, seed: int) -> Iterator[dict[str, Any]]:
    """Yield `parent["variants"]` augmented rows of one parent, all different from it and from each other."""
    taken = {encode(image)}  # equal JPEG files count as equal images
    augment = RecordingTrivialAugment(background_colour(np.asarray(image)).tolist())
    content = content_box(parent["width"], parent["height"], image.width)
    for number in range(parent["variants"]):
        image_id = f"{parent['image_id']}~{number:04d}"
        variant, jpeg, augmentation = _draw(image_id, image, augment, seed, taken)
        yield {
            **parent,
            "image": stored(image_id, jpeg),
            "image_id": image_id,
            "phash": f"{perceptual_hashes(variant.crop(content).convert('L'))[0]:016x}",
            "parent_id": parent["image_id"],
            "augmentation": json.dumps(augmentation),
        }


def _draw(
    image_id: str, image: Image.Image, augment: "RecordingTrivialAugment", seed: int, taken: set[bytes]
) -> tuple[Image.Image, bytes, dict[str, object]]:
    for attempt in range(_DRAWS_PER_DEPTH * _MAX_DEPTH):
        variant_seed = int.from_bytes(hashlib.sha256(f"{seed}|{image_id}|{attempt}".encode()).digest()[:6], "big")
        variant, operations = augment.draw(image, variant_seed, depth=1 + attempt // _DRAWS_PER_DEPTH)
        jpeg = encode(variant)
        if jpeg not in taken:
            taken.add(jpeg)
            return variant, jpeg, {"method": "TrivialAugmentWide", "seed": variant_seed, "operations": operations}
    raise CelluScanError(
        f"no further variant of {image_id} found: the image is too uniform to be augmented; "
        "remove it from its source, or lower --target-per-class"
    )


class RecordingTrivialAugment(v2.TrivialAugmentWide):  # type: ignore[misc]
    """TrivialAugmentWide that records its operations. Uncovered corners get the color `fill`, RGB in [0, 255]."""

    def __init__(self, fill: list[float]) -> None:
        super().__init__(interpolation=v2.InterpolationMode.BILINEAR, fill=fill)
        self.operations: list[dict[str, object]] = []

    def draw(self, image: Image.Image, seed: int, depth: int) -> tuple[Image.Image, list[dict[str, object]]]:
        """Apply `depth` random transforms to a PIL image; return it with their names and magnitudes."""
        self.operations = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for _ in range(depth):
                image = self(image)
        return image, self.operations

    def _apply_image_or_video_transform(
        self, image: Image.Image, transform_id: str, magnitude: float, *args: Any, **kwargs: Any
    ) -> Image.Image:
        self.operations.append({"name": transform_id, "magnitude": round(magnitude, 4)})
        changed: Image.Image = super()._apply_image_or_video_transform(image, transform_id, magnitude, *args, **kwargs)
        return changed
