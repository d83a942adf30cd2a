"""External validation: the model on cells of other laboratories, each source separately, beside a dataset split.

A cell classifier does worse on images of another laboratory than on a split of the sources it was trained on, so
metrics of the split alone would be too optimistic.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from transformers import BaseImageProcessor, PreTrainedModel

from ..curation.splits import SPLITS
from ..dataset.reading import CellDataset, open_dataset
from ..errors import CelluScanError
from ..inference.target_statistics import adapted_copy
from ..modeling.reliability_celluscan import Reliability
from ..processes import ALONE, Processes
from ..sources import READERS, Dropped, Source, open_sources
from .cells import CONFIG, SOURCE_FACTS, Cells, load_cells
from .measure import measure_external
from .predictions import Predictions, predict, shown

OPTION = "--external"
ExternalPredictions = dict[str, tuple[Predictions, list[Dropped]]]  # of each source, with its unusable images


@dataclass(frozen=True)
class ExternalResults:
    """Results on external sources.

    - `metrics`: {source name: metrics}, `external` of `metrics.json`.
    - `predictions`: one for each source, in the order of their names; `dropped`: files left out, of all sources.
    """

    metrics: dict[str, dict[str, Any]]
    predictions: list[Predictions]
    dropped: list[Dropped]


def load_external_cells(specs: Sequence[str], dataset: str, scratch: Path) -> dict[str, Cells]:
    """Load the cells of each external source, given as `KEY=PATH`, in the order of their names.

    Files that the built dataset `dataset` holds are left out. `scratch` takes decompressed copies of compressed tars.

    Raises:
        CelluScanError: A source cannot be read, two share a name, or one is a source of the dataset.
    """
    if not specs:
        return {}
    sources = open_sources(specs, scratch, seed=0, licenses={}, option=OPTION)
    data = open_dataset(dataset)
    for source in sources:
        _check_external(source, data)
    dataset_files = file_digests(data)
    return {source.name: load_cells([source], dataset_files) for source in sources}


def _check_external(source: Source, data: CellDataset) -> None:
    """Raise a `CelluScanError` if, by its name, cells of the source are in the dataset."""
    inside = data.sources
    if source.name in inside:
        raise CelluScanError(
            f"{OPTION} {source.name}: {data.name} was built from a source of that name, so its cells are not external; "
            "leave it out, or if it is another folder give it another name: "
            f"{OPTION} imagefolder:NAME=DIR"
        )
    derived = [key for key, reader in READERS.items() if reader.info.derived_from == source.name and key in inside]
    if derived:
        raise CelluScanError(
            f"{OPTION} {source.name}: {data.name} was built from {derived[0]}, whose images are made from its cells; "
            "leave it out"
        )
    if source.info.derived_from in inside:
        raise CelluScanError(
            f"{OPTION} {source.name}: its images are made from {source.info.derived_from}, a source of {data.name}, so "
            "they are not external; leave it out"
        )


def file_digests(data: CellDataset) -> frozenset[str]:
    """SHA-256 of the publishers' files of all originals of a dataset."""
    files = [file for split in SPLITS for file in data.checked_files(CONFIG, split)]
    return frozenset(
        digest for file in files for digest in pq.read_table(file, columns=["sha256"])["sha256"].to_pylist()
    )


def predict_external(
    cells: Mapping[str, Cells],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    batch_size: int,
    reliability: Reliability | None = None,
    target_statistics: bool = False,
    processes: Processes = ALONE,
) -> ExternalPredictions:
    """Predict each source of `load_external_cells`. Raises `CelluScanError` if one has no usable cell.

    With the `reliability` of the model, probabilities are those of its answers, lower for images unlike the training's.
    With `target_statistics` each is predicted with the batch-norm statistics of its own images. `processes` as in
    `predictions.predict`.
    """
    predicted: ExternalPredictions = {}
    for name, of_source in cells.items():
        try:
            reads = [cell.read for cell in of_source.kept]
            used = adapted_copy(model, processor, reads, batch_size) if target_statistics else model
            with shown(f"predicting {name}", len(of_source.kept), processes) as advance:
                predicted[name] = predict(
                    of_source,
                    used,
                    processor,
                    batch_size=batch_size,
                    reliability=reliability,
                    advance=advance,
                    processes=processes,
                )
        except CelluScanError as error:
            if str(error).startswith(OPTION):  # named by the process that failed first
                raise
            raise CelluScanError(f"{OPTION} {name}: {error}") from error
    return predicted


def measure_externals(
    cells: Mapping[str, Cells],
    predicted: ExternalPredictions,
    *,
    dataset: str,
    resamples: int,
    reliability: Reliability | None = None,
    target_statistics: bool = False,
) -> ExternalResults:
    """Measure each source of `predict_external`, with the same arguments.

    A class without a train cell in the built dataset `dataset` counts as not learned.
    """
    results = ExternalResults({}, [], [])
    learned = set(open_dataset(dataset).split(CONFIG, SPLITS[0])["label"]) if cells else set()
    for name, of_source in cells.items():
        predictions, bad = predicted[name]
        dropped = [*of_source.dropped, *bad]
        facts = of_source.described["sources"][name]
        results.metrics[name] = measure_external(predictions, resamples, learned) | {
            **{key: facts[key] for key in SOURCE_FACTS},
            "fingerprint": of_source.described["fingerprint"],
            "target_statistics": target_statistics,
            "other_temperature": reliability.other_temperature if reliability else None,
            "dropped": dict(Counter(item.reason for item in dropped)),
        }
        results.predictions.append(predictions)
        results.dropped.extend(dropped)
    return results
