"""Where images come from: one reader per open data set, chosen by `--source KEY=PATH`."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from ..errors import CelluScanError
from .aml_lmu import AMLCytomorphologyLMU
from .base import Source, TreeSource
from .bccd import BCCD
from .bccd_augmented import BCCDAugmented
from .bone_marrow import BoneMarrow
from .imagefolder import ImageFolder
from .lisc import LISC
from .mll23 import MLL23
from .pbc import PBC
from .raabin import Raabin
from .records import Decision, Dropped, Record, SourceInfo
from .segmentation_wbc import SegmentationWBC
from .synthetic import Synthetic
from .tree import open_tree

READERS: dict[str, type[TreeSource]] = {
    "pbc": PBC,
    "aml_lmu": AMLCytomorphologyLMU,
    "bone_marrow": BoneMarrow,
    "mll23": MLL23,
    "raabin": Raabin,
    "bccd": BCCD,
    "bccd_augmented": BCCDAugmented,
    "segmentation_wbc": SegmentationWBC,
    "lisc": LISC,
    "imagefolder": ImageFolder,
}
SYNTHETIC = "synthetic"
KEYS = (*READERS, SYNTHETIC)

__all__ = [
    "KEYS",
    "READERS",
    "Decision",
    "Dropped",
    "Record",
    "Source",
    "SourceInfo",
    "TreeSource",
    "open_source",
    "open_sources",
]


def open_sources(
    specs: Sequence[str], scratch: Path, seed: int, licenses: dict[str, str], option: str = "--source"
) -> list[Source]:
    """The sources of a build, in the order of their names. `option` is what errors call the argument of a source.

    Raises:
        CelluScanError: Two share a name, or one cannot be opened.
    """
    sources = [open_source(spec, scratch, seed, option) for spec in specs]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise CelluScanError(
                f"source {name} is given twice, so its images could not be told apart; "
                f"give each folder a name of its own: {option} imagefolder:NAME=DIR"
            )
    for name, license in licenses.items():
        if name not in names:
            raise CelluScanError(f"--license {name}=…: no source of that name; given: {', '.join(names)}")
        sources[names.index(name)].license = license
    return sorted(sources, key=lambda source: source.name)


def open_source(spec: str, scratch: Path, seed: int, option: str = "--source") -> Source:
    """The source of one `KEY=PATH`, `synthetic=COUNT` or `imagefolder:NAME=PATH`.

    `scratch` takes the decompressed copy of a compressed tar; `seed` seeds drawn cells.
    """
    key, equals, value = spec.partition("=")
    if not equals or not value:
        raise CelluScanError(f"{option} {spec}: expected KEY=PATH, for example pbc=PBC_dataset_normal_DIB")
    kind, _, name = key.partition(":")
    if kind == SYNTHETIC:
        return Synthetic(SYNTHETIC, _count(value, option), seed)
    if name and kind != "imagefolder":
        raise CelluScanError(f"{option} {key}: only imagefolder takes a name of its own; give {kind}=PATH")
    if kind not in READERS:
        close = difflib.get_close_matches(kind, KEYS, n=3)
        raise CelluScanError(f"{option} {key}: unknown source; {_known(close)}")
    return READERS[kind](name or kind, open_tree(Path(value).expanduser(), scratch))


def _count(value: str, option: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise CelluScanError(f"{option} synthetic={value}: expected the number of cells per class, for example 40")
    return int(value)


def _known(close: list[str]) -> str:
    return f"did you mean {', '.join(close)}?" if close else f"known: {', '.join(KEYS)}"
