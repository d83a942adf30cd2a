"""Load a folder or a repository with public packages only: a program that `verification` runs.

It runs by path in its own process, in which `celluscan_hf` cannot be imported. Its argument is the plan, a JSON file
that names the file for the result. Failures are reported by the exit status and the last line of standard error.
"""

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

_OURS = "celluscan_hf"


class _WithoutOurs(MetaPathFinder):
    """Import hook that hides the package of this project."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] == _OURS:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def check_model(plan: dict[str, Any]) -> dict[str, Any]:
    """Run AutoModel, AutoImageProcessor and a pipeline on the image of the plan."""
    from PIL import Image
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    options = {"revision": plan["revision"], "trust_remote_code": plan["trust_remote_code"]}
    model = AutoModelForImageClassification.from_pretrained(plan["name"], **options).eval()
    processor = AutoImageProcessor.from_pretrained(plan["name"], **options)
    expected = load_file(plan["expected"])
    with Image.open(plan["image"]) as image:
        pixel_values = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
    logits = model(pixel_values=expected["pixel_values"]).logits
    predictions = pipeline("image-classification", model=plan["name"], **options)(plan["image"], top_k=3)
    return {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "logits_differ_by": float((logits - expected["logits"]).abs().max()),
        "pixel_values_differ_by": float((pixel_values - expected["pixel_values"][:1]).abs().max()),
        "pipeline": predictions,
    }


def check_dataset(plan: dict[str, Any]) -> dict[str, Any]:
    """Load every config: number of rows and first decoded row of each split, streamed and downloaded."""
    from datasets import get_dataset_config_names, load_dataset

    configs: dict[str, Any] = {}
    for config in get_dataset_config_names(plan["name"], revision=plan["revision"]):
        streamed = load_dataset(plan["name"], config, revision=plan["revision"], streaming=True)
        configs[config] = {"streamed": {split: _describe(next(iter(rows))) for split, rows in streamed.items()}}
        if plan["download"]:
            loaded = load_dataset(plan["name"], config, revision=plan["revision"])
            configs[config]["rows"] = {split: len(rows) for split, rows in loaded.items()}
            configs[config]["loaded"] = {split: _describe(rows[0]) for split, rows in loaded.items()}
            loaded.cleanup_cache_files()
    return configs


def _describe(row: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": row["image_id"], "label": row["label"], "size": row["image"].convert("RGB").size}


def check_metric(plan: dict[str, Any]) -> dict[str, Any]:
    """Compute the metric for the predictions of the plan."""
    import evaluate

    metric = evaluate.load(plan["name"], revision=plan["revision"])
    return {"accuracy": metric.compute(**plan["inputs"])["accuracy"]}


def check_space(plan: dict[str, Any]) -> dict[str, Any]:
    """Start the app of the folder and send it the image of the plan; the package must be the copy in the folder."""
    from gradio_client import Client, handle_file
    from huggingface_hub import snapshot_download

    folder = plan["name"]
    if plan["revision"]:
        folder = snapshot_download(plan["name"], repo_type="space", revision=plan["revision"])
    sys.path.insert(0, folder)
    import celluscan_hf

    if not Path(celluscan_hf.__file__).parents[1].samefile(folder):
        raise ImportError(f"the app imports {_OURS} from outside its folder")
    import app  # type: ignore[import-not-found]

    _, address, _ = app.serve(app.page, "127.0.0.1", None, prevent_thread_lock=True, quiet=True)
    answer = Client(address, verbose=False).predict(handle_file(plan["image"]), api_name="/recognise")
    app.page.close()
    return dict(answer)


CHECKS = {"model": check_model, "dataset": check_dataset, "metric": check_metric, "space": check_space}


if __name__ == "__main__":
    plan = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    if plan["check"] != "space":  # a Space contains the package
        sys.meta_path.insert(0, _WithoutOurs())
    result = CHECKS[plan["check"]](plan)
    Path(plan["result"]).write_text(json.dumps(result), "utf-8")
