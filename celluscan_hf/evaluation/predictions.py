"""Predictions of a classifier for each cell: computed once, kept in `predictions.parquet`, read by all metrics.

`external.parquet` has the same columns for the cells of external sources, one source after the other.

Columns of the file, a row per cell in the order of the data: `image_id`, `source`, `source_label`, `group_id` (cells of
one group are not independent), `sha256` (of the publisher's file), `label` and `predicted` (class numbers in the order
of the taxonomy, or of a model with classes of its own; the schema names them), `probabilities` (float32, the same
order, with a sum of one).
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, List, Value
from numpy.typing import NDArray
from transformers import BaseImageProcessor, PreTrainedModel

from .. import taxonomy
from ..atomic_io import atomic_write
from ..dataset.unusable import explain
from ..errors import BadImage, CelluScanError
from ..inference.prediction import Output, ReadImage, outputs
from ..modeling.reliability_celluscan import Reliability
from ..processes import ALONE, Processes
from ..sources import Dropped
from ..workers import progress
from .cells import Cell, Cells

_ROUNDING = 1e-3  # tolerance of a sum of probabilities
FACTS = ("image_id", "source", "source_label", "group_id", "sha256")


def features_of(names: Sequence[str]) -> Features:
    """Return the features of the file, for these classes."""
    label = ClassLabel(names=list(names))
    scores = {"label": label, "predicted": label, "probabilities": List(Value("float32"), length=len(names))}
    return Features({name: Value("string") for name in FACTS} | scores)


@dataclass(frozen=True)
class Predictions:
    """Facts on each cell, its class number `labels` (n,), and `probabilities` (n, classes), in the order of `names`."""

    facts: Mapping[str, list[str]]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    names: tuple[str, ...] = taxonomy.NAMES

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_ids(self) -> list[str]:
        return self.facts["image_id"]

    @property
    def sources(self) -> list[str]:
        return self.facts["source"]

    @cached_property
    def classes(self) -> tuple[taxonomy.CellClass, ...]:
        """What is known of the classes."""
        return taxonomy.classes_of(self.names)

    @cached_property
    def parents(self) -> dict[str, str]:
        """The parent of each class that has one among the classes."""
        return {cell.name: cell.parent for cell in self.classes if cell.parent in self.names}

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """Group number of each cell, (n,)."""
        numbers: NDArray[np.int64] = np.unique(np.array(self.facts["group_id"], object), return_inverse=True)[1]
        return numbers

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Most probable class of each cell, (n,)."""
        best: NDArray[np.int64] = self.probabilities.argmax(axis=1).astype(np.int64)
        return best

    @cached_property
    def confidence(self) -> NDArray[np.float32]:
        """Probability of the predicted class, (n,)."""
        highest: NDArray[np.float32] = self.probabilities.max(axis=1)
        return highest

    def where(self, chosen: Sequence[bool]) -> "Predictions":
        """Select cells by a mask (n,)."""
        facts = {name: list(compress(values, chosen)) for name, values in self.facts.items()}
        return Predictions(facts, self.labels[list(chosen)], self.probabilities[list(chosen)], self.names)

    @classmethod
    def joined(cls, parts: Sequence["Predictions"]) -> "Predictions":
        """Concatenate one part or more, of the same classes."""
        facts = {name: [value for part in parts for value in part.facts[name]] for name in FACTS}
        labels, rows = ([getattr(part, name) for part in parts] for name in ("labels", "probabilities"))
        return cls(facts, np.concatenate(labels), np.concatenate(rows), parts[0].names)

    def write(self, path: Path) -> None:
        """Write `predictions.parquet`; the columns are in the module's docstring."""
        columns = dict(self.facts) | {
            "label": pa.array(self.labels),
            "predicted": pa.array(self.predicted),
            "probabilities": pa.FixedSizeListArray.from_arrays(self.probabilities.ravel(), len(self.names)),
        }
        with atomic_write(path) as partial:
            pq.write_table(pa.table(columns, schema=features_of(self.names).arrow_schema), partial)

    @classmethod
    def read(cls, path: Path) -> "Predictions":
        """Read `predictions.parquet`. Raises a `CelluScanError` if the file is another one."""
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise CelluScanError(f"{path} cannot be read as predictions ({error}); evaluate again") from error
        names = _names_in(table.schema)
        if not table.schema.equals(expected := features_of(names).arrow_schema):
            raise CelluScanError(f"{path} has the columns {table.schema.names}, expected {expected.names}")
        flat = table["probabilities"].combine_chunks().flatten().to_numpy()
        return cls(
            {name: table[name].to_pylist() for name in FACTS},
            table["label"].to_numpy(),
            flat.reshape(-1, len(names)),
            names,
        )


def _names_in(schema: pa.Schema) -> tuple[str, ...]:
    """Return the classes that a schema names; ours if it names none."""
    try:
        label = Features.from_arrow_schema(schema).get("label")
    except ValueError:  # of a table with columns that `datasets` does not know
        return taxonomy.NAMES
    return tuple(label.names) if isinstance(label, ClassLabel) else taxonomy.NAMES


def predict(
    cells: Cells,
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    batch_size: int = 64,
    reliability: Reliability | None = None,
    advance: Callable[[int], object] = lambda done: None,
    processes: Processes = ALONE,
) -> tuple[Predictions, list[Dropped]]:
    """Predict all cells; return predictions, and the cells whose image could not be used, each with its reason.

    With the `reliability` of the model, probabilities are those of its answers: lower where an image is out of
    distribution. `advance` is called with 1 after each cell. `processes` call this with the same arguments; each
    predicts a part, and all get the whole.

    Raises:
        CelluScanError: The model has other classes than the cells, no cell is left, or it gives no probabilities.
    """
    columns = columns_of(model, cells.names)
    reads = (cell.read for cell in processes.deal(cells.kept, batch_size))
    own = _rows(reads, model, processor, batch_size, reliability)
    done: list[Cell] = []
    rows: list[NDArray[np.float32]] = []
    bad: list[Dropped] = []
    results = processes.gather(own, batch_size, len(cells.kept))
    for cell, result in zip(cells.kept, results, strict=True):
        if isinstance(result, BadImage):
            bad.append(Dropped(cell.image_id, result.reason, result.detail, cell.source_label))
        else:
            done.append(cell)
            rows.append(result[columns])
        advance(1)
    if not done:
        raise CelluScanError(f"no cell is left to evaluate; {explain([*cells.dropped, *bad])}")
    return _checked(done, np.stack(rows), cells.names), bad


@contextmanager
def shown(stage: str, count: int, processes: Processes) -> Iterator[Callable[[int], object]]:
    """Show the progress of `predict` in the first process; yields its `advance`."""
    if not processes.is_first:
        yield lambda done: None
        return
    with progress(stage, count, "cell") as advance:
        yield advance


def _rows(
    reads: Iterable[ReadImage],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    batch_size: int,
    reliability: Reliability | None,
) -> Generator[NDArray[np.float32] | BadImage, None, None]:
    """Yield the probabilities (classes,) of each image, or why it cannot be used."""
    calibrated = reliability is not None
    with closing(outputs(reads, model, processor, batch_size=batch_size, with_features=calibrated)) as results:
        for result in results:
            yield result if isinstance(result, BadImage) else _answered(result, reliability)


def _answered(output: Output, reliability: Reliability | None) -> NDArray[np.float32]:
    """Probabilities (classes,) of one image, as the answer has them."""
    if reliability is None or output.features is None:
        return output.probabilities
    return reliability.adjust(output.probabilities, output.features)[0].astype(np.float32)


def class_names(model: PreTrainedModel) -> tuple[str, ...]:
    """Return the classes of a model: ours in our order, or those of its own."""
    names = tuple(model.config.id2label[label] for label in sorted(model.config.id2label))
    return taxonomy.NAMES if set(names) == set(taxonomy.NAMES) else names


def columns_of(model: PreTrainedModel, names: Sequence[str] = taxonomy.NAMES) -> list[int]:
    """Column of each class in the model's output. Raises `CelluScanError` if its classes are others than `names`."""
    labels: Mapping[int, str] = model.config.id2label
    column_of = {name: int(number) for number, name in labels.items()}
    missing = [name for name in names if name not in column_of]
    extra = [name for name in column_of if name not in names]
    if missing or len(labels) != len(names):
        raise CelluScanError(
            f"expected a model with the {len(names)} classes of CelluScan, got one that "
            f"lacks {_few(missing)} and has {_few(extra)} in addition; "
            "train one on a dataset of this project, or set id2label in its config.json; one that was adapted to "
            "classes of its own is evaluated on folders of these: --source imagefolder=FOLDER"
        )
    return [column_of[name] for name in names]


def _checked(cells: Sequence[Cell], values: NDArray[np.float32], names: tuple[str, ...]) -> Predictions:
    if np.abs(values.sum(axis=1) - 1).max() > _ROUNDING:
        raise CelluScanError(
            "the model scores each class independently, without probabilities that add up to one; "
            "expected one that was trained to choose one class for each image"
        )
    facts = {name: [getattr(cell, name) for cell in cells] for name in FACTS}
    return Predictions(facts, np.array([cell.label for cell in cells], np.int64), values, names)


def _few(names: list[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return (", ".join(names[:shown]) or "none") + more
