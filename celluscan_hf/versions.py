"""Installed versions, for the records that results carry."""

import platform
from collections.abc import Iterable
from importlib.metadata import version


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each package; the name `python` is the interpreter's."""
    return {name: platform.python_version() if name == "python" else version(name) for name in names}
