"""Read the cells that a model is adapted to: labelled ones from sources, and images without labels."""

import json
from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import BaseImageProcessor

from .. import taxonomy
from ..augmentation.view import View
from ..dataset.reading import open_dataset
from ..errors import BadImage, CelluScanError
from ..evaluation.cells import Cells, load_cells, of_classes, with_own_names
from ..evaluation.external import file_digests
from ..inference.inputs import find_images
from ..inference.prediction import Read
from ..sources import Dropped, Source, open_sources
from ..sources.imagefolder import ImageFolder, UnknownLabel
from ..training.record import ASKED
from ..workers import progress

MOST_UNLABELLED = 512  # more do not change an estimate
CROPS = (0.64, 0.8, 1.0)  # shares of the picture's side that are tried as the view
_SAME_SIZE = 0.05  # a smaller difference of sizes is not tried
MOST_CELLS = 5_000  # labelled; a training makes more of so many
_STORED = {"do_center_crop": False, "do_rescale": False, "do_normalize": False}  # the processor up to its resizing


@dataclass(frozen=True)
class LabelledCells:
    """Labelled cells of another microscope.

    - `reads` decode their images; `pixels` (n, 3, resized, resized) uint8 are these as the model's processor resizes
      them; `labels` (n,), class numbers of the adapted model; `groups` (n,), numbers of patients, slides or smears,
      whose cells are not independent.
    - `names`: all classes of the adapted model, in its order.
    - `described`: what identifies the cells, as JSON; `dropped`: files that could not be used.
    """

    reads: Sequence[Read]
    pixels: torch.Tensor
    labels: NDArray[np.int64]
    groups: NDArray[np.int64]
    names: tuple[str, ...]
    described: dict[str, Any]
    dropped: tuple[Dropped, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells of each class that has any, in the order of the model."""
        numbers = Counter(self.labels.tolist())
        return {self.names[label]: numbers[label] for label in sorted(numbers)}


def labelled_cells(cells: Cells, names: Sequence[str], processor: BaseImageProcessor) -> LabelledCells:
    """Decode the cells of sources, whose labels are numbers of `names`.

    Raises:
        CelluScanError: There are too many or too few cells, or all are of one class.
    """
    if len(cells.kept) > MOST_CELLS:
        raise CelluScanError(
            f"{len(cells.kept):,} labelled cells: with more than {MOST_CELLS:,} a training gets further; build a "
            "dataset of them (celluscan build) and train on it (celluscan train --recipe … --start MODEL)"
        )
    pixels, bad = stored_pixels([cell.read for cell in cells.kept], processor, "reading cells")
    kept = [cell for cell, image in zip(cells.kept, pixels, strict=True) if image is not None]
    dropped = [
        Dropped(cell.image_id, fault.reason, fault.detail, cell.source_label)
        for cell, fault in zip(cells.kept, bad, strict=True)
        if fault is not None
    ]
    labels = np.array([cell.label for cell in kept], np.int64)
    if len(found := np.unique(labels)) < 2:
        given = f"all {len(kept)} are {names[found[0]]}" if len(found) else "none could be used"
        raise CelluScanError(
            f"expected labelled cells of two classes or more, but {given}; give cells of another class too, or give "
            "these with --unlabelled"
        )
    groups = np.unique([cell.group_id for cell in kept], return_inverse=True)[1].astype(np.int64)
    return LabelledCells(
        [cell.read for cell in kept],
        torch.stack([image for image in pixels if image is not None]),
        labels,
        groups,
        tuple(names),
        dict(cells.described),
        (*cells.dropped, *dropped),
    )


@dataclass(frozen=True)
class TrainedOn:
    """Names of the sources of a training, and SHA-256 of its files as far as the dataset is at hand."""

    sources: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()

    @classmethod
    def of(cls, run: Path) -> "TrainedOn":
        """Read what a run says of itself; nothing if it does not."""
        if not (run / ASKED).is_file():
            return cls()
        data = json.loads((run / ASKED).read_text("utf-8"))["data"]
        at_hand = data.get("local", False) and Path(data["name"]).is_dir()
        return cls(frozenset(data["sources"]), file_digests(open_dataset(data["name"])) if at_hand else frozenset())

    def refuse(self, source: Source) -> None:
        """Raise a `CelluScanError` for a published source that the model was trained on."""
        if source.name in self.sources and not isinstance(source, ImageFolder):
            raise CelluScanError(
                f"the model was trained on {source.name}, so it knows these cells already; give cells of another "
                "laboratory (other cells of this one: --source imagefolder=FOLDER)"
            )


def read_cells(
    specs: Sequence[str],
    names: Sequence[str],
    own: bool,
    processor: BaseImageProcessor,
    scratch: Path,
    trained_on: TrainedOn | None = None,
) -> LabelledCells:
    """Read the labelled cells of sources, `KEY=PATH` each.

    Args:
        specs: As for `celluscan build`.
        names: The classes of the model. With `own` its classes become those that the cells have, in our order and then
            by name; folders may have any name.
        own: Whether the classes are those of the cells.
        processor: That of the model.
        scratch: Takes decompressed copies of compressed tars.
        trained_on: The data that the model was trained on, whose files are left out.

    Raises:
        CelluScanError: A source cannot be read, or the model was trained on it; or see `labelled_cells`.
    """
    trained_on = trained_on or TrainedOn()
    sources = open_sources(specs, scratch, seed=0, licenses={})
    for source in sources:
        trained_on.refuse(source)
    if own:
        cells, found = _load([with_own_names(source) for source in sources], [], trained_on.files)
        order = {name: number for number, name in enumerate(taxonomy.NAMES)}
        classes = sorted(found, key=lambda name: (order.get(name, len(order)), name))
        return with_names_of_cells(labelled_cells(of_classes(cells, found, classes), classes, processor))
    try:
        cells, found = _load(sources, list(names), trained_on.files)
    except UnknownLabel as error:
        raise CelluScanError(f"{error}; or learn the classes of these cells, by any name: --classes own") from error
    if unknown := [name for name in found[len(names) :] if name in taxonomy.LABEL2ID]:
        raise CelluScanError(
            f"the model has no class {' or '.join(map(repr, unknown[:3]))}; give --classes own to learn the classes of "
            "these cells instead"
        )
    return labelled_cells(of_classes(cells, found, names), names, processor)


def _load(sources: Sequence[Source], names: list[str], left_out: frozenset[str]) -> tuple[Cells, list[str]]:
    """Load cells, whose labels are numbers of the names that are returned: those given, and then others as found."""
    return load_cells(sources, left_out, own_names=names), names


def with_names_of_cells(cells: LabelledCells) -> LabelledCells:
    """Only the classes that have cells, in the same order."""
    numbers, labels = np.unique(cells.labels, return_inverse=True)
    return replace(cells, names=tuple(cells.names[number] for number in numbers), labels=labels.astype(np.int64))


def unlabelled_reads(named: Sequence[str]) -> list[Read]:
    """Find images without labels, at most `MOST_UNLABELLED`, evenly spaced. Raises as `find_images`."""
    images = list(find_images(named)) if named else []
    step = -(-len(images) // MOST_UNLABELLED) or 1
    return [image.read for image in images[::step]]


def usable_pixels(reads: Sequence[Read], processor: BaseImageProcessor) -> torch.Tensor:
    """Read the images that can be used: (m, 3, resized, resized) uint8."""
    usable = [image for image in stored_pixels(reads, processor, "reading images")[0] if image is not None]
    side = processor.size["height"]
    return torch.stack(usable) if usable else torch.empty((0, 3, side, side), dtype=torch.uint8)


def stored_pixels(
    reads: Sequence[Read], processor: BaseImageProcessor, task: str
) -> tuple[list[torch.Tensor | None], list[BadImage | None]]:
    """Decode, pad and resize images as a model's processor does: (3, resized, resized) uint8 each, or why not."""
    pixels: list[torch.Tensor | None] = []
    faults: list[BadImage | None] = []
    with progress(task, len(reads), "image") as advance:
        for read in reads:
            try:
                result = read()
                image = getattr(result, "image", result)
                prepared = processor(images=[image], return_tensors="pt", **_STORED)["pixel_values"][0]
                pixels.append(prepared.to(torch.uint8))
                faults.append(None)
            except BadImage as fault:
                pixels.append(None)
                faults.append(BadImage(fault.reason, fault.detail))
            advance(1)
    return pixels, faults


def view_of(processor: BaseImageProcessor) -> View:
    """The crop and normalization of a model's processor, for pixels of `stored_pixels`."""
    side = side_of(processor)
    return View(side, side / processor.size["height"], tuple(processor.image_mean), tuple(processor.image_std))


def side_of(processor: BaseImageProcessor) -> int:
    """Side in pixels of the images that a processor makes."""
    crops = getattr(processor, "do_center_crop", False)
    return int((processor.crop_size if crops else processor.size)["height"])


def processors(processor: BaseImageProcessor) -> list[BaseImageProcessor]:
    """The processor, first, and others that show less or more of the picture around its middle.

    Cells fill more of the picture in one laboratory than in another.
    """
    side, own = side_of(processor), processor.size["height"]
    made = [processor]
    for crop in CROPS:
        if abs((resized := round(side / crop)) - own) > _SAME_SIZE * own:
            other = deepcopy(processor)
            other.size = {"height": resized, "width": resized}
            other.crop_size = {"height": side, "width": side}
            other.do_center_crop = resized > side
            made.append(other)
    return made


def check_output(output: Path) -> None:
    """Raise a `CelluScanError` if something is there already."""
    if output.exists():
        raise CelluScanError(f"{output} already exists; give another name, or remove it")
