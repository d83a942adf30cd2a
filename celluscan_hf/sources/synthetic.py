"""Drawn cells: N of each class, seeded. For trying the project without downloading anything; never for a result."""

import io
from collections.abc import Iterator

import numpy as np

from .. import taxonomy
from .base import Source
from .drawing import draw_cell
from .records import Dropped, Record, SourceInfo


class Synthetic(Source):
    """`count` drawn cells per class. A cell depends on the seed, its class and its number alone."""

    info = SourceInfo(
        title="Drawn cells",
        license="MIT",
        citation="CelluScan",
        url="https://huggingface.co/celluscan",
        caution="Drawn, not photographed: for trying the software. No figure on them says anything about blood.",
    )

    def __init__(self, name: str, count: int, seed: int) -> None:
        super().__init__(name)
        self.count = count
        self.seed = seed

    def records(self) -> Iterator[Record | Dropped]:
        for cell in taxonomy.CLASSES:
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
