"""Files for review by a person: `labels.csv`, the full list, and `review.html`, its first cells with their images."""

import base64
import csv
from collections.abc import Sequence
from dataclasses import astuple, fields
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, StrictUndefined

from .. import taxonomy
from ..atomic_io import atomic_write
from ..evaluation.plots import percent
from .suspects import CONFIDENCE, CONFLICT, Suspect

LIST, PAGE = "labels.csv", "review.html"
SHOWN = 60  # cells of each reason on the page
_TEMPLATE = Path(__file__).with_name("review.html.jinja")


def first(listed: Sequence[Suspect]) -> list[Suspect]:
    """Select the cells of the page: the first of each reason, conflicts before the others."""
    kinds = ((suspect for suspect in listed if suspect.reason == reason) for reason in (CONFLICT, CONFIDENCE))
    return list(chain.from_iterable(islice(kind, SHOWN) for kind in kinds))


def write_list(listed: Sequence[Suspect], path: Path) -> None:
    """Write `labels.csv`: a row for each, with its rank from 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rank", *(field.name for field in fields(Suspect))])
        for rank, suspect in enumerate(listed, 1):
            values = (f"{value:.4f}" if isinstance(value, float) else value for value in astuple(suspect))
            writer.writerow([rank, *values])


def write_page(listed: Sequence[Suspect], rows: pa.Table, path: Path) -> None:
    """Write `review.html`, one self-contained file; `rows` hold the images (columns of `dataset.schema.SCHEMA`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ranks = {suspect.image_id: rank for rank, suspect in enumerate(listed, 1)}
    shown = first(listed)
    jinja = Environment(undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    jinja.filters["percent"] = percent
    text = jinja.from_string(_TEMPLATE.read_text("utf-8")).render(
        shown=shown,
        total=len(listed),
        ranks=ranks,
        list=LIST,
        images=_images(rows, [suspect.image_id for suspect in shown]),
        codes={cell.name: cell.code for cell in taxonomy.CLASSES},
    )
    with atomic_write(path) as partial:
        partial.write_text(text, "utf-8")


def _images(rows: pa.Table, names: list[str]) -> dict[str, str]:
    """Stored JPEG of each of these cells that is in the dataset, in base64."""
    chosen = rows.select(["image_id", "image"]).filter(pc.is_in(rows["image_id"], pa.array(names, pa.string())))
    return {row["image_id"]: base64.b64encode(row["image"]["bytes"]).decode() for row in chosen.to_pylist()}
