"""Where a build happens: beside the output, which appears under its name only when it is whole.

`<output>.building/` holds the settings, what was scanned and the shards written so far; `<output>.lock` keeps a second
build out. Every file gets its name once it is complete, so whatever a killed build left can be used by the next one.
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
_BEFORE: dict[str, object] = {"exclude_acquisitions": []}  # in builds that are older than the setting


class Workspace:
    """The folders of one build, held under a lock from `__enter__` to `__exit__`."""

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
        """The statistics of a finished build in the output folder, or None where there is none."""
        try:
            statistics: dict[str, Any] = json.loads((self.output / STATISTICS).read_text("utf-8"))
            return statistics if statistics["listing"] and statistics["settings"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _check(self) -> None:
        """Refuse an output folder or a half-done build that is not this one's."""
        done = self.finished()
        if done is not None:
            self._check_same(done["settings"], f"{self.output} is a finished build")
        elif self.output.exists() and (not self.output.is_dir() or any(self.output.iterdir())):
            raise CelluScanError(f"{self.output} holds something that is no build; choose an empty or new --output")
        elif self._description.exists() and not self.settings.resume:
            raise CelluScanError(
                f"{self.folder} holds an unfinished build; add --resume to go on with it, or delete it to start anew"
            )

    @property
    def _description(self) -> Path:
        return self.folder / "build.json"

    def check_listing(self, done: dict[str, Any], listing: str) -> None:
        """Refuse a finished build, by its statistics, of other sources, files or licences than those listed."""
        if done["listing"] != listing:
            raise CelluScanError(
                f"{self.output} is a finished build of other sources, files or licences; "
                "choose another --output, or delete it"
            )

    def open(self, description: dict[str, Any]) -> None:
        """Make the folders; `description` (settings, listing, files, software) must be that of the work found there."""
        for folder in (self.scanned, self.plans, self.final, self.archives):
            folder.mkdir(parents=True, exist_ok=True)
        path = self._description
        if path.exists():
            found = json.loads(path.read_text("utf-8"))
            self._check_same(found, f"{self.folder} holds an unfinished build")
            for name, what in (("listing", "sources"), ("files", "files"), ("software", "versions of the software")):
                if found[name] != description[name]:
                    raise CelluScanError(
                        f"the {what} have changed since {self.folder} was begun; delete it to start anew"
                    )
        write_text(path, json.dumps(description, indent=1, sort_keys=True))

    def _check_same(self, found: dict[str, Any], what: str) -> None:
        for name, value in self.settings.content.items():
            before = found.get(name, _BEFORE.get(name))
            if before != value:
                raise CelluScanError(
                    f"{what} with {name}={before}, asked for {value}; use the same settings or another --output"
                )

    def publish(self) -> None:
        """Give the finished folder its name, in one step, and remove the rest."""
        remove_partial_files(self.final)
        self.final.replace(self.output)
        self.clear()

    def clear(self) -> None:
        """Remove what a build leaves behind; also what one killed between its last two steps has left."""
        shutil.rmtree(self.folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file that exists only when it is whole."""
    with atomic_write(path) as partial:
        partial.write_text(text, "utf-8")
