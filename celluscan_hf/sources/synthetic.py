"""Synthetic cells: N of each class, seeded. For trying the project without a download; never for results."""

import io
from collections.abc import Iterator

import numpy as np

from .. import taxonomy
from .base import Source
from .drawing import draw_cell
from .morphology import DRAWN
from .records import Dropped, Record, SourceInfo


class Synthetic(Source):
    """`count` synthetic cells per class of `morphology`. A cell depends only on the seed, its class and its number."""

    info = SourceInfo(
        title="Synthetic cells",
        license="MIT",
        citation="CelluScan",
        url="https://huggingface.co/celluscan",
        caution="Synthetic images for trying the software. Results on them say nothing about real blood cells.",
    )

    def __init__(self, name: str, count: int, seed: int) -> None:
        super().__init__(name)
        self.count = count
        self.seed = seed

    def records(self) -> Iterator[Record | Dropped]:
        for cell in map(taxonomy.lookup, DRAWN):
            for number in range(self.count):
                member = f"{cell.code}/{number:05d}.png"
                image_id = f"{self.name}/{member}"
                yield Record(image_id, member, cell.name, cell.code, image_id)

    def read(self, record: Record) -> bytes:
        code, _, file = record.member.partition("/")
        cell = taxonomy.lookup(code)
        rng = np.random.default_rng([self.seed, taxonomy.LABEL2ID[cell.name], int(file.removesuffix(".png"))])
        buffer = io.BytesIO()
        draw_cell(cell.name, rng).save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
