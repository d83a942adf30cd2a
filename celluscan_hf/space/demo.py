"""The page for one model: on one's own machine (`celluscan demo`), or in a Space."""

import json
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from huggingface_hub import snapshot_download
from transformers.utils.hub import cached_file

from ..errors import CelluScanError
from ..evaluation.folder import EXAMPLES, IMAGES
from ..sources import SYNTHETIC
from ..training.record import ASKED
from .page import build_page, serve
from .recogniser import Recogniser


def run(model: str, evaluation: Path | None, host: str, port: int | None) -> None:
    """Serve the page of a model until it is stopped.

    Raises:
        CelluScanError: The model or the examples cannot be used, or the port is taken.
    """
    page = page_of(model, evaluation=evaluation)
    try:
        serve(page, host, port)
    except OSError as error:
        raise CelluScanError(f"--port {port}: {error}; give another, or none") from error


def page_of(
    model: str, *, evaluation: Path | None = None, revision: str | None = None, dataset: str | None = None
) -> gr.Blocks:
    """The page of a model: a folder, or a repository of the Hub at a revision.

    Its examples are those of an evaluation, else those that a repository of the Hub brings along. `dataset`, a Hub id,
    is named on the page.
    """
    recogniser = Recogniser(model, revision)
    shown = examples(evaluation) if evaluation else [] if Path(model).is_dir() else published_examples(model, revision)
    commit = getattr(recogniser.model.config, "_commit_hash", None)
    return build_page(recogniser, shown, _links(model, commit, dataset), _drawn(model, revision))


def _drawn(model: str, revision: str | None) -> bool:
    """Whether a model has learned from drawn cells alone, by the record of its training, where it has one."""
    record = cached_file(model, ASKED, revision=revision, _raise_exceptions_for_missing_entries=False)
    if record is None:
        return False
    asked: dict[str, Any] = json.loads(Path(record).read_text("utf-8"))
    return bool(asked["data"].get("sources") == [SYNTHETIC])


def _links(model: str, commit: str | None, dataset: str | None) -> str:
    """HTML that names what the page stands on."""
    if Path(model).is_dir():
        return f"Model: <code>{escape(model)}</code>"
    at = f" at <code>{escape(commit[:12])}</code>" if commit else ""
    named = f"Model: <a href='https://huggingface.co/{escape(model)}'>{escape(model)}</a>{at}"
    data = (
        f" · Data: <a href='https://huggingface.co/datasets/{escape(dataset)}'>{escape(dataset)}</a>" if dataset else ""
    )
    return named + data


def published_examples(model: str, revision: str | None) -> list[tuple[Path, str]]:
    """The example pictures that a model of the Hub was published with; none where it has none."""
    folder = Path(snapshot_download(model, revision=revision, allow_patterns=[EXAMPLES, f"{IMAGES}/*"]))
    return examples(folder) if (folder / EXAMPLES).is_file() else []


def examples(evaluation: Path) -> list[tuple[Path, str]]:
    """The example pictures of an evaluation with their classes."""
    try:
        listed = json.loads((evaluation / EXAMPLES).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CelluScanError(f"{evaluation} has no {EXAMPLES}: expected a folder of scripts/evaluate.py") from error
    return [(evaluation / example["file"], example["class"]) for example in listed]
