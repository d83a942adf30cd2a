"""The demo page: one cell in detail, or several as a differential and a table; and the same answers as JSON.

Concurrent requests share one forward pass, through the batches of Gradio's queue.
"""

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..inference.predict import csv_cell
from ..modeling.reliability_celluscan import FACT_NAMES
from . import texts
from .recogniser import BATCH_SIZE, MAX_BYTES, Recogniser, Result

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from other servers
CSS = (Path(__file__).with_name("page.css")).read_text("utf-8")
MAX_FILES = 200  # images in one table
COLUMNS = ("file", "answer", "certainty", "score", *FACT_NAMES, "abnormal", "hint", "note")


def build_page(
    recogniser: Recogniser, examples: Sequence[tuple[Path, str]], links: str = "", synthetic_only: bool = False
) -> gr.Blocks:
    """Build the page.

    Args:
        recogniser: The model.
        examples: Clickable images with their classes.
        links: HTML that names model and dataset with their versions.
        synthetic_only: Warn that the model was trained on synthetic cells only.
    """
    with gr.Blocks(title="CelluScan", analytics_enabled=False) as page:
        gr.HTML(
            "<header><h1>CelluScan</h1><p>Which blood cell is this?</p></header>"
            f"{texts.NOTICE}{texts.SYNTHETIC_ONLY if synthetic_only else ''}"
        )
        with gr.Tab("One cell"):
            _one_cell(recogniser, examples)
        with gr.Tab("Several cells"):
            _several_cells(recogniser)
        gr.HTML(f"<footer>{links}</footer>")
        _api(recogniser)
    return page


def _file(payload: Any) -> str | None:
    """Pass an upload on as a file path: `recogniser` opens it within limits and reports errors."""
    return payload.path if payload else None


def _one_cell(recogniser: Recogniser, examples: Sequence[tuple[Path, str]]) -> None:
    def show(files: list[str | None]) -> tuple[list[str], list[Any], list[str]]:
        results = iter(recogniser.recognise([file for file in files if file], overlay=True))
        rows = [(texts.EMPTY, gr.update(visible=False), "") if not file else _outputs(next(results)) for file in files]
        cards, overlays, facts = map(list, zip(*rows, strict=True))
        return cards, overlays, facts

    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            image = gr.Image(sources=["upload", "clipboard", "webcam"], label="Image of one cell", type="filepath")
            image.preprocess = _file  # type: ignore[method-assign]
            if examples:
                gr.Examples(
                    [[str(file)] for file, _ in examples],
                    image,
                    label="Examples",
                    example_labels=[label for _, label in examples],
                    examples_per_page=len(examples),
                )
        with gr.Column(scale=3, min_width=300):
            card = gr.HTML(texts.EMPTY)
            overlay = gr.Image(
                label="Attention of the model",
                interactive=False,
                visible=False,
                format="png",
                alt_text="The cell as the model saw it, with its attention in warm colours",
            )
            facts = gr.HTML()
    image.change(show, image, [card, overlay, facts], batch=True, max_batch_size=BATCH_SIZE, api_visibility="private")


def _outputs(result: Result) -> tuple[str, Any, str]:
    answered = result.answer is not None and not result.doubt
    return texts.card(result), gr.update(value=result.overlay, visible=answered), texts.background(result)


def _several_cells(recogniser: Recogniser) -> None:
    folder = tempfile.TemporaryDirectory(prefix="celluscan-")  # removed with the page

    def tabulate(files: list[str] | None) -> tuple[str, str, Any]:
        if not files:
            return "", "", gr.update(visible=False)
        if len(files) > MAX_FILES:
            raise gr.Error(f"{len(files)} files: at most {MAX_FILES} at a time; celluscan predict takes any number")
        results = [
            result
            for start in range(0, len(files), BATCH_SIZE)
            for result in recogniser.recognise(files[start : start + BATCH_SIZE])
        ]
        path = _as_csv([record(result) for result in results], Path(folder.name))
        return texts.counts(results), texts.table(results), gr.update(value=path, visible=True)

    label = f"Up to {MAX_FILES} images of one cell each"
    files = gr.File(file_count="multiple", file_types=["image"], label=label, height=180)  # pixels; the rest scrolls
    counts, table = gr.HTML(), gr.HTML()
    download = gr.DownloadButton("Download as CSV", visible=False)
    files.change(tabulate, files, [counts, table, download], api_visibility="private")


def _api(recogniser: Recogniser) -> None:
    """Add `/recognise`, which takes a file and returns the record of one image."""

    def recognise(files: list[str]) -> list[list[dict[str, Any]]]:
        return [[record(result) for result in recogniser.recognise(files)]]

    request, response = gr.File(visible=False), gr.JSON(visible=False)
    gr.Button(visible=False).click(
        recognise,
        request,
        response,
        batch=True,
        max_batch_size=BATCH_SIZE,
        api_name="recognise",
        api_description="Classify the blood cell in an image: file, answer, certainty, score, facts, note, top.",
    )


def record(result: Result) -> dict[str, Any]:
    """Convert a result to a row: the fields of `COLUMNS`, `set` (prediction set) and `top` (all classes)."""
    empty = dict.fromkeys(COLUMNS) | {"file": result.name, "set": [], "top": []}
    if result.answer is None or result.doubt:
        return empty | {"note": result.problem or f"not a stained blood cell: {result.doubt}"}
    answer = result.answer
    return empty | {
        "answer": answer.headline,
        "certainty": answer.certainty.value,
        "score": round(answer.score, 4),
        "abnormal": round(answer.abnormal, 4),
        "hint": answer.hint or None,
        "note": result.note or None,
        "set": list(answer.prediction_set),
        "top": [{"label": cell.name, "score": round(share, 4)} for cell, share in answer.ranking],
        **{name: getattr(answer.best, name) for name in FACT_NAMES},
    }


def _as_csv(rows: Sequence[dict[str, Any]], folder: Path) -> str:
    path = Path(tempfile.mkdtemp(dir=folder)) / "celluscan.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: csv_cell(row[column]) for column in COLUMNS} for row in rows)
    return str(path)


def serve(page: gr.Blocks, host: str, port: int | None, **options: Any) -> Any:
    """Serve the page, by default until interrupted; `options` are passed to `launch`."""
    return page.queue(default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        css=CSS,
        theme=THEME,
        max_file_size=MAX_BYTES,
        footer_links=["api"],
        **options,
    )
