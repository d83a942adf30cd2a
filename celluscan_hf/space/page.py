"""The demo page: one cell with all that is known of it, or several as a table; and the same answers as JSON.

Requests of several people are answered in one forward pass, through the batches of Gradio's queue.
"""

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from ..inference.predict import FACTS, csv_cell
from ..modeling.reliability_celluscan import Certainty
from . import texts
from .recogniser import AT_ONCE, MAX_BYTES, Recogniser, Seen

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # nothing from other servers
CSS = (Path(__file__).with_name("page.css")).read_text("utf-8")
MOST = 200  # pictures of one table
COLUMNS = ("file", "answer", "certainty", "score", *FACTS, "abnormal", "note")


def build_page(
    recogniser: Recogniser, examples: Sequence[tuple[Path, str]], links: str = "", drawn: bool = False
) -> gr.Blocks:
    """The page.

    Args:
        recogniser: The model behind it.
        examples: Clickable pictures with what they show.
        links: HTML that names model and data with their versions.
        drawn: Whether the model has learned from drawn cells alone, which the page then warns of.
    """
    with gr.Blocks(title="CelluScan", analytics_enabled=False) as page:
        gr.HTML(
            "<header><h1>CelluScan</h1><p>Which blood cell is this?</p></header>"
            f"{texts.NOTICE}{texts.DRAWN if drawn else ''}"
        )
        with gr.Tab("One cell"):
            _one_cell(recogniser, examples)
        with gr.Tab("Several cells"):
            _several_cells(recogniser)
        gr.HTML(f"<footer>{links}</footer>")
        _api(recogniser)
    return page


def _file(payload: Any) -> str | None:
    """An uploaded picture, handed on as its file: `recogniser` opens it, within limits, and says what is wrong."""
    return payload.path if payload else None


def _one_cell(recogniser: Recogniser, examples: Sequence[tuple[Path, str]]) -> None:
    def show(files: list[str | None]) -> tuple[list[str], list[Any], list[str]]:
        seen = iter(recogniser.recognise([file for file in files if file], overlay=True))
        rows = [(texts.EMPTY, gr.update(visible=False), "") if not file else _shown(next(seen)) for file in files]
        cards, overlays, facts = map(list, zip(*rows, strict=True))
        return cards, overlays, facts

    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            picture = gr.Image(
                sources=["upload", "clipboard", "webcam"], label="A picture of one cell", type="filepath"
            )
            picture.preprocess = _file  # type: ignore[method-assign]
            if examples:
                gr.Examples(
                    [[str(file)] for file, _ in examples],
                    picture,
                    label="Examples, one of each class",
                    example_labels=[said for _, said in examples],
                    examples_per_page=len(examples),
                )
        with gr.Column(scale=3, min_width=300):
            card = gr.HTML(texts.EMPTY)
            overlay = gr.Image(
                label="Where the model looked",
                interactive=False,
                visible=False,
                format="png",
                alt_text="The cell as the model saw it, with warm colours where its attention lay",
            )
            facts = gr.HTML()
    picture.change(show, picture, [card, overlay, facts], batch=True, max_batch_size=AT_ONCE, api_visibility="private")


def _shown(seen: Seen) -> tuple[str, Any, str]:
    named = seen.answer is not None and not seen.doubt
    return texts.result(seen), gr.update(value=seen.overlay, visible=named), texts.background(seen)


def _several_cells(recogniser: Recogniser) -> None:
    written = tempfile.TemporaryDirectory(prefix="celluscan-")  # goes with the page

    def tabulate(files: list[str] | None) -> tuple[str, Any]:
        if not files:
            return "", gr.update(visible=False)
        if len(files) > MOST:
            raise gr.Error(f"{len(files)} files: at most {MOST} at a time; celluscan predict takes any number")
        several = [
            seen
            for start in range(0, len(files), AT_ONCE)
            for seen in recogniser.recognise(files[start : start + AT_ONCE])
        ]
        written_to = _as_csv([record(seen) for seen in several], Path(written.name))
        return texts.table(several), gr.update(value=written_to, visible=True)

    files = gr.File(file_count="multiple", file_types=["image"], label=f"Up to {MOST} pictures of one cell each")
    table = gr.HTML()
    download = gr.DownloadButton("Download as CSV", visible=False)
    files.change(tabulate, files, [table, download], api_visibility="private")


def _api(recogniser: Recogniser) -> None:
    """`/recognise`: a file in, the record of one picture out."""

    def recognise(files: list[str]) -> list[list[dict[str, Any]]]:
        return [[record(seen) for seen in recogniser.recognise(files)]]

    asked, told = gr.File(visible=False), gr.JSON(visible=False)
    gr.Button(visible=False).click(
        recognise,
        asked,
        told,
        batch=True,
        max_batch_size=AT_ONCE,
        api_name="recognise",
        api_description="Which blood cell a picture shows: file, answer, certainty, score, facts, note, top.",
    )


def record(seen: Seen) -> dict[str, Any]:
    """One picture as a row: fields of `COLUMNS`; `set`, the classes it may be; `top`, all with their scores."""
    empty = dict.fromkeys(COLUMNS) | {"file": seen.name, "set": [], "top": []}
    if seen.answer is None or seen.doubt:
        return empty | {"note": seen.problem or f"not a stained blood cell: {seen.doubt}"}
    said = seen.answer
    strange = said.certainty is Certainty.OUT_OF_DISTRIBUTION
    return empty | {
        "answer": said.headline,
        "certainty": said.certainty.value,
        "score": round(said.score, 4),
        "abnormal": round(said.abnormal, 4),
        "note": said.sentence if strange else seen.note or None,
        "set": list(said.within),
        "top": [{"label": cell.name, "score": round(share, 4)} for cell, share in said.ranking],
        **({} if strange else {name: getattr(said.best, name) for name in FACTS}),
    }


def _as_csv(rows: Sequence[dict[str, Any]], folder: Path) -> str:
    path = Path(tempfile.mkdtemp(dir=folder)) / "celluscan.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({column: csv_cell(row[column]) for column in COLUMNS} for row in rows)
    return str(path)


def serve(page: gr.Blocks, host: str, port: int | None, **options: Any) -> Any:
    """Serve the page, by default until it is stopped; `options` are those of `launch`."""
    return page.queue(default_concurrency_limit=1).launch(
        server_name=host,
        server_port=port,
        css=CSS,
        theme=THEME,
        max_file_size=MAX_BYTES,
        footer_links=["api"],
        **options,
    )
