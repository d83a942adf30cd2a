"""External sources: the model on cells of other laboratories, each source by itself, beside the split of a data set.

On images of another laboratory a classifier of cells does worse than on a split of the sources it was trained on, so
the figure of the split alone would promise too much.
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
from ..dataset.workers import progress
from ..errors import CelluScanError
from ..sources import READERS, Dropped, Source, open_sources
from .cells import CONFIG, SAID, Cells, load_cells
from .measure import measure_place
from .predictions import Predictions, predict

OPTION = "--external"


@dataclass(frozen=True)
class ExternalResults:
    """What was found on external sources.

    - `figures`: {source name: figures}, as `metrics.json` has them under `external`.
    - `predictions`: of each source, in the order of their names; `dropped`: the files of all that were left out.
    """

    figures: dict[str, dict[str, Any]]
    predictions: list[Predictions]
    dropped: list[Dropped]


def cells_elsewhere(specs: Sequence[str], dataset: str, scratch: Path) -> dict[str, Cells]:
    """The cells of each external source, given as `KEY=PATH`, in the order of their names.

    Files that the built data set `dataset` holds are left out. `scratch` takes decompressed copies of compressed tars.

    Raises:
        CelluScanError: A source cannot be read, two share a name, or one is a source of the data set.
    """
    if not specs:
        return {}
    sources = open_sources(specs, scratch, seed=0, licenses={}, option=OPTION)
    data = open_dataset(dataset)
    for source in sources:
        _check_foreign(source, data)
    known = _files_of(data)
    return {source.name: load_cells([source], known) for source in sources}


def _check_foreign(source: Source, data: CellDataset) -> None:
    """Raise a `CelluScanError` where cells of the source are in the data set by what the two are called."""
    inside = data.sources
    if source.name in inside:
        raise CelluScanError(
            f"{OPTION} {source.name}: {data.name} was built from a source of that name, so its cells are not external; "
            "leave it out, or where it is another folder give it a name of its own: "
            f"{OPTION} imagefolder:NAME=DIR"
        )
    made_of_it = [key for key, reader in READERS.items() if reader.info.derived_from == source.name and key in inside]
    if made_of_it:
        raise CelluScanError(
            f"{OPTION} {source.name}: {data.name} was built from {made_of_it[0]}, whose images are made of its cells; "
            "leave it out"
        )
    if source.info.derived_from in inside:
        raise CelluScanError(
            f"{OPTION} {source.name}: its images are made from {source.info.derived_from}, a source of {data.name}, so "
            "they are not external; leave it out"
        )


def _files_of(data: CellDataset) -> frozenset[str]:
    """The SHA-256 of the publishers' files of all originals of a data set."""
    files = [file for split in SPLITS for file in data.checked_files(CONFIG, split)]
    return frozenset(
        digest for file in files for digest in pq.read_table(file, columns=["sha256"])["sha256"].to_pylist()
    )


def judged_elsewhere(
    cells: Mapping[str, Cells],
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    *,
    dataset: str,
    batch_size: int,
    resamples: int,
) -> ExternalResults:
    """Predict and measure each source of `cells_elsewhere`. Raises `CelluScanError` where one has no usable cell.

    A class that no train cell of the built data set `dataset` has counts as not learned.
    """
    result = ExternalResults({}, [], [])
    learned = set(open_dataset(dataset).split(CONFIG, SPLITS[0])["label"]) if cells else set()
    for name, of_source in cells.items():
        try:
            with progress(f"predicting {name}", len(of_source.kept), "cell") as advance:
                found, bad = predict(of_source, model, processor, batch_size=batch_size, advance=advance)
        except CelluScanError as error:
            raise CelluScanError(f"{OPTION} {name}: {error}") from error
        dropped = [*of_source.dropped, *bad]
        said = of_source.described["sources"][name]
        result.figures[name] = measure_place(found, resamples, learned) | {
            **{key: said[key] for key in SAID},
            "fingerprint": of_source.described["fingerprint"],
            "dropped": dict(Counter(item.reason for item in dropped)),
        }
        result.predictions.append(found)
        result.dropped.extend(dropped)
    return result
