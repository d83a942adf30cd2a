"""The job of `celluscan predict`: a row for each image, as CSV or JSON lines, on standard output or in a file.

The fields of a row:

- `image`: the path, or what a parquet file calls it;
- `label`, `score`: the answer and its probability. Of a calibrated model (`celluscan calibrate`) it is that of
  `pipeline("wbc-classification")`: where children of one parent compete, the parent. Of others, the likeliest class;
- `code`, `lineage`, `stage` (1–6 on the line of neutrophil maturation), `parent`, `abnormal_in_blood`: what the
  taxonomy knows of that label. They are empty where it knows none, as for a model whose labels are not our 14 names;
- `top`: the likeliest classes, each with `label` and `score`. In CSV, where a cell holds one value, they are `label_1`,
  `score_1`, `label_2` and so on;
- `abnormal`, the summed probability of the abnormal classes; `set`, the classes it may be, likeliest first (in CSV
  between semicolons; as often as `coverage` asks, the true class is one of them); `abstain`, whether no plain answer
  can be given, and `reason`, why; `ood_score`, over 1 for what the model does not know: of a model that is not
  calibrated these are empty;
- `note`: what was guessed of the file, as the depth of its samples; mostly empty;
- `error`: why the image could not be used; then all other fields but `image` are empty.
"""

import csv
import json
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
from ..modeling.reliability_celluscan import COVERAGE, FACT_NAMES, Reliability, facts_of
from ..taxonomy import CLASSES
from .inputs import Images, counted, find_images
from .loading import load_classifier, load_reliability
from .prediction import Output, best_device, outputs

Format = Literal["csv", "json"]
Row = dict[str, Any]
ENDINGS: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json"}
FACTS = FACT_NAMES
TRUST = ("abnormal", "set", "abstain", "reason", "ood_score")  # of models that were calibrated
FIELDS = ("image", "label", "score", *FACTS, "top", *TRUST, "note", "error")
_DECIMALS = 6  # of a score, a float32
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # with which a cell of a spreadsheet begins to compute


@dataclass(frozen=True, slots=True)
class Summary:
    """What was done: images, those of them that could not be used, and seconds, without loading the model.

    `passed_over` counts files of the folders and patterns given that do not end as images do, by their endings.
    """

    images: int
    unusable: int
    seconds: float
    passed_over: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        noun, rate = "image" if self.images == 1 else "images", self.images / self.seconds
        text = f"{self.images} {noun}, {self.unusable} could not be used, {rate:.1f} images/s"
        return f"{text}; files passed over: {counted(self.passed_over)}" if self.passed_over else text


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
    trust_remote_code: bool = False,
) -> Summary:
    """Write a row for each image, in the order in which they were named.

    Args:
        images: Files, folders, patterns and parquet files, as `inputs.find_images` takes them.
        model: A checkpoint folder, or the name of a model on the Hub.
        output: A new file, which exists only once it is whole; None for standard output.
        form: `"csv"`, or `"json"` for JSON lines; None for what the ending of `output` says, else CSV.
        top_k: How many labels of each image, at most.
        batch_size: Images in one forward pass, at most.
        device: Where the model runs, such as `"cuda:1"`; None for a GPU where there is one.
        coverage: How often a `set` is to hold the true class, above 0 and below 1.
        trust_remote_code: Run code that lies in the checkpoint.

    Raises:
        CelluScanError: The images, the model, the device or the output cannot be used as asked, or none of the images
            could be used (their rows are written all the same).
    """
    form = _form(output, form)
    for name, value in {"--top-k": top_k, "--batch-size": batch_size}.items():
        if value < 1:
            raise CelluScanError(f"{name} {value}: expected 1 or more")
    if not 0 < coverage < 1:
        raise CelluScanError(f"--coverage {coverage}: expected a share above 0 and below 1, such as 0.9")
    found = find_images(images)
    classifier, processor = load_classifier(model, trust_remote_code)
    known = load_reliability(classifier)
    _place(classifier, device)
    rows = _rows(found, classifier, processor, known, batch_size, top_k, coverage)
    with _opened(output) as file, closing(rows) as results:
        watched = sys.stderr.isatty() and (output is not None or not sys.stdout.isatty())  # rows are progress enough
        with tqdm(results, total=len(found), unit=" images", leave=False, disable=not watched) as bar:
            done, first_error = _write(bar, file, form, min(top_k, classifier.config.num_labels))
    if done.unusable == done.images:
        raise CelluScanError(f"no image could be used, of {done.images}; the first, {first_error}")
    return replace(done, passed_over=found.passed_over)


def row(
    name: str,
    result: Output | BadImage,
    labels: Mapping[int, str],
    top_k: int,
    known: Reliability | None = None,
    coverage: float = COVERAGE,
) -> Row:
    """The fields of one image, from what the model gave for it or from why it cannot be used."""
    empty = dict.fromkeys(FIELDS) | {"image": name, "top": []}
    if isinstance(result, BadImage):
        return empty | {"error": " ".join(str(result).split())}
    scores = result.probabilities
    if known is not None and result.features is not None:
        said = known.answer(scores, result.features, coverage, top_k=top_k)
    else:
        likeliest = np.argsort(-scores, kind="stable")[:top_k].tolist()
        top = [{"label": labels[index], "score": float(scores[index])} for index in likeliest]
        said = top[0] | facts_of(labels[likeliest[0]], CLASSES) | {"top": top}
    fields: Row = empty | _rounded(said) | {"note": result.note or None}
    return fields


def _rounded(value: Any) -> Any:
    """The same with its numbers to `_DECIMALS` digits."""
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _rows(
    found: Images,
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    known: Reliability | None,
    batch_size: int,
    top_k: int,
    coverage: float,
) -> Generator[Row, None, None]:
    """The row of each image."""
    named, read_ahead = tee(found)
    reads = (image.decode for image in read_ahead)
    results = outputs(reads, model, processor, batch_size=batch_size, with_features=known is not None)
    with closing(results):
        for image, result in zip(named, results, strict=True):
            yield row(image.name, result, model.config.id2label, top_k, known, coverage)


def _write(rows: Iterable[Row], file: TextIO, form: Format, count: int) -> tuple[Summary, str]:
    """Write all rows; what was done, and the first image that could not be used with the reason."""
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
    """Rows with `count` labels each, after a header."""
    others = [column for place in range(1, count + 1) for column in (f"label_{place}", f"score_{place}")]
    columns = [column for field in FIELDS for column in (others if field == "top" else [field])]
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    return lambda fields: writer.writerow({column: csv_cell(value) for column, value in _flat(fields).items()})


def _flat(fields: Row) -> Row:
    """A row with its `top` spread over columns."""
    spread = {f"{key}_{place}": best[key] for place, best in enumerate(fields["top"], 1) for key in best}
    within = None if fields["set"] is None else "; ".join(fields["set"])
    return {key: value for key, value in fields.items() if key != "top"} | spread | {"set": within}


def csv_cell(value: Any) -> Any:
    """A value as CSV has it. Names come from strangers: what a spreadsheet would run as a formula gets a `'` in front.

    JSON lines keep every name as it is.
    """
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _form(output: Path | None, form: Format | None) -> Format:
    """The format of the rows. Raises a `CelluScanError` where `output` cannot be written, or ends as another format."""
    if output is None:
        return form or "csv"
    if output.exists():
        raise CelluScanError(f"{output} exists already; give another name, or remove it")
    ending = ENDINGS.get(output.suffix.lower())
    if form is None and ending is None:
        raise CelluScanError(f"{output}: expected a name that ends in {' '.join(ENDINGS)}, or --csv or --json")
    if form and ending and form != ending:
        raise CelluScanError(f"{output} ends as --{ending} would write it, but --{form} was given; change one of them")
    return form or ending or "csv"


def _place(model: PreTrainedModel, device: str | None) -> None:
    try:
        model.to(device or best_device())
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        reason = str(error).partition("\n")[0]
        raise CelluScanError(f"--device {device}: {reason}; on this machine, {best_device()} would be taken") from error


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield sys.stdout
        sys.stdout.flush()  # here, where a closed pipe can still be told
        return
    with atomic_write(output) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file
