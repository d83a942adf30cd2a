"""What a user with public packages alone sees of a folder or a repository: a program, run by `verification`.

It is started by path in a process of its own, in which `celluscan_hf` cannot be imported. The plan, a JSON file, comes
as its argument; what was found goes to the file the plan names. Whatever fails is told by its exit status and its
last line.
"""

import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

_OURS = "celluscan_hf"


class _WithoutOurs(MetaPathFinder):
    """Makes the package of this project look as if it were not installed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.partition(".")[0] == _OURS:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


def check_model(plan: dict[str, Any]) -> dict[str, Any]:
    """AutoModel, AutoImageProcessor and pipeline on the image of the plan."""
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
    found = pipeline("image-classification", model=plan["name"], **options)(plan["image"], top_k=3)
    return {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "logits_differ_by": float((logits - expected["logits"]).abs().max()),
        "pixel_values_differ_by": float((pixel_values - expected["pixel_values"][:1]).abs().max()),
        "pipeline": found,
    }


def check_dataset(plan: dict[str, Any]) -> dict[str, Any]:
    """Every config: the number of rows of each split, and the first row of each, decoded, streamed and not."""
    from datasets import get_dataset_config_names, load_dataset

    found: dict[str, Any] = {}
    for config in get_dataset_config_names(plan["name"], revision=plan["revision"]):
        streamed = load_dataset(plan["name"], config, revision=plan["revision"], streaming=True)
        found[config] = {"streamed": {split: _described(next(iter(rows))) for split, rows in streamed.items()}}
        if plan["whole"]:
            loaded = load_dataset(plan["name"], config, revision=plan["revision"])
            found[config]["rows"] = {split: len(rows) for split, rows in loaded.items()}
            found[config]["loaded"] = {split: _described(rows[0]) for split, rows in loaded.items()}
            loaded.cleanup_cache_files()
    return found


def _described(row: dict[str, Any]) -> dict[str, Any]:
    return {"image_id": row["image_id"], "label": row["label"], "size": row["image"].convert("RGB").size}


def check_metric(plan: dict[str, Any]) -> dict[str, Any]:
    """The figures of the metric for the answers of the plan."""
    import evaluate

    metric = evaluate.load(plan["name"], revision=plan["revision"])
    return {"accuracy": metric.compute(**plan["inputs"])["accuracy"]}


def check_space(plan: dict[str, Any]) -> dict[str, Any]:
    """The app of the folder, asked about the image of the plan; the package it uses is the one that lies in it."""
    from gradio_client import Client, handle_file
    from huggingface_hub import snapshot_download

    folder = plan["name"]
    if plan["revision"]:
        folder = snapshot_download(plan["name"], repo_type="space", revision=plan["revision"])
    sys.path.insert(0, folder)
    import celluscan_hf

    if not Path(celluscan_hf.__file__).parents[1].samefile(folder):
        raise ImportError(f"the app imports {_OURS} from elsewhere")
    import app  # type: ignore[import-not-found]

    _, address, _ = app.serve(app.page, "127.0.0.1", None, prevent_thread_lock=True, quiet=True)
    found = Client(address, verbose=False).predict(handle_file(plan["image"]), api_name="/recognise")
    app.page.close()
    return dict(found)


CHECKS = {"model": check_model, "dataset": check_dataset, "metric": check_metric, "space": check_space}


if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    if wanted["check"] != "space":  # which brings the package
        sys.meta_path.insert(0, _WithoutOurs())
    outcome = CHECKS[wanted["check"]](wanted)
    Path(wanted["found"]).write_text(json.dumps(outcome), "utf-8")
