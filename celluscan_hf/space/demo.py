"""Serve the demo page of one model: locally (`celluscan demo`), or in a Space."""

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from huggingface_hub import snapshot_download
from transformers.utils.hub import cached_file

from ..errors import CelluScanError
from ..evaluation.folder import EXAMPLES, IMAGES
from ..models import default_model
from ..sources import SYNTHETIC
from ..training.record import ASKED
from .page import build_page, serve
from .recogniser import Recogniser


def run(model: str, evaluation: Path | None, host: str, port: int | None, views: int | None = None) -> None:
    """Serve the page of a model until interrupted; see `page_of`.

    Raises:
        CelluScanError: The model or the examples cannot be used, or the port is taken.
    """
    page = page_of(model, evaluation=evaluation, views=views)
    try:
        serve(page, host, port)
    except OSError as error:
        raise CelluScanError(f"--port {port}: {error}; give another port, or none") from error


def page_of(
    model: str = default_model(),
    *,
    evaluation: Path | None = None,
    revision: str | None = None,
    dataset: str | None = None,
    views: int | None = None,
) -> gr.Blocks:
    """Build the page of a model: that of the package, a local folder, or a Hub repository at a revision.

    Examples come from an evaluation, else from the Hub repository. The page names `dataset`, a Hub
    id. `views` are mirrored copies of an image that are averaged over; None for those of the model.
    """
    recogniser = Recogniser(model, revision, views)
    shown = examples(evaluation) if evaluation else [] if Path(model).is_dir() else published_examples(model, revision)
    commit = getattr(recogniser.model.config, "_commit_hash", None)
    return build_page(recogniser, shown, _links(model, commit, dataset), _synthetic_only(model, revision))


def _synthetic_only(model: str, revision: str | None) -> bool:
    """Whether a model was trained on synthetic cells only, according to its training record, if any."""
    record = cached_file(model, ASKED, revision=revision, _raise_exceptions_for_missing_entries=False)
    if record is None:
        return False
    settings: dict[str, Any] = json.loads(Path(record).read_text("utf-8"))
    return bool(settings["data"].get("sources") == [SYNTHETIC])


def _links(model: str, commit: str | None, dataset: str | None) -> str:
    """Return HTML that names the model and its dataset."""
    if Path(model).is_dir():
        return f"Model: <code>{escape(Path(model).name)}</code>"
    at = f" at <code>{escape(commit[:12])}</code>" if commit else ""
    model_link = f"Model: <a href='https://huggingface.co/{escape(model)}'>{escape(model)}</a>{at}"
    dataset_link = (
        f" · Data: <a href='https://huggingface.co/datasets/{escape(dataset)}'>{escape(dataset)}</a>" if dataset else ""
    )
    return model_link + dataset_link


def published_examples(model: str, revision: str | None) -> list[tuple[Path, str]]:
    """Download the example images in a model's Hub repository; empty if it has none."""
    folder = Path(snapshot_download(model, revision=revision, allow_patterns=[EXAMPLES, f"{IMAGES}/*"]))
    return examples(folder) if (folder / EXAMPLES).is_file() else []


def examples(evaluation: Path) -> list[tuple[Path, str]]:
    """Return the example images of an evaluation with their classes."""
    try:
        records = json.loads((evaluation / EXAMPLES).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CelluScanError(f"{evaluation} has no {EXAMPLES}: expected a folder of celluscan evaluate") from error
    return [(evaluation / example["file"], example["class"]) for example in records]
