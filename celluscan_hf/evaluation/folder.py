"""The folder of an evaluation, which appears under its name only when it is whole.

`<output>.building/` holds the new files until then, `<output>.lock` keeps a second run out. An earlier evaluation is
replaced as a whole; a folder with any other file in it is refused, so nothing foreign is ever deleted.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .. import taxonomy
from ..errors import CelluScanError

METRICS = "metrics.json"
PREDICTIONS = "predictions.parquet"
EXTERNAL = "external.parquet"  # only where external sources were asked for
REPORT = "report.md"
DROPPED = "dropped.csv"
CONFUSION = "confusion_matrix.png"
RECALL = "recall.png"
MISTAKES = "hard_mistakes.png"
ROC = "abnormal_roc.png"
RELIABILITY = "reliability.png"
RISK = "risk_coverage.png"
EXAMPLES = "examples.json"
IMAGES = "examples"  # the one folder in it, with the images that `EXAMPLES` describes
IMAGE_FILES = {cell.name: f"{cell.code}.jpg" for cell in taxonomy.CLASSES}
FILES = frozenset(
    {METRICS, PREDICTIONS, EXTERNAL, REPORT, DROPPED, CONFUSION, RECALL, MISTAKES, ROC, RELIABILITY, RISK, EXAMPLES}
)
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Building:
    """Where an evaluation is made: `final` becomes the output, `scratch` is deleted."""

    final: Path
    scratch: Path


@contextmanager
def building(output: Path) -> Iterator[Building]:
    """Make the folder of an evaluation. Raises `CelluScanError` where `output` is not free for one."""
    output = output.resolve()
    work = output.with_name(f"{output.name}.building")
    previous = work / "previous"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(output.with_name(f"{output.name}.lock"), timeout=0).acquire()
    except Timeout:
        raise CelluScanError(f"another evaluation into {output} is running; wait, or choose another --output") from None
    with lock:
        _restore(previous, output)
        check_free(output)
        shutil.rmtree(work, ignore_errors=True)
        made = Building(work / "final", work / "scratch")
        try:
            made.final.mkdir(parents=True)
            made.scratch.mkdir()
            yield made
            if output.exists():
                output.rename(previous)
            made.final.rename(output)
        finally:
            _restore(previous, output)
            shutil.rmtree(work, ignore_errors=True)


def _restore(previous: Path, output: Path) -> None:
    """Give an evaluation its name back where a run was stopped between taking it and giving it to the new one."""
    if previous.exists() and not output.exists():
        previous.rename(output)


def check_free(output: Path) -> None:
    """Raise a `CelluScanError` unless there is nothing under that name, or an empty folder, or an evaluation."""
    if not output.exists():
        return
    if not output.is_dir():
        raise CelluScanError(f"{output} is a file; choose a folder for --output")
    foreign = sorted(_foreign(output))
    if foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise CelluScanError(
            f"{output} holds {', '.join(foreign[:_SHOWN])}{more}, which no evaluation has written; "
            "choose an empty or new --output"
        )


def _foreign(output: Path) -> Iterator[str]:
    """Names of what no evaluation has written, relative to the folder."""
    for path in output.iterdir():
        if path.name == IMAGES and path.is_dir():
            ours = IMAGE_FILES.values()
            yield from (f"{IMAGES}/{file.name}" for file in path.iterdir() if file.name not in ours or file.is_dir())
        elif path.name not in FILES or not path.is_file():
            yield path.name


def check_outside(output: Path, inputs: Sequence[Path]) -> None:
    """Raise a `CelluScanError` where the output would lie in one of the folders that are read."""
    for folder in inputs:
        if output.resolve().is_relative_to(folder.resolve()):
            raise CelluScanError(f"--output {output} lies in {folder}, which is read; choose a folder outside of it")
