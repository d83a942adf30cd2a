"""Prediction of millions of images on a Ray cluster (`celluscan predict … --ray`), as a folder of parquet files.

The folder holds

- `part-00000.parquet`, …: the rows of `predict` of one shard of the plan, in its order, written atomically;
- `plan.arrow`: which images each shard covers (`prediction_plan`), and `job.json`: model, settings and inputs;
- `manifest.json`, written last: its presence says that each image has exactly one row, which was checked.

Ray Data (https://docs.ray.io/en/latest/data/data.html) gives shards to actors that hold the model, and restarts what
dies. A job that was stopped goes on with the shards that are missing.
"""

import hashlib
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from transformers import BaseImageProcessor, PreTrainedModel

from ..atomic_io import atomic_write, remove_partial_files
from ..dataset.workspace import write_text
from ..errors import CelluScanError
from ..modeling.reliability_celluscan import COVERAGE, Reliability
from ..ray_workers import SOFTWARE, Conditions, RayWorkers, require
from ..versions import versions
from ..workers import progress
from .loading import load_classifier, load_reliability
from .predict import FIELDS, Row, Summary, check_numbers, place, predict_rows
from .prediction_plan import Plan, possible_names, read_places, write_plan

VERSION = 1  # of the files beside the rows
SHARD_IMAGES = 2048
MANIFEST, JOB, PLAN = "manifest.json", "job.json", "plan.arrow"
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
_log = logging.getLogger(__name__)


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


@dataclass(frozen=True)
class ShardReport:
    """What a written shard holds; `problem` says how it differs from the plan, if so."""

    shard: int
    rows: int
    errors: Counter[str]
    first_error: str
    problem: str


def part_path(folder: Path, shard: int) -> Path:
    """Return the file of a shard."""
    return folder / f"part-{shard:05d}.parquet"


def predict_on_ray(
    images: Sequence[str | Path],
    model: str | Path,
    output: Path,
    address: str,
    *,
    settings: Settings | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    lists: Sequence[str] = (),
    cores: int | None = None,
) -> Summary:
    """Write one row per image into the folder `output`; a stopped job is continued, a finished one left unchanged.

    Args:
        images: As for `predict.predict`; also folders of built datasets, whose originals are taken.
        address: Of the Ray cluster, or `"auto"`; see `ray_workers.connected`.
        device: `"cpu"` or `"cuda"`; None for GPUs if the cluster has any.
        cores: Cores of an actor; None for one, or for a GPU's share of the cores of its node.
        lists: Text files with the path of an image a line, `-` for standard input.

    Raises:
        CelluScanError: The images, the model, the cluster or the output cannot be used, the output was begun with
            another model, settings or images, or none of the images could be read.
    """
    settings = settings or Settings()
    name = os.path.abspath(model) if Path(model).exists() else str(model)
    chosen = Model(name, settings.views, trust_remote_code, device)
    if device not in (None, "cpu", "cuda"):
        raise CelluScanError(f"--device {device}: with --ray expected cpu or cuda; Ray says which GPU an actor takes")
    with _locked(output):
        inputs = [Path(name) for name in images if str(name) and Path(name).exists()]
        with RayWorkers(address, output, inputs) as workers:
            digest = model_digest(*chosen.load())
            job, plan = _begin(images, lists, settings, digest, output)
            if (output / MANIFEST).exists():
                _log.info("%s is complete; nothing was changed", output)
            else:
                started = time.perf_counter()
                _predict_missing(plan, Task(output, chosen, digest, settings, 0, workers.conditions), cores)
                reports = _verified(plan, output, workers)
                remove_partial_files(output)  # of killed actors
                _write_manifest(output, {"model": str(model)} | job, plan, reports, time.perf_counter() - started)
    return _summary(json.loads((output / MANIFEST).read_text("utf-8")))


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Create the folder, or check that it is one of ours, and let no second job write to it."""
    if output.exists() and not output.is_dir():
        raise CelluScanError(f"{output} is a file; with --ray, --output is a folder")
    if output.is_dir() and any(output.iterdir()) and not (output / JOB).exists():
        raise CelluScanError(f"{output} is not empty, and not a prediction that was begun here; choose a new --output")
    output.mkdir(parents=True, exist_ok=True)
    lock = FileLock(output.with_name(f"{output.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise CelluScanError(f"another prediction into {output} is running; wait for it, or choose another") from None
    try:
        yield
    finally:
        lock.release()


def _begin(
    images: Sequence[str | Path], lists: Sequence[str], settings: Settings, model: str, output: Path
) -> tuple[dict[str, Any], Plan]:
    """Write the plan and the description of the job; if it was begun before, both must be the same."""
    with progress("planning", None, "image") as advance:
        plan = write_plan(output / f".{PLAN}", images, lists, settings.shard_size)
        advance(plan.images)
    try:
        job = {"version": VERSION, "model_digest": model, "settings": asdict(settings), "inputs": plan.digest}
        job["software"] = versions(SOFTWARE)
        if (output / JOB).exists():
            _check_same(json.loads((output / JOB).read_text("utf-8")), job, output)
        plan.path.replace(output / PLAN)
        write_text(output / JOB, json.dumps(job, indent=1) + "\n")
    finally:
        plan.path.unlink(missing_ok=True)
    return job, replace(plan, path=output / PLAN)


def _check_same(before: dict[str, Any], job: dict[str, Any], output: Path) -> None:
    rest = "use another --output, or delete the folder"
    for name, old in before["settings"].items():
        if job["settings"].get(name) != old:
            raise CelluScanError(f"{output} was begun with {name}={old}, not {job['settings'].get(name)}; {rest}")
    for name, what in (
        ("version", "version of this format"),
        ("model_digest", "model"),
        ("inputs", "images (other files, or files written to since)"),
        ("software", "software versions"),
    ):
        if before[name] != job[name]:
            raise CelluScanError(f"{output} was begun with another {what}; {rest}")


def _predict_missing(plan: Plan, task: Task, cores: int | None) -> None:
    """Predict the shards that have no file yet."""
    import ray

    written = [shard for shard in range(plan.shards) if part_path(task.folder, shard).exists()]
    missing = sorted(set(range(plan.shards)) - set(written))
    if not missing:
        return
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    gpus, cores, actors = _actors(task.model.device, cores)
    task = replace(task, readers=cores if gpus else cores - 1)  # on a CPU, one core runs the model
    shards = ray.data.from_items([{"shard": shard} for shard in missing], override_num_blocks=len(missing))
    results = shards.map_batches(
        ShardPredictor,
        fn_constructor_args=(task,),
        batch_size=1,
        num_cpus=cores,
        num_gpus=gpus,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=None, initial_size=min(actors, len(missing))),
    )
    with progress("predicting", plan.images, "image") as advance:
        advance(sum(pq.read_metadata(part_path(task.folder, shard)).num_rows for shard in written))
        for result in results.iter_rows():
            if result["failure"]:
                raise CelluScanError(result["failure"])
            advance(result["images"])


def _actors(device: str | None, cores: int | None) -> tuple[int, int, int]:
    """Return the GPUs and cores of an actor, and how many actors the cluster has room for now."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1] if device != "cpu" else []
    if device == "cuda" and not with_gpu:
        raise CelluScanError("--device cuda: no node of the Ray cluster has a GPU; leave it out, or give cpu")
    if with_gpu:
        share = min(int(node.get("CPU", 0) // node["GPU"]) for node in with_gpu)
        return 1, cores or max(1, share), int(sum(node["GPU"] for node in with_gpu))
    cores = cores or 1
    return 0, cores, max(1, sum(int(node.get("CPU", 0) // cores) for node in nodes))


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


@dataclass(frozen=True)
class Check:
    """A task: compare the file of a shard with the plan."""

    folder: Path
    shard: int


def check_shard(check: Check) -> ShardReport:
    """Read a shard back, and compare the number and names of its rows with the images that it covers."""
    path = part_path(check.folder, check.shard)
    table = pq.read_table(path, columns=["image", "error"])
    names = table["image"].to_pylist()
    expected = list(chain.from_iterable(map(possible_names, read_places(check.folder / PLAN, check.shard))))
    problem = ""
    if len(names) != len(expected):
        problem = f"{path} has {len(names)} rows for {len(expected)} images"
    else:
        pairs = enumerate(zip(names, expected, strict=True))
        wrong = next((row for row, (name, known) in pairs if known is not None and name not in known), None)
        if wrong is not None:
            problem = f"{path}, row {wrong} is of {names[wrong]}, expected {' or '.join(sorted(expected[wrong] or ()))}"
    failed = [(name, error) for name, error in zip(names, table["error"].to_pylist(), strict=True) if error]
    reasons = Counter(error.partition(" (")[0] for _, error in failed)
    first = f"{failed[0][0]}: {failed[0][1]}" if failed else ""
    return ShardReport(check.shard, len(names), reasons, first, problem)


def _verified(plan: Plan, output: Path, workers: RayWorkers) -> list[ShardReport]:
    """Check that each image of the plan has one row. Raises a `CelluScanError`, and removes what is wrong, if not."""
    with progress("checking", plan.shards, "file") as advance:
        reports = []
        for report in workers.run(check_shard, (Check(output, shard) for shard in range(plan.shards))):
            reports.append(report)
            advance(1)
    wrong = [report for report in reports if report.problem]
    for report in wrong:
        part_path(output, report.shard).unlink()
    if wrong:
        raise CelluScanError(
            f"{wrong[0].problem}; {len(wrong)} such files were removed, run the same command again to write them"
        )
    rows = sum(report.rows for report in reports)
    if rows != plan.images or len(reports) != plan.shards:
        raise CelluScanError(f"{output} has {rows} rows for {plan.images} images; delete it and start again")
    return sorted(reports, key=lambda report: report.shard)


def _write_manifest(
    output: Path, job: dict[str, Any], plan: Plan, reports: Sequence[ShardReport], seconds: float
) -> None:
    errors: Counter[str] = sum((report.errors for report in reports), Counter())
    manifest = job | {
        "images": plan.images,
        "skipped": dict(plan.skipped.most_common()),
        "repeated": plan.repeated,
        "errors": dict(errors.most_common()),
        "first_error": next((report.first_error for report in reports if report.first_error), ""),
        "seconds_of_last_run": round(seconds, 3),
        "shards": [
            {"file": part_path(output, report.shard).name, "rows": report.rows, "errors": report.errors.total()}
            for report in reports
        ],
    }
    write_text(output / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _summary(manifest: dict[str, Any]) -> Summary:
    """Return the summary of a complete prediction. Raises a `CelluScanError` if no image could be used."""
    unusable = sum(manifest["errors"].values())
    if unusable == manifest["images"]:
        raise CelluScanError(f"no image could be used, of {unusable}; the first, {manifest['first_error']}")
    skipped = Counter(manifest["skipped"])
    return Summary(manifest["images"], unusable, manifest["seconds_of_last_run"], skipped, manifest["repeated"])
