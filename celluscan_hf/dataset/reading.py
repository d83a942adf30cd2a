"""Load a built dataset from a local folder or from a Hub repository with the same files."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, Image
from datasets.exceptions import DatasetGenerationError
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from .. import taxonomy
from ..curation.splits import MIN_GROUPS, SPLITS
from ..errors import CelluScanError
from .features import FEATURES
from .inspection import parquet_files
from .schema import CONFIGS, Part

_CURATION_TABLES = ("curation/label_conflicts.csv", "curation/duplicates.csv")
_BUILD = "build it with celluscan build"


@dataclass(frozen=True)
class CellDataset:
    """A built dataset: `name` as given by the user, `folder` with its files."""

    name: str
    folder: Path

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine, not a download from the Hub."""
        return self.folder == Path(self.name)

    def split(self, config: str, split: str) -> Dataset:
        """Load the rows of one split with the columns `dataset.features.FEATURES`; images stay {"bytes", "path"}.

        Raises:
            CelluScanError: Unknown config or split, a damaged file, or unexpected columns or classes.
        """
        files = [str(file) for file in self.files(config, split)]
        try:
            rows = Dataset.from_parquet(files)
        except (DatasetGenerationError, OSError, ValueError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise CelluScanError(f"{self.name}: a file of {split} is damaged ({reason}); {_BUILD}") from error
        self._check(rows.features, split)
        return rows.cast_column("image", Image(decode=False))

    def files(self, config: str, split: str) -> list[Path]:
        """Return the parquet files of one split. Raises `CelluScanError` with the known names for an unknown one."""
        if config not in CONFIGS:
            raise CelluScanError(f"{self.name} has no config {config!r}; there are: {', '.join(CONFIGS)}")
        if split not in SPLITS:
            raise CelluScanError(f"{self.name} has no split {split!r}; there are: {', '.join(SPLITS)}")
        parts = CONFIGS[config] if split == "train" else (Part("originals", split),)
        files = [file for part in parts for file in sorted(self.folder.glob(f"{part.prefix}-*.parquet"))]
        if not files:
            raise CelluScanError(f"{self.name}: config {config} has no rows in {split}; give --source more cells")
        return files

    def checked_files(self, config: str, split: str) -> list[Path]:
        """Return `files` with their schema checked, for callers that read the rows. Raises like `split`."""
        files = self.files(config, split)
        for file in files:
            try:
                schema = pq.read_schema(file)
            except (OSError, pa.ArrowInvalid) as error:
                raise CelluScanError(f"{self.name}: {file.name} is damaged ({error}); {_BUILD}") from error
            self._check(Features.from_arrow_schema(schema), split)
        return files

    def _check(self, features: Features, split: str) -> None:
        if missing := [name for name in FEATURES if name not in features]:
            raise CelluScanError(f"{self.name}: {split} lacks the columns {', '.join(missing)}; {_BUILD}")
        names = getattr(features["label"], "names", None)
        if names != list(taxonomy.NAMES):
            differing = sorted(set(names or ()) ^ set(taxonomy.NAMES)) or "their order"
            raise CelluScanError(
                f"{self.name}: the label of {split} must have the {len(taxonomy.NAMES)} classes of CelluScan in their "
                f"order, but differs in {differing}; {_BUILD}, which maps labels"
            )

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and contents of all data files: equal for equal data in any location."""
        digest = hashlib.sha256()
        for file in parquet_files(self.folder):
            digest.update(f"{file.relative_to(self.folder).as_posix()}\n".encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        return digest.hexdigest()

    @cached_property
    def channel_statistics(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Channel mean and standard deviation of the train originals, in [0, 1]."""
        (r, g, b), (r_std, g_std, b_std) = self._statistic("channel_mean"), self._statistic("channel_std")
        return (r, g, b), (r_std, g_std, b_std)

    @property
    def sources(self) -> list[str]:
        """Names of the sources."""
        return sorted(self._statistic("sources"))

    @property
    def image_size(self) -> int:
        """Side of the stored images, in pixels."""
        return int(self._statistic("settings")["image_size"])

    def _statistic(self, name: str) -> Any:
        path = self.folder / "curation" / "statistics.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))[name]
        except (OSError, ValueError, KeyError) as error:
            raise CelluScanError(f"{path} with {name} cannot be read; {_BUILD}") from error


def open_dataset(name: str | Path) -> CellDataset:
    """Open the built dataset in a local folder, or download the Hub repository of that name.

    Raises:
        CelluScanError: It does not exist, cannot be downloaded, or lacks a split.
    """
    folder = Path(name)
    if not folder.exists():
        folder = _fetch(str(name))
    dataset = CellDataset(str(name), folder)
    missing = [split for split in SPLITS if not list(folder.glob(f"data/originals/{split}-*.parquet"))]
    if len(missing) == len(SPLITS):
        raise CelluScanError(f"{name} has no data/originals/train-*.parquet, so it is not a built dataset; {_BUILD}")
    if missing:
        raise CelluScanError(
            f"{name} has no {' and no '.join(missing)} split: its classes have too few groups (patients, or single "
            f"images); add cells and build it again, a class is in every split from {MIN_GROUPS} groups on"
        )
    return dataset


def _fetch(repository: str) -> Path:
    try:
        patterns = ["data/*", "curation/*.json", *_CURATION_TABLES, "README.md"]
        return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=patterns))
    except HFValidationError as error:
        raise CelluScanError(f"{repository}: no such folder, and not the name of a Hub repository") from error
    except RepositoryNotFoundError as error:
        raise CelluScanError(
            f"{repository}: no such folder, and no dataset on the Hub that you can read; log in for a private one"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CelluScanError(
            f"{repository} is not a local folder and cannot be downloaded ({reason}); {_BUILD}"
        ) from error
