"""Working folder of a build. The output folder is created by a rename when the build is complete.

`<output>.building/` has the settings, the scanned images and the shards written so far; `<output>.lock` prevents a
second build into the same output. All files are written atomically, so a resumed build can use those of a killed one.
"""

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from ..atomic_io import atomic_write, remove_partial_files
from ..errors import CelluScanError
from .settings import BuildSettings

STATISTICS = Path("curation", "statistics.json")
_OLD_DEFAULTS: dict[str, object] = {"exclude_acquisitions": []}  # of builds older than the setting


class Workspace:
    """The folders of one build, locked from `__enter__` to `__exit__`."""

    def __init__(self, settings: BuildSettings) -> None:
        self.settings = settings
        self.output = settings.output
        self.folder = self.output.with_name(f"{self.output.name}.building")
        self.scanned = self.folder / "scanned"
        self.plans = self.folder / "plans"
        self.final = self.folder / "final"
        self.archives = self.folder / "archives"
        self._lock = FileLock(self.output.with_name(f"{self.output.name}.lock"), timeout=0)

    def __enter__(self) -> "Workspace":
        self.output.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise CelluScanError(
                f"another build into {self.output} is running; wait for it or choose another --output"
            ) from None
        try:
            self._check()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._lock.release()

    def finished(self) -> dict[str, Any] | None:
        """Return the statistics of a finished build in the output folder, or None."""
        try:
            statistics: dict[str, Any] = json.loads((self.output / STATISTICS).read_text("utf-8"))
            return statistics if statistics["listing"] and statistics["settings"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _check(self) -> None:
        """Refuse an output folder or an unfinished build with other settings."""
        finished = self.finished()
        if finished is not None:
            self._check_same(finished["settings"], f"{self.output} is a finished build")
        elif self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise CelluScanError(f"{self.output} is not a built dataset and not empty; choose an empty or new --output")
        elif self._description.exists() and not self.settings.resume:
            raise CelluScanError(
                f"{self.folder} is an unfinished build; add --resume to continue it, or delete it to start over"
            )

    @property
    def _description(self) -> Path:
        return self.folder / "build.json"

    def check_listing(self, statistics: dict[str, Any], listing: str) -> None:
        """Refuse a finished build with these statistics if its sources, files or licences differ from the listing."""
        if statistics["listing"] != listing:
            raise CelluScanError(
                f"{self.output} is a finished build from other sources, files or licences; "
                "choose another --output, or delete it"
            )

    def open(self, description: dict[str, Any]) -> None:
        """Create the folders. `description` (settings, listing, files, software) must match an unfinished build."""
        for folder in (self.scanned, self.plans, self.final, self.archives):
            folder.mkdir(parents=True, exist_ok=True)
        path = self._description
        if path.exists():
            previous = json.loads(path.read_text("utf-8"))
            self._check_same(previous, f"{self.folder} is an unfinished build")
            for name, what in (("listing", "sources"), ("files", "files"), ("software", "software versions")):
                if previous[name] != description[name]:
                    raise CelluScanError(
                        f"the {what} have changed since {self.folder} was started; delete it to start over"
                    )
        write_text(path, json.dumps(description, indent=1, sort_keys=True))

    def _check_same(self, previous: dict[str, Any], what: str) -> None:
        for name, value in self.settings.content.items():
            old = previous.get(name, _OLD_DEFAULTS.get(name))
            if old != value:
                raise CelluScanError(
                    f"{what} with {name}={old}, but {name}={value} was given; use the same settings or another --output"
                )

    def publish(self) -> None:
        """Rename the finished folder to the output, and remove the rest."""
        remove_partial_files(self.final)
        self.final.replace(self.output)
        self.clear()

    def clear(self) -> None:
        """Remove the working folder, also that of a build killed after `publish` renamed its output."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, "utf-8")
