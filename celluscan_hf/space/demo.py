"""Serve the demo page of one model: locally (`celluscan demo`), or in a Space."""

import atexit
import json
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path

import gradio as gr
import numpy as np
from huggingface_hub import snapshot_download

from ..bundled_model import default_model
from ..errors import CelluScanError
from ..evaluation.folder import EXAMPLES, IMAGES
from ..inference.loading import trained_on
from ..sources import READERS, SYNTHETIC
from ..sources.drawing import draw_cell
from .page import build_page, serve
from .recogniser import Recogniser

_DRAWN = ("Segmented Neutrophil", "Eosinophil", "Lymphocyte", "Monocyte")
_SEED, _SIDE = 1, 256  # pixels


def run(model: str, evaluation: Path | None, host: str, port: int | None, views: int | None = None) -> None:
    """Serve the page of a model until interrupted; see `page_of`.

    Raises:
        CelluScanError: The model or the examples cannot be used, or the port is taken.
    """
    page = page_of(model, evaluation=evaluation, views=views)
    try:
        _, address, _ = serve(page, host, port, quiet=True, prevent_thread_lock=True)
        print(f"Ctrl-C stops the page, which is at {address.rstrip('/')}", flush=True)
        page.block_thread()
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

    Examples come from an evaluation, else from the Hub repository; for a local model without an evaluation they are
    synthetic. The page names `dataset`, a Hub id, and the sources of the training. `views` are mirrored copies of an
    image that are averaged over; None for those of the model.
    """
    recogniser = Recogniser(model, revision, views)
    if evaluation:
        shown = examples(evaluation)
    else:
        shown = synthetic_examples() if Path(model).is_dir() else published_examples(model, revision)
    sources = trained_on(model, revision).get("sources", [])
    commit = getattr(recogniser.model.config, "_commit_hash", None)
    return build_page(recogniser, shown, _links(model, commit, dataset, sources), sources == [SYNTHETIC])


def _links(model: str, commit: str | None, dataset: str | None, sources: Sequence[str]) -> str:
    """Return HTML that names the model, its dataset, and the authors' datasets in it with their licences."""
    link = "<a href='{}'>{}</a>".format
    at = f" at <code>{escape(commit[:12])}</code>" if commit else ""
    hub = f"https://huggingface.co/{escape(model)}"
    named = f"<code>{escape(Path(model).name)}</code>" if Path(model).is_dir() else link(hub, escape(model)) + at
    parts = [f"Model: {named}"]
    if dataset:
        parts.append(f"Data: {link(f'https://huggingface.co/datasets/{escape(dataset)}', escape(dataset))}")
    published = [READERS[source].info for source in sources if source in READERS and READERS[source].info.url]
    if published:
        origins = (f"{link(escape(info.url), escape(info.title))} ({escape(info.license)})" for info in published)
        parts.append(f"Trained on images of {', '.join(origins)}")
    return " · ".join(parts)


def synthetic_examples() -> list[tuple[Path, str]]:
    """Draw a few cells, for who has none at hand; real ones look different."""
    scratch = tempfile.TemporaryDirectory(prefix="celluscan-")
    atexit.register(scratch.cleanup)
    folder = Path(scratch.name)
    shown = [(folder / f"{name}.png", f"{name} (synthetic)") for name in _DRAWN]
    for (file, _), name in zip(shown, _DRAWN, strict=True):
        draw_cell(name, np.random.default_rng(_SEED), _SIDE).save(file)
    return shown


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
