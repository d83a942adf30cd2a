"""Prediction of millions of images on a Ray cluster (`celluscan predict … --ray`), as a folder of parquet files.

The folder holds

- `part-00000.parquet`, …: the rows of `predict` of one shard of the plan, in its order, written atomically;
- `plan.arrow`: which images each shard covers (`prediction_plan`), and `job.json`: model, settings and inputs;
- `manifest.json`, written last: its presence says that each image has exactly one row, which was checked.

Ray Data (https://docs.ray.io/en/latest/data/data.html) gives shards to actors that hold the model, and restarts what
dies. A job that was stopped goes on with the shards that are missing.
"""

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..atomic_io import remove_partial_files
from ..dataset.workspace import write_text
from ..errors import CelluScanError
from ..ray_workers import RETRIES, SOFTWARE, RayWorkers, task_errors
from ..versions import versions
from ..workers import progress
from .predict import Summary
from .prediction_plan import PLAN, Plan, write_plan
from .prediction_shards import Check, ShardReport, check_shard, part_path
from .shard_predictor import Model, Settings, ShardPredictor, Task, model_digest

VERSION = 1  # of the files beside the rows
MANIFEST, JOB = "manifest.json", "job.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RaySummary(Summary):
    """A summary; `predicted` counts the images of this run, `seconds` are those from listing to the manifest."""

    predicted: int = 0

    def rate(self) -> str:
        return f"{self.predicted} of them now, in {self.seconds:.0f} s"


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
) -> RaySummary:
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
    started, predicted = time.perf_counter(), 0
    with locked(output):
        inputs = [Path(name) for name in images if str(name) and Path(name).exists()]
        with RayWorkers(address, output, inputs) as workers:
            digest = model_digest(*chosen.load())
            job, plan = _begin(images, lists, settings, digest, output)
            if (output / MANIFEST).exists():
                _log.info("%s is complete; nothing was changed", output)
            else:
                task = Task(output, chosen, digest, settings, 0, workers.conditions)
                predicted = _predict_missing(plan, task, cores, workers)
                reports = _verified(plan, output, workers)
                remove_partial_files(output)  # of killed actors
                _write_manifest(output, {"model": str(model)} | job, plan, reports)
    return _summary(json.loads((output / MANIFEST).read_text("utf-8")), predicted, time.perf_counter() - started)


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Create the folder, or check that it is one of ours, and let no second job write to it."""
    if output.exists() and not output.is_dir():
        raise CelluScanError(f"{output} is a file; with --ray, --output is a folder")
    own = (".", PLAN)  # a job that was killed while it planned leaves temporary files and the plan
    others = [path for path in output.iterdir() if not path.name.startswith(own)] if output.is_dir() else []
    if others and not (output / JOB).exists():
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


def _predict_missing(plan: Plan, task: Task, cores: int | None, workers: RayWorkers) -> int:
    """Predict the shards that have no file yet; returns their number of images."""
    import ray

    written = [shard for shard in range(plan.shards) if part_path(task.folder, shard).exists()]
    missing = sorted(set(range(plan.shards)) - set(written))
    if not missing:
        return 0
    ray.data.DataContext.get_current().enable_progress_bars = False
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
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
    )
    # here, as Ray Data sets the level itself: it reports its plans, and that it shows no progress
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with progress("predicting", plan.images, "image") as advance:
        advance(sum(plan.images_of(shard) for shard in written))
        images = 0
        with task_errors():
            for result in results.iter_rows():
                workers.raise_interrupt()
                if result["failure"]:
                    raise CelluScanError(result["failure"])
                advance(result["images"])
                images += int(result["images"])
    return images


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


def _write_manifest(output: Path, job: dict[str, Any], plan: Plan, reports: Sequence[ShardReport]) -> None:
    errors: Counter[str] = sum((report.errors for report in reports), Counter())
    manifest = job | {
        "images": plan.images,
        "skipped": dict(plan.skipped.most_common()),
        "repeated": plan.repeated,
        "errors": dict(errors.most_common()),
        "first_error": next((report.first_error for report in reports if report.first_error), ""),
        "shards": [
            {"file": part_path(output, report.shard).name, "rows": report.rows, "errors": report.errors.total()}
            for report in reports
        ],
    }
    write_text(output / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _summary(manifest: dict[str, Any], predicted: int, seconds: float) -> RaySummary:
    """Return the summary of a complete prediction. Raises a `CelluScanError` if no image could be used."""
    unusable = sum(manifest["errors"].values())
    if unusable == manifest["images"]:
        raise CelluScanError(f"no image could be used, of {unusable}; the first, {manifest['first_error']}")
    skipped = Counter(manifest["skipped"])
    return RaySummary(manifest["images"], unusable, seconds, skipped, manifest["repeated"], predicted)
