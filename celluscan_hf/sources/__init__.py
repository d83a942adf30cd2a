"""Sources of images: one reader per open dataset, chosen by `--source KEY=PATH`."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import CelluScanError
from ..remote import locate
from .aml_lmu import AMLCytomorphologyLMU
from .apl_jhu import APLJohnsHopkins
from .base import Source, TreeSource
from .bccd import BCCD
from .bccd_augmented import BCCDAugmented
from .bcisc import BCISC
from .bone_marrow import BoneMarrow
from .hf_dataset import HFDataset, Selection
from .hf_files import find_dataset
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
    "bcisc": BCISC,
    "apl_jhu": APLJohnsHopkins,
    "imagefolder": ImageFolder,
}
SYNTHETIC, HF_DATASET = "synthetic", "hf_dataset"
KEYS = (*READERS, HF_DATASET, SYNTHETIC)
_NAMED = ("imagefolder", HF_DATASET)  # may be given several times, under different names

__all__ = [
    "KEYS",
    "READERS",
    "Decision",
    "Dropped",
    "Record",
    "Selection",
    "Source",
    "SourceInfo",
    "TreeSource",
    "open_source",
    "open_sources",
]


def open_sources(
    specs: Sequence[str],
    scratch: Path,
    seed: int,
    licenses: dict[str, str],
    option: str = "--source",
    selections: Mapping[str, Selection] | None = None,
) -> list[Source]:
    """Open the sources of a build, sorted by name. `option` is the command line option that errors name.

    `selections` holds by source name what to read from a Hugging Face dataset.

    Raises:
        CelluScanError: Two share a name, or one cannot be opened.
    """
    sources = [open_source(spec, scratch, seed, option, selections) for spec in specs]
    for source, spec in zip(sources, specs, strict=True):
        source.key = spec.partition("=")[0]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise CelluScanError(
                f"source {name} is given twice, so its images would be mixed up; "
                f"give each its own name: {option} imagefolder:NAME=DIR, or hf_dataset:NAME=PATH"
            )
    for name, license in licenses.items():
        if name not in names:
            raise CelluScanError(f"--license {name}=…: no source has that name; given: {', '.join(names)}")
        sources[names.index(name)].license = license
    return sorted(sources, key=lambda source: source.name)


def open_source(
    spec: str, scratch: Path, seed: int, option: str = "--source", selections: Mapping[str, Selection] | None = None
) -> Source:
    """Open one source: `KEY=PATH`, `synthetic=COUNT`, `imagefolder:NAME=PATH` or `hf_dataset:NAME=PATH_OR_HUB_NAME`.

    `scratch` takes the decompressed copy of a compressed tar; `seed` is that of synthetic cells.
    """
    key, equals, value = spec.partition("=")
    if not equals or not value:
        raise CelluScanError(f"{option} {spec}: expected KEY=PATH, for example pbc=PBC_dataset_normal_DIB")
    kind, _, name = key.partition(":")
    if kind == SYNTHETIC:
        return Synthetic(SYNTHETIC, _count(value, option), seed)
    if name and kind not in _NAMED:
        raise CelluScanError(f"{option} {key}: only {' and '.join(_NAMED)} can be named; give {kind}=PATH")
    name = name or kind
    if kind == HF_DATASET:
        selection = (selections or {}).get(name, Selection())
        files = find_dataset(value, selection.config, selection.splits, name)
        return HFDataset(name, files, selection, scratch)
    if kind not in READERS:
        close = difflib.get_close_matches(kind, KEYS, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else f"expected one of: {', '.join(KEYS)}"
        raise CelluScanError(f"{option} {key}: unknown source; {hint}")
    return READERS[kind](name, open_tree(locate(value), scratch))


def _count(value: str, option: str) -> int:
    if not value.isdecimal() or int(value) == 0:
        raise CelluScanError(f"{option} synthetic={value}: expected the number of cells per class, for example 40")
    return int(value)
