"""The tables of a Hugging Face dataset, on disk or on the Hub, located as `datasets` does.

Three layouts: parquet files as in a repository on the Hub (its `README.md` may declare configs, else file names give
the splits), a folder written by `save_to_disk` (of a `Dataset` or a `DatasetDict`), and a single parquet file.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ..errors import CelluScanError
from ..remote import is_remote, locate
from .licenses import from_hub

CONVERTED = "refs/convert/parquet"  # the revision with the Hub's parquet conversion of a dataset
_BUILT = {"default", "originals", "subset_5", "subset_20"}  # configs of a dataset built by this project
_DICT, _STATE, _CARD = "dataset_dict.json", "state.json", "README.md"
_BIBTEX = re.compile(r"@\w+\s*\{.*?\n\s*\}", re.DOTALL)
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class _NoTables(CelluScanError):
    """A folder has no readable table."""


@dataclass(frozen=True)
class DataFile:
    """A table of a dataset: its `name` relative to the folder of the dataset, its `path` and its `split`."""

    name: str
    path: Path
    split: str


@dataclass(frozen=True)
class Card:
    """The YAML metadata of a dataset's README, and its first BibTeX entry."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    citation: str = ""

    @property
    def license(self) -> str:
        """The licence as this project writes it; `unknown` if none is given."""
        value = self.metadata.get("license_name") or self.metadata.get("license") or "unknown"
        return ", ".join(from_hub(str(name)) for name in (value if isinstance(value, list) else [value]))

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The declared configs by name."""
        configs = self.metadata.get("configs") or []
        return {str(config.get("config_name", "default")): config for config in configs if isinstance(config, dict)}

    def class_names(self, column: str, config: str) -> list[str] | None:
        """Return the names of a `ClassLabel` column declared in `dataset_info`."""
        infos = self.metadata.get("dataset_info") or []
        for info in infos if isinstance(infos, list) else [infos]:
            if info.get("config_name", config) != config and config:
                continue
            for feature in info.get("features") or []:
                dtype = feature.get("dtype")
                if feature.get("name") == column and isinstance(dtype, dict) and "class_label" in dtype:
                    names = dtype["class_label"]["names"]
                    return list(names.values()) if isinstance(names, dict) else list(names)
        return None


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset and its tables; `hub_name` and `revision` are empty for one on disk.

    `location` is its folder, or its one file; `folder` is the one that the names of its tables are relative to.
    """

    location: Path
    folder: Path
    files: tuple[DataFile, ...]
    card: Card
    config: str
    hub_name: str = ""
    revision: str = ""


def find_dataset(value: str, config: str, splits: tuple[str, ...], source: str) -> DatasetFiles:
    """Locate the tables of a dataset by its path, or by its name on the Hub, `NAME` or `NAME@REVISION`.

    `config` is empty for the default one, `splits` for all. Raises a `CelluScanError` that names the `source`.
    """
    path = locate(value)
    try:
        if path.exists() or is_remote(path):
            return _in_folder(path, config, splits)
        name, _, revision = value.partition("@")
        if not _NAME.fullmatch(name):
            raise CelluScanError(f"{value} does not exist, and is not the name of a dataset on the Hub")
        return _on_hub(name, revision, config, splits)
    except CelluScanError as error:
        raise CelluScanError(f"source {source}: {error}") from error.__cause__


def _in_folder(path: Path, config: str, splits: tuple[str, ...]) -> DatasetFiles:
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise CelluScanError(f"{path} is not a parquet file; expected one, or the folder of a dataset")
        return DatasetFiles(path, path.parent, (DataFile(path.name, path, "train"),), Card(), "")
    if (path / _DICT).is_file() or (path / _STATE).is_file():
        if is_remote(path):
            raise CelluScanError(f"{path} was written by save_to_disk, which is read by memory map; copy it here")
        return DatasetFiles(path, path, _selected(_saved(path), splits, path), Card(), "")
    card = _read_card(path / _CARD)
    chosen, declared = _config(card.configs, config, path)
    return DatasetFiles(path, path, _selected(_parquet(path, declared), splits, path), card, chosen)


def _on_hub(name: str, revision: str, config: str, splits: tuple[str, ...]) -> DatasetFiles:
    """Download the card, then the files of the config from the same commit."""
    commit = _fetch(name, revision or None, [_CARD])
    configs = _read_card(commit / _CARD).configs
    if revision == CONVERTED:  # one folder per config
        patterns = [f"{config}/*" if config else "*.parquet"]
    else:
        patterns = list(_patterns(_config(configs, config, name)[1])) or ["*.parquet"]
    folder = _fetch(name, commit.name, [_CARD, *patterns])
    if revision == CONVERTED:
        folder = folder / _converted_config(folder, config, name)
    try:
        dataset = _in_folder(folder, "" if revision == CONVERTED else config, splits)
    except _NoTables as error:
        raise CelluScanError(
            f"{name} holds no parquet files; try {name}@{CONVERTED}, the Hub's conversion of most public datasets"
        ) from error
    return replace(dataset, config=dataset.config or config, hub_name=name, revision=commit.name)


def _converted_config(folder: Path, config: str, name: str) -> str:
    configs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if config not in configs and (config or len(configs) != 1):
        raise CelluScanError(f"{name} has the configs {', '.join(configs)}; choose one with --dataset-config")
    return config or configs[0]


def _fetch(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except RepositoryNotFoundError as error:
        raise CelluScanError(
            f"{name} does not exist here, and is not a dataset on the Hub that you can read; log in for a private one"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise CelluScanError(f"{name} does not exist here and cannot be fetched from the Hub ({reason})") from error


def _read_card(path: Path) -> Card:
    if not path.is_file():
        return Card()
    text = path.read_text("utf-8", errors="replace")
    citation = _BIBTEX.search(text)
    parts = re.split(r"^---\s*$", text, maxsplit=2, flags=re.MULTILINE) if text.startswith("---") else []
    try:
        metadata = yaml.safe_load(parts[1]) if len(parts) == 3 else {}
    except yaml.YAMLError as error:
        raise CelluScanError(f"the YAML of {path} cannot be read ({str(error).splitlines()[0]})") from error
    return Card(metadata if isinstance(metadata, dict) else {}, " ".join(citation[0].split()) if citation else "")


def _config(configs: Mapping[str, dict[str, Any]], wanted: str, where: object) -> tuple[str, dict[str, Any]]:
    """Choose the config to read as `datasets` does, or the originals of a dataset built by this project."""
    if wanted in configs:
        return wanted, configs[wanted]
    if wanted or (len(configs) > 1 and not _default(configs)):
        names = ", ".join(configs) or "none"
        raise CelluScanError(f"{where} has the configs {names}; choose one with --dataset-config")
    name = _default(configs) or next(iter(configs), "")
    return name, configs.get(name, {})


def _default(configs: Mapping[str, dict[str, Any]]) -> str:
    if set(configs) >= _BUILT:
        return "originals"
    marked = [name for name, config in configs.items() if config.get("default") is True]
    return marked[0] if marked else "default" if "default" in configs else ""


def _patterns(config: Mapping[str, Any]) -> Iterable[str]:
    from datasets.data_files import sanitize_patterns

    folder = str(config.get("data_dir") or ".").removeprefix("./").rstrip("/")
    base = "" if folder in ("", ".") else f"{folder}/"
    if not config.get("data_files"):
        return [f"{base}*.parquet"] if base else []
    declared = sanitize_patterns(config["data_files"])
    return [base + str(pattern).removeprefix("./") for patterns in declared.values() for pattern in patterns]


def _parquet(folder: Path, config: Mapping[str, Any]) -> list[DataFile]:
    """List the parquet files of a config by split. Raises `_NoTables` if there are none."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns

    base = _absolute(folder / str(config.get("data_dir") or "."))
    try:
        declared = config.get("data_files")
        patterns = sanitize_patterns(declared) if declared else get_data_patterns(str(base))
        files_by_split = DataFilesDict.from_patterns(patterns, base_path=str(base), allowed_extensions=[".parquet"])
    except (EmptyDatasetError, FileNotFoundError, ValueError) as error:
        raise _no_tables(folder) from error
    root = _absolute(folder)
    files = []
    for split, paths in files_by_split.items():
        for path in sorted(_absolute(locate(path)) for path in paths):
            if not path.is_relative_to(root):
                raise CelluScanError(f"{folder / _CARD} names a file outside the dataset: {path}")
            files.append(DataFile(path.relative_to(root).as_posix(), path, str(split)))
    if not files:
        raise _no_tables(folder)
    return files


def _absolute(path: Path) -> Path:
    """Resolve `..`, but no links: files of the Hub's cache are links out of their folder."""
    return path.resolve() if is_remote(path) else Path(os.path.abspath(path))


def _no_tables(folder: Path) -> _NoTables:
    return _NoTables(
        f"{folder} holds no parquet files, and was not written by save_to_disk; read a folder of images with "
        f"--source imagefolder={folder}"
    )


def _saved(folder: Path) -> list[DataFile]:
    """List the Arrow files of a folder written by `save_to_disk`."""
    try:
        if (folder / _DICT).is_file():
            splits = [str(split) for split in json.loads((folder / _DICT).read_text("utf-8"))["splits"]]
            return [file for split in splits for file in _arrow(folder, f"{split}/", split)]
        return _arrow(folder, "", "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CelluScanError(f"{folder} is not a complete dataset of save_to_disk ({error}); save it again") from error


def _arrow(folder: Path, prefix: str, split: str) -> list[DataFile]:
    state = json.loads((folder / prefix / _STATE).read_text("utf-8"))
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise CelluScanError(f"{folder / prefix} was saved with indices by an old version of datasets; save it again")
    split = split or re.sub(r"\W.*", "", str(state.get("_split") or "")) or "train"
    names = [prefix + Path(file["filename"]).name for file in state["_data_files"]]
    return [DataFile(name, folder / name, split) for name in names]


def _selected(files: Iterable[DataFile], splits: tuple[str, ...], where: Path) -> tuple[DataFile, ...]:
    files = sorted(files, key=lambda file: file.split)  # stable: a split keeps the order of its files
    present = list(dict.fromkeys(file.split for file in files))
    missing = [split for split in splits if split not in present]
    if missing:
        raise CelluScanError(f"{where} has no split {', '.join(missing)}; there are: {', '.join(present)}")
    return tuple(file for file in files if not splits or file.split in splits)
