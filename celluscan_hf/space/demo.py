"""`celluscan demo`: the page for a model of one's own, on one's own machine."""

import json
from html import escape
from pathlib import Path

from ..errors import CelluScanError
from ..evaluation.folder import EXAMPLES
from .page import build_page, serve
from .recogniser import Recogniser


def run(model: str, evaluation: Path | None, host: str, port: int | None) -> None:
    """Serve the page until it is stopped.

    Raises:
        CelluScanError: The model or the examples cannot be used, or the port is taken.
    """
    recogniser = Recogniser(model)
    page = build_page(recogniser, examples(evaluation) if evaluation else [], f"Model: <code>{escape(model)}</code>")
    try:
        serve(page, host, port)
    except OSError as error:
        raise CelluScanError(f"--port {port}: {error}; give another, or none") from error


def examples(evaluation: Path) -> list[tuple[Path, str]]:
    """The example pictures of an evaluation with their classes."""
    try:
        listed = json.loads((evaluation / EXAMPLES).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CelluScanError(f"{evaluation} has no {EXAMPLES}: expected a folder of scripts/evaluate.py") from error
    return [(evaluation / example["file"], example["class"]) for example in listed]
