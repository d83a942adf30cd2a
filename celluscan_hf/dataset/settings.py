"""Settings of a build, with all defaults in one place."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CelluScanError
from ..sources import Selection

_SMALLEST, _LARGEST = 32, 1024  # pixels: smaller cells cannot be classified, and no source has more detail


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


@dataclass(frozen=True)
class BuildSettings:
    """Settings of one build.

    - `sources`: `KEY=PATH` each, as `celluscan_hf.sources.open_source` takes them.
    - `image_size`: side of the stored images in pixels.
    - `target_per_class`: train classes with fewer rows are filled up with augmented rows; 0 for none.
    - `exclude_acquisitions`: values of the column `acquisition` whose images are excluded.
    - `licenses`: licences of the user's own sources, by source name.
    - `num_proc`: processes on this machine; `ray`: address of a Ray cluster that does their work, or `"auto"`.
    - `selections`: columns and configs to read from Hugging Face datasets, by source name.
    """

    sources: tuple[str, ...]
    output: Path
    image_size: int = 224
    target_per_class: int = 4500
    seed: int = 42
    num_proc: int = field(default_factory=cores)
    resume: bool = False
    licenses: tuple[tuple[str, str], ...] = ()
    exclude_acquisitions: tuple[str, ...] = ()
    selections: tuple[tuple[str, Selection], ...] = ()
    ray: str | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise CelluScanError("no --source given; expected at least one KEY=PATH, or synthetic=COUNT")
        if not _SMALLEST <= self.image_size <= _LARGEST:
            raise CelluScanError(f"--image-size {self.image_size}: expected {_SMALLEST} to {_LARGEST} pixels")
        for name, lowest in (("target_per_class", 0), ("seed", 0), ("num_proc", 1)):
            if getattr(self, name) < lowest:
                option = "--" + name.replace("_", "-")
                raise CelluScanError(f"{option} {getattr(self, name)}: expected {lowest} or more")

    @property
    def content(self) -> dict[str, object]:
        """The settings that decide the content of the built folder; the others decide how it is built."""
        return {
            "image_size": self.image_size,
            "target_per_class": self.target_per_class,
            "seed": self.seed,
            "exclude_acquisitions": sorted(set(self.exclude_acquisitions)),
        }
