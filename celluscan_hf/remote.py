"""Addresses of files on other machines: `s3://bucket/cells`, `hf://datasets/lab/cells`, …, through fsspec.

Folders are listed and files read one by one as they are needed; none is copied as a whole. An object store has no
rename: a file is written locally and uploaded when it is complete (`atomic_io`), and folders are written locally alone.
"""

import os
import re
from pathlib import Path
from typing import Any, cast

from .errors import CelluScanError

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB = ("http://", "https://")


def is_address(text: str) -> bool:
    """Whether a text is an address such as `s3://bucket/cells`, not a local path."""
    return bool(_ADDRESS.match(text))


def locate(text: str) -> Path:
    """Return the local path, or the remote one, that a user means; both are used like a `pathlib.Path`.

    Raises:
        CelluScanError: It is a web page's address, or of a file system that is not known or not installed.
    """
    if not is_address(text):
        return Path(os.path.expanduser(text))  # which leaves the name of an unknown user as it is
    if text.lower().startswith(_WEB):
        raise CelluScanError(f"{text} is a web address; download the image and give its file")
    if "::" in text:
        raise CelluScanError(f"{text} is a chain of addresses; expected one, of a file or folder")
    from upath import UPath

    try:
        path = UPath(text)
        _ = path.fs
    except (ImportError, ValueError) as error:
        raise CelluScanError(
            f"{text} cannot be opened ({error}); expected an address that fsspec can open here"
        ) from error
    return cast(Path, path)


def is_remote(path: Path) -> bool:
    """Whether a path from `locate` is remote."""
    return not isinstance(path, Path)


def file_system(path: Path) -> tuple[Any, str]:
    """Return the fsspec file system of a path from `locate`, and the path within it; None for a local one."""
    return (cast(Any, path).fs, cast(Any, path).path) if is_remote(path) else (None, str(path))


def local_only(text: str) -> Path:
    """Return a local path. Raises `CelluScanError` for an address: folders are written with renames and locks."""
    if is_address(text):
        raise CelluScanError(f"{text}: expected a local path; write there, then upload the result")
    return Path(text)
