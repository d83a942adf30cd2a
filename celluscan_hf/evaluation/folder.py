"""The folder of an evaluation, written atomically.

`<output>.building/` holds the new files until all are written, `<output>.lock` keeps a second run out. An earlier
evaluation is replaced completely; a folder with any other file in it is refused, so nothing foreign is ever deleted.
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
EXTERNAL = "external.parquet"  # only if external sources were given
REPORT = "report.md"
DROPPED = "dropped.csv"
CONFUSION = "confusion_matrix.png"
RECALL = "recall.png"
MISTAKES = "hard_mistakes.png"
ROC = "abnormal_roc.png"
RELIABILITY = "reliability.png"
RISK = "risk_coverage.png"
EXAMPLES = "examples.json"
IMAGES = "examples"  # a subfolder with the images that `EXAMPLES` describes
IMAGE_FILES = {cell.name: f"{cell.code}.jpg" for cell in taxonomy.CLASSES}
FILES = frozenset(
    {METRICS, PREDICTIONS, EXTERNAL, REPORT, DROPPED, CONFUSION, RECALL, MISTAKES, ROC, RELIABILITY, RISK, EXAMPLES}
)
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Building:
    """Folders of an evaluation in progress: `final` becomes the output, `scratch` is deleted."""

    final: Path
    scratch: Path


@contextmanager
def building(output: Path) -> Iterator[Building]:
    """Create the folder of an evaluation. Raises `CelluScanError` if `output` is not free for one."""
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
        folders = Building(work / "final", work / "scratch")
        try:
            folders.final.mkdir(parents=True)
            folders.scratch.mkdir()
            yield folders
            if output.exists():
                output.rename(previous)
            folders.final.rename(output)
        finally:
            _restore(previous, output)
            shutil.rmtree(work, ignore_errors=True)


def _restore(previous: Path, output: Path) -> None:
    """Rename an earlier evaluation back if a run was stopped between the two renames."""
    if previous.exists() and not output.exists():
        previous.rename(output)


def check_free(output: Path) -> None:
    """Raise a `CelluScanError` unless `output` is missing, an empty folder, or an evaluation."""
    if not output.exists():
        return
    if not output.is_dir():
        raise CelluScanError(f"{output} is a file; choose a folder for --output")
    foreign = sorted(_foreign(output))
    if foreign:
        more = f" and {len(foreign) - _SHOWN} more" if len(foreign) > _SHOWN else ""
        raise CelluScanError(
            f"{output} holds {', '.join(foreign[:_SHOWN])}{more}, which is not from an evaluation; "
            "choose an empty or new --output"
        )


def _foreign(output: Path) -> Iterator[str]:
    """Relative paths of what is not from an evaluation."""
    for path in output.iterdir():
        if path.name == IMAGES and path.is_dir():
            ours = IMAGE_FILES.values()
            yield from (f"{IMAGES}/{file.name}" for file in path.iterdir() if file.name not in ours or file.is_dir())
        elif path.name not in FILES or not path.is_file():
            yield path.name


def check_outside(output: Path, inputs: Sequence[Path]) -> None:
    """Raise a `CelluScanError` if the output would lie in one of the folders that are read."""
    for folder in inputs:
        if output.resolve().is_relative_to(folder.resolve()):
            raise CelluScanError(f"--output {output} lies in {folder}, which is read; choose a folder outside of it")
