"""`celluscan predict`: one row per image, as CSV or JSON lines, on standard output or in a file.

The fields of a row:

- `image`: the path, or the name in a parquet file;
- `label`, `score`: the answer and its probability. For a calibrated model (`celluscan calibrate`) the same as from
  `pipeline("wbc-classification")`: the parent if its children compete. For other models the likeliest class;
- `code`, `lineage`, `stage` (neutrophil maturation stage, 1–6), `parent`, `abnormal_in_blood`: facts on that label from
  the taxonomy; empty for a label that is not one of our 14 classes;
- `top`: the likeliest classes, each with `label` and `score`; in CSV the columns `label_1`, `score_1`, `label_2`, …;
- for calibrated models, else empty: `abnormal`, the summed probability of the abnormal classes; `set`, the prediction
  set at `coverage`, likeliest first (in CSV separated by semicolons); `abstain`, and its `reason`; `ood_score`, above 1
  for an out-of-distribution image;
- for an image that does not show a stained cell, from any model: `abstain`, with the `reason` "not a stained cell";
- `hint`: why it does not show one; or, from a calibrated model, that the cell is unlike those of the training
  laboratories; mostly empty;
- `note`: what was guessed about the file, such as the bit depth of its samples; mostly empty;
- `error`: why the image could not be used; then all other fields but `image` are empty.
"""

import csv
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from tqdm import tqdm
from transformers import BaseImageProcessor, PreTrainedModel

from ..atomic_io import atomic_write
from ..errors import BadImage, CelluScanError
from ..modeling.reliability_celluscan import COVERAGE, FACT_NAMES, NOT_A_CELL, Reliability, facts_of
from ..processes import ALONE, Processes
from ..taxonomy import CLASSES
from .inputs import NamedImage, counted, find_images
from .loading import load_classifier, load_reliability
from .prediction import Output, best_device, device_for, outputs

Format = Literal["csv", "json"]
Row = dict[str, Any]
ENDINGS: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
CALIBRATED_FIELDS = (
    "abnormal",
    "set",
    "abstain",
    "reason",
    "hint",
    "ood_score",
)  # mostly empty for models without calibration
FIELDS = ("image", "label", "score", *FACT_NAMES, "top", *CALIBRATED_FIELDS, "note", "error")
_DECIMALS = 6  # scores are float32
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # a spreadsheet may run a cell that starts with one of these


@dataclass(frozen=True, slots=True)
class Summary:
    """Number of images, number of unusable ones, and seconds without loading the model.

    `skipped` counts files in folders and patterns without an image ending, by ending; `repeated` the files that were
    named again, which have one row.
    """

    images: int
    unusable: int
    seconds: float
    skipped: Counter[str] = field(default_factory=Counter)
    repeated: int = 0

    def __str__(self) -> str:
        noun = "image" if self.images == 1 else "images"
        text = f"{self.images} {noun}, {self.unusable} could not be used, {self.rate()}"
        if self.repeated:
            text += f"; files named more than once, used once: {self.repeated}"
        return f"{text}; files skipped: {counted(self.skipped)}" if self.skipped else text

    def rate(self) -> str:
        return f"{self.images / self.seconds:.1f} images/s"


def predict(
    images: Sequence[str | Path],
    model: str | Path,
    output: Path | None = None,
    *,
    form: Format | None = None,
    top_k: int = 3,
    batch_size: int = 64,
    device: str | None = None,
    coverage: float = COVERAGE,
    views: int | None = None,
    trust_remote_code: bool = False,
    lists: Sequence[str] = (),
    processes: Processes = ALONE,
) -> Summary:
    """Write one row per image, in the given order.

    Args:
        images: Files, folders, patterns and parquet files; see `inputs.find_images`.
        model: A checkpoint folder, or the name of a model on the Hub.
        output: A new file, written atomically; None for standard output.
        form: `"csv"`, or `"json"` for JSON lines; None to follow the ending of `output`, else CSV.
        top_k: Maximum number of labels per image.
        batch_size: Maximum number of images in one forward pass.
        device: Device of the model, such as `"cuda:1"`; None for a GPU if there is one.
        coverage: Share of prediction sets that hold the true class, above 0 and below 1.
        views: Mirrored copies of an image that are averaged over; None for those of the model.
        trust_remote_code: Run code from the checkpoint.
        lists: Text files with the path of an image a line, `-` for standard input.
        processes: Those that call this with the same arguments and share the images; the first one writes.

    Raises:
        CelluScanError: The images, the model, the device or the output cannot be used, or none of the images could be
            read (their rows are written all the same).
    """
    form = _form(output, form)
    check_numbers(coverage, top_k=top_k, batch_size=batch_size)
    named = processes.from_first(lambda: find_images(images, lists))
    classifier, processor = load_classifier(model, trust_remote_code, views=views)
    reliability = load_reliability(classifier)
    place(classifier, device, processes)
    dealt = processes.deal(named, batch_size)
    own = predict_rows(dealt, classifier, processor, reliability, batch_size, top_k, coverage)
    rows = processes.gather(own, batch_size, len(named))
    with _opened(output, processes) as file, closing(rows) as results:
        show = processes.is_first and _shows_progress(output)
        with tqdm(results, total=len(named), unit=" images", leave=False, disable=not show) as bar:
            summary, first_error = _write(bar, file, form, min(top_k, classifier.config.num_labels))
    if summary.unusable == summary.images:
        raise CelluScanError(f"no image could be used, of {summary.images}; the first, {first_error}")
    return replace(summary, skipped=named.skipped, repeated=named.repeated)


def _shows_progress(output: Path | None) -> bool:
    """Whether a bar is shown: on a terminal, unless the rows are printed there."""
    return sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())


def check_numbers(coverage: float, **counts: int) -> None:
    """Raise a `CelluScanError` if the value of an option is out of range."""
    for name, value in counts.items():
        if value < 1:
            raise CelluScanError(f"--{name.replace('_', '-')} {value}: expected 1 or more")
    if not 0 < coverage < 1:
        raise CelluScanError(f"--coverage {coverage}: expected a share above 0 and below 1, such as 0.9")


def row(
    name: str,
    result: Output | BadImage,
    labels: Mapping[int, str],
    top_k: int,
    reliability: Reliability | None = None,
    coverage: float = COVERAGE,
) -> Row:
    """Build the row of one image from the model's output, or from the error of an unusable image."""
    empty = dict.fromkeys(FIELDS) | {"image": name, "top": []}
    if isinstance(result, BadImage):
        return empty | {"error": " ".join(str(result).split())}
    scores = result.probabilities
    if reliability is not None and result.features is not None:
        answer = reliability.answer(scores, result.features, coverage, top_k=top_k, refusal=result.refusal)
    else:
        likeliest = np.argsort(-scores, kind="stable")[:top_k].tolist()
        top = [{"label": labels[index], "score": float(scores[index])} for index in likeliest]
        answer = top[0] | facts_of(labels[likeliest[0]], CLASSES) | {"top": top}
        if result.refusal:
            answer |= {"abstain": True, "reason": NOT_A_CELL, "hint": result.refusal}
    return empty | {name: _rounded(value) for name, value in answer.items()} | {"note": result.note or None}


def _rounded(value: Any) -> Any:
    """Round all numbers in a JSON value to `_DECIMALS` digits."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value


def predict_rows(
    named: Iterable[NamedImage],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    reliability: Reliability | None,
    batch_size: int,
    top_k: int,
    coverage: float,
    readers: int | None = None,
) -> Generator[Row, None, None]:
    """Yield the row of each image; `readers` as in `prediction.outputs`."""
    images, read_ahead = tee(named)
    reads = (image.decode for image in read_ahead)
    calibrated = reliability is not None
    results = outputs(
        reads,
        model,
        processor,
        batch_size=batch_size,
        with_features=calibrated,
        check_stain=True,
        readers=readers,
    )
    with closing(results):
        for image, result in zip(images, results, strict=True):
            yield row(image.name, result, model.config.id2label, top_k, reliability, coverage)


def _write(rows: Iterable[Row], file: TextIO, form: Format, count: int) -> tuple[Summary, str]:
    """Write all rows; return a summary, and the first unusable image with its error."""
    started, images, unusable, first_error = time.perf_counter(), 0, 0, ""
    write = _csv_writer(file, count) if form == "csv" else _json_writer(file)
    for fields in rows:
        write(fields)
        images += 1
        if fields["error"]:
            unusable += 1
            first_error = first_error or f"{fields['image']}: {fields['error']}"
    return Summary(images, unusable, time.perf_counter() - started), first_error


def _json_writer(file: TextIO) -> Callable[[Row], object]:
    return lambda fields: file.write(json.dumps(fields, ensure_ascii=False) + "\n")


def _csv_writer(file: TextIO, count: int) -> Callable[[Row], object]:
    """Write a header; return the writer of rows with `count` labels each."""
    top = [column for rank in range(1, count + 1) for column in (f"label_{rank}", f"score_{rank}")]
    columns = [column for field in FIELDS for column in (top if field == "top" else [field])]
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    return lambda fields: writer.writerow({column: csv_cell(value) for column, value in _flat(fields).items()})


def _flat(fields: Row) -> Row:
    """Spread `top` over columns and join `set`."""
    top = {f"{key}_{rank}": best[key] for rank, best in enumerate(fields["top"], 1) for key in best}
    prediction_set = None if fields["set"] is None else "; ".join(fields["set"])
    return {key: value for key, value in fields.items() if key != "top"} | top | {"set": prediction_set}


def csv_cell(value: Any) -> Any:
    """Format a value for CSV; untrusted text that a spreadsheet would run as a formula is prefixed with `'`.

    JSON lines keep names unchanged.
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _form(output: Path | None, form: Format | None) -> Format:
    """Return the row format. Raises a `CelluScanError` if `output` exists or its ending contradicts `form`."""
    if output is None:
        return form or "csv"
    if output.exists():
        raise CelluScanError(f"{output} exists already; give another name, or remove it")
    ending = ENDINGS.get(output.suffix.lower())
    if form is None and ending is None:
        raise CelluScanError(f"{output}: expected a name that ends in {' '.join(ENDINGS)}, or --csv or --json")
    if form and ending and form != ending:
        raise CelluScanError(f"{output} has an ending for --{ending}, but --{form} was given; change one of them")
    return form or ending or "csv"


def place(model: PreTrainedModel, device: str | None, processes: Processes = ALONE) -> None:
    """Move a model to a device, by default the best one of this machine."""
    try:
        model.to(device_for(device, processes))
    except (RuntimeError, AssertionError) as error:  # the latter if torch was built without the backend
        reason = str(error).partition("\n")[0]
        raise CelluScanError(f"--device {device}: {reason}; this machine's default is {best_device()}") from error


@contextmanager
def _opened(output: Path | None, processes: Processes) -> Iterator[TextIO]:
    if not processes.is_first:
        with open(os.devnull, "w") as nowhere:
            yield nowhere
        return
    if output is None:
        yield sys.stdout
        sys.stdout.flush()  # here, so that a closed pipe is reported
        return
    with atomic_write(output) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file
