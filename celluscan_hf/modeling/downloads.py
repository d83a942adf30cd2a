"""Weights that their publishers offer as a file, by name; fetched once, with progress, and checked.

DinoBloom (Koch et al. 2024, https://arxiv.org/abs/2404.05022, Apache-2.0) is DINOv2 trained on 380,000 blood cells;
DINOv2 (Oquab et al. 2023, https://arxiv.org/abs/2304.07193, Apache-2.0) on 142 million photographs. An interrupted
download goes on where it stopped.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from tqdm import tqdm

from .key_mapping import WeightsError

_ZENODO = "https://zenodo.org/records/10908163/files"
_META = "https://dl.fbaipublicfiles.com/dinov2"
_TIMEOUT = 60  # seconds without an answer
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Published:
    """A file of weights; `sha256` is None where its publisher names none that is known to us."""

    url: str
    sha256: str | None = None

    @property
    def file(self) -> Path:
        """Where it is kept: beside the weights of torchvision."""
        return Path(torch.hub.get_dir()) / "checkpoints" / Path(self.url).name


_SIZES = {"small": ("S", "s"), "base": ("B", "b"), "large": ("L", "l"), "giant": ("G", "g")}
_KNOWN = {"dinobloom:small": "c2f7990b003e89bcece80e379fb8fe0ba2ec392ce19b286e8a294abd99568e44"}  # as used by STAMP
PUBLISHED = {
    **{
        f"dinobloom:{size}": Published(f"{_ZENODO}/DinoBloom-{upper}.pth", _KNOWN.get(f"dinobloom:{size}"))
        for size, (upper, _) in _SIZES.items()
    },
    **{
        f"dinov2:{size}{registers}": Published(
            f"{_META}/dinov2_vit{letter}14/dinov2_vit{letter}14{registers}_pretrain.pth"
        )
        for size, (_, letter) in _SIZES.items()
        for registers in ("", "_reg4")
    },
}


def fetch(name: str) -> Path:
    """Return the file of a name of `PUBLISHED`, downloaded if it is not there yet.

    Raises:
        WeightsError: The name is unknown; it cannot be downloaded (the message says which file to download, and
            where to put it); or it is another file than was published.
    """
    if name not in PUBLISHED:
        known = [key for key in PUBLISHED if key.partition(":")[0] == name.partition(":")[0]]
        raise WeightsError(f"{name}: expected one of {', '.join(known)}")
    published = PUBLISHED[name]
    if not published.file.is_file():
        try:
            _download(published.url, published.file)
        except (httpx.HTTPError, OSError) as error:
            raise WeightsError(
                f"{name} cannot be downloaded ({error}): download {published.url} and put it at {published.file}, "
                "or run the same command again to go on"
            ) from error
    _check(name, published)
    return published.file


def _download(url: str, file: Path) -> None:
    """Download to a partial file, going on with what is there, and rename it when it is complete.

    An answer that ends before its announced length is an error of the library.
    """
    partial = file.with_name(f"{file.name}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    have = partial.stat().st_size if partial.is_file() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=_TIMEOUT) as answer:
        answer.raise_for_status()
        if answer.status_code != httpx.codes.PARTIAL_CONTENT:  # it sends all of it
            have = 0
        total = have + int(answer.headers.get("Content-Length", 0))
        bar = tqdm(total=total or None, initial=have, unit="B", unit_scale=True, desc=file.name, leave=False)
        with bar, partial.open("ab" if have else "wb") as stream:
            for block in answer.iter_bytes(_BLOCK):
                stream.write(block)
                bar.update(len(block))
    partial.rename(file)


def _check(name: str, published: Published) -> None:
    if published.sha256 is None:
        return
    with published.file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != published.sha256:
        raise WeightsError(
            f"{published.file} is not the published {name}: expected SHA-256 {published.sha256}, got {found}; delete "
            "it to download it again"
        )
