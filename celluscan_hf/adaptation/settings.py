"""What is adapted to what, and how."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from ..bundled_model import default_model
from ..errors import CelluScanError

METHODS = ("auto", "calibration", "head", "lora", "full")


@dataclass(frozen=True)
class AdaptationSettings:
    """What is adapted to what.

    - `model`: the folder of a calibrated model; `output`: the new folder.
    - `sources`: labelled cells, `KEY=PATH` each; `unlabelled`: files, folders or patterns of more images.
    - `classes`: `ours` keeps the model's classes; `own` takes those of the cells.
    - `method`: one of `METHODS`; `minutes`: time that `auto` may take.
    """

    model: Path
    output: Path
    sources: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    classes: str = "ours"
    method: str = "auto"
    minutes: float = 5.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.sources and not self.unlabelled:
            raise CelluScanError(
                "no cells given; expected labelled ones (--source imagefolder=FOLDER), images without labels "
                "(--unlabelled FOLDER), or both"
            )
        if not self.sources and (self.classes != "ours" or self.method != "auto"):
            option = "--classes own" if self.classes != "ours" else f"--method {self.method}"
            raise CelluScanError(f"{option} needs labelled cells: give --source imagefolder=FOLDER")
        if self.unlabelled and self.method == "calibration":
            raise CelluScanError("--method calibration uses no images without labels: leave --unlabelled out")
        if self.classes == "own" and self.method == "calibration":
            raise CelluScanError(
                "--method calibration changes no class: leave --classes own out, or give --method head"
            )
        if self.minutes <= 0:
            raise CelluScanError(f"--minutes {self.minutes:g}: expected a number above 0")

    @property
    def command(self) -> str:
        words = ["celluscan", "adapt"]
        if self.model != Path(default_model()):
            words.append(str(self.model))
        words += [word for source in self.sources for word in ("--source", source)]
        words += [word for images in self.unlabelled for word in ("--unlabelled", images)]
        for name in ("classes", "method", "minutes", "seed"):
            if getattr(self, name) != getattr(type(self), name):
                words += [f"--{name}", f"{getattr(self, name)}"]
        return shlex.join([*words, "--output", str(self.output)])
