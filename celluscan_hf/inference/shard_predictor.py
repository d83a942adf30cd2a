"""The actor of a prediction on Ray: it holds the model, and writes the rows of one shard after another."""

import hashlib
import json
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import BaseImageProcessor, PreTrainedModel

from ..atomic_io import atomic_write
from ..errors import CelluScanError
from ..modeling.reliability_celluscan import COVERAGE, Reliability
from ..ray_workers import Conditions, require
from .loading import load_classifier, load_reliability
from .predict import FIELDS, Row, check_numbers, place, predict_rows
from .prediction_plan import PLAN, read_places
from .prediction_shards import part_path

SHARD_IMAGES = 2048
_TYPES = {
    "score": pa.float64(),
    "stage": pa.int8(),
    "abnormal_in_blood": pa.bool_(),
    "top": pa.list_(pa.struct({"label": pa.string(), "score": pa.float64()})),
    "abnormal": pa.float64(),
    "set": pa.list_(pa.string()),
    "abstain": pa.bool_(),
    "ood_score": pa.float64(),
}
SCHEMA = pa.schema({name: _TYPES.get(name, pa.string()) for name in FIELDS})
_ROW_GROUP = 512  # rows in memory while a shard is written


@dataclass(frozen=True)
class Settings:
    """What decides the rows besides the model and the images; see `predict.predict`."""

    top_k: int = 3
    batch_size: int = 64
    coverage: float = COVERAGE
    views: int | None = None
    shard_size: int = SHARD_IMAGES

    def __post_init__(self) -> None:
        check_numbers(self.coverage, top_k=self.top_k, batch_size=self.batch_size, shard_size=self.shard_size)


@dataclass(frozen=True)
class Model:
    """A model by its name, and how it is loaded."""

    name: str
    views: int | None
    trust_remote_code: bool
    device: str | None

    def load(self) -> tuple[PreTrainedModel, BaseImageProcessor, Reliability | None]:
        model, processor = load_classifier(self.name, self.trust_remote_code, views=self.views)
        return model, processor, load_reliability(model)


@dataclass(frozen=True)
class Task:
    """What an actor needs to know: `digest` is that of the model, `readers` as in `prediction.outputs`."""

    folder: Path
    model: Model
    digest: str
    settings: Settings
    readers: int
    conditions: Conditions


class ShardPredictor:
    """The actor: it loads the model once, and writes the file of one shard after another."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.failure = ""  # told to the driver, since an actor that cannot start is started again and again
        try:
            require(task.conditions)
            self.model, self.processor, self.reliability = task.model.load()
            if model_digest(self.model, self.processor, self.reliability) != task.digest:
                raise CelluScanError(f"{task.model.name} on a node differs from that of this machine; share its folder")
            place(self.model, task.model.device)
        except CelluScanError as error:
            self.failure = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Write the shards of a batch; returns the number of images, or a failure that ends the job, for each."""
        images, failures = [], []
        for shard in batch["shard"].tolist():
            try:
                images.append(0 if self.failure else self._write(shard))
                failures.append(self.failure)
            except (CelluScanError, OSError) as error:
                images.append(0)
                failures.append(str(error))
        return {"images": np.array(images), "failure": np.array(failures, object)}

    def _write(self, shard: int) -> int:
        task, settings = self.task, self.task.settings
        images = chain.from_iterable(entry.images() for entry in read_places(task.folder / PLAN, shard))
        rows = predict_rows(
            images,
            self.model,
            self.processor,
            self.reliability,
            settings.batch_size,
            min(settings.top_k, self.model.config.num_labels),
            settings.coverage,
            task.readers,
        )
        with closing(rows):
            return write_rows(rows, part_path(task.folder, shard))


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Write the rows of a shard, atomically, and return their number."""
    count = 0
    with atomic_write(path) as partial, pq.ParquetWriter(partial, SCHEMA, compression="zstd") as writer:
        rows = iter(rows)
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, SCHEMA))
            count += len(group)
    return count


def model_digest(model: PreTrainedModel, processor: BaseImageProcessor, reliability: Reliability | None) -> str:
    """Compute a digest of a model's weights, config and calibration, and of how its images are prepared."""
    digest = hashlib.sha256(f"{model.config.to_json_string()}{processor.to_json_string()}".encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    if reliability is not None:
        digest.update(json.dumps(reliability.record, sort_keys=True).encode() + reliability.scores.tobytes())
    return digest.hexdigest()
