"""The tables of a Hugging Face data set, found as `datasets` finds them, on disk or on the Hub.

Three layouts: parquet files as a repository of the Hub has them (its `README.md` may declare configs, else file names
tell the splits), a folder written by `save_to_disk` (of a `Dataset` or a `DatasetDict`), and a single parquet file.
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
from .licenses import from_hub

CONVERTED = "refs/convert/parquet"  # the revision in which the Hub keeps a data set of any format as parquet
_BUILT = {"default", "originals", "subset_5", "subset_20"}  # the configs of a data set that this project built
_DICT, _STATE, _CARD = "dataset_dict.json", "state.json", "README.md"
_BIBTEX = re.compile(r"@\w+\s*\{.*?\n\s*\}", re.DOTALL)
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class _NoTables(CelluScanError):
    """A folder has no table that could be read."""


@dataclass(frozen=True)
class DataFile:
    """A table of a data set: its `name` from the folder of the data set, where it is, and its split."""

    name: str
    path: Path
    split: str


@dataclass(frozen=True)
class Card:
    """What a data set's README says in its YAML, and its first BibTeX entry."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    citation: str = ""

    @property
    def license(self) -> str:
        """The licence as this project writes it; `unknown` where none is given."""
        value = self.facts.get("license_name") or self.facts.get("license") or "unknown"
        return ", ".join(from_hub(str(name)) for name in (value if isinstance(value, list) else [value]))

    @property
    def configs(self) -> dict[str, dict[str, Any]]:
        """The declared configs by name."""
        found = self.facts.get("configs") or []
        return {str(config.get("config_name", "default")): config for config in found if isinstance(config, dict)}

    def class_names(self, column: str, config: str) -> list[str] | None:
        """The names of a `ClassLabel` column as `dataset_info` declares them."""
        infos = self.facts.get("dataset_info") or []
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
class DataSetFiles:
    """A data set that was found, and its tables; `hub_name` and `revision` are empty for one on disk.

    `location` is its folder, or its one file; `folder` the one that the names of its tables count from.
    """

    location: Path
    folder: Path
    files: tuple[DataFile, ...]
    card: Card
    config: str
    hub_name: str = ""
    revision: str = ""


def find(value: str, config: str, splits: tuple[str, ...], source: str) -> DataSetFiles:
    """The tables of the data set at a path, or of that name on the Hub, `NAME` or `NAME@REVISION`.

    `config` is empty for the default one, `splits` for all. Raises `CelluScanError`, which begins with `source`.
    """
    path = Path(value).expanduser()
    try:
        if path.exists():
            return _in_folder(path, config, splits)
        name, _, revision = value.partition("@")
        if not _NAME.fullmatch(name):
            raise CelluScanError(f"{value} does not exist, and is not the name of a data set on the Hub")
        return _on_hub(name, revision, config, splits)
    except CelluScanError as error:
        raise CelluScanError(f"source {source}: {error}") from error.__cause__


def _in_folder(path: Path, config: str, splits: tuple[str, ...]) -> DataSetFiles:
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise CelluScanError(f"{path} is not a parquet file; expected one, or the folder of a data set")
        return DataSetFiles(path, path.parent, (DataFile(path.name, path, "train"),), Card(), "")
    if (path / _DICT).is_file() or (path / _STATE).is_file():
        return DataSetFiles(path, path, _selected(_saved(path), splits, path), Card(), "")
    card = _read_card(path / _CARD)
    chosen, declared = _config(card.configs, config, path)
    return DataSetFiles(path, path, _selected(_parquet(path, declared), splits, path), card, chosen)


def _on_hub(name: str, revision: str, config: str, splits: tuple[str, ...]) -> DataSetFiles:
    """Fetch the card, then the files of the config, of the same commit."""
    commit = _fetch(name, revision or None, [_CARD])
    configs = _read_card(commit / _CARD).configs
    if revision == CONVERTED:  # a folder per config
        patterns = [f"{config}/*" if config else "*.parquet"]
    else:
        patterns = list(_patterns(_config(configs, config, name)[1])) or ["*.parquet"]
    folder = _fetch(name, commit.name, [_CARD, *patterns])
    if revision == CONVERTED:
        folder = folder / _converted_config(folder, config, name)
    try:
        found = _in_folder(folder, "" if revision == CONVERTED else config, splits)
    except _NoTables as error:
        raise CelluScanError(
            f"{name} holds no parquet files; try {name}@{CONVERTED}, which the Hub makes of most public data sets"
        ) from error
    return replace(found, config=found.config or config, hub_name=name, revision=commit.name)


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
            f"{name} does not exist here, and is not a data set on the Hub that you can read; log in for a private one"
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
        facts = yaml.safe_load(parts[1]) if len(parts) == 3 else {}
    except yaml.YAMLError as error:
        raise CelluScanError(f"the YAML of {path} cannot be read ({str(error).splitlines()[0]})") from error
    return Card(facts if isinstance(facts, dict) else {}, " ".join(citation[0].split()) if citation else "")


def _config(configs: Mapping[str, dict[str, Any]], wanted: str, where: object) -> tuple[str, dict[str, Any]]:
    """The name and declaration of the config to read: as `datasets` chooses, and originals of a data set of ours."""
    if wanted in configs:
        return wanted, configs[wanted]
    if wanted or (len(configs) > 1 and not _default(configs)):
        known = ", ".join(configs) or "none"
        raise CelluScanError(f"{where} has the configs {known}; choose one with --dataset-config")
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
    """The parquet files of a config by split. Raises `_NoTables` where there is none."""
    from datasets.data_files import DataFilesDict, EmptyDatasetError, get_data_patterns, sanitize_patterns

    base = Path(os.path.abspath(folder / str(config.get("data_dir") or ".")))
    try:
        declared = config.get("data_files")
        patterns = sanitize_patterns(declared) if declared else get_data_patterns(str(base))
        found = DataFilesDict.from_patterns(patterns, base_path=str(base), allowed_extensions=[".parquet"])
    except (EmptyDatasetError, FileNotFoundError, ValueError) as error:
        raise _no_tables(folder) from error
    root = Path(os.path.abspath(folder))
    files = []
    for split, paths in found.items():
        for path in sorted(Path(os.path.abspath(path)) for path in paths):
            if not path.is_relative_to(root):
                raise CelluScanError(f"{folder / _CARD} names a file outside of the data set: {path}")
            files.append(DataFile(path.relative_to(root).as_posix(), path, str(split)))
    if not files:
        raise _no_tables(folder)
    return files


def _no_tables(folder: Path) -> _NoTables:
    return _NoTables(
        f"{folder} holds no parquet files, and was not written by save_to_disk; a folder of images is read by "
        f"--source imagefolder={folder}"
    )


def _saved(folder: Path) -> list[DataFile]:
    """The Arrow files of a folder that `save_to_disk` wrote."""
    try:
        if (folder / _DICT).is_file():
            splits = [str(split) for split in json.loads((folder / _DICT).read_text("utf-8"))["splits"]]
            return [file for split in splits for file in _arrow(folder, f"{split}/", split)]
        return _arrow(folder, "", "")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CelluScanError(f"{folder} is not a whole data set of save_to_disk ({error}); save it again") from error


def _arrow(folder: Path, prefix: str, split: str) -> list[DataFile]:
    state = json.loads((folder / prefix / _STATE).read_text("utf-8"))
    if state.get("_indices_data_files") or state.get("_indices_files"):
        raise CelluScanError(f"{folder / prefix} was saved with indices by an old version of datasets; save it again")
    split = split or re.sub(r"\W.*", "", str(state.get("_split") or "")) or "train"
    names = [prefix + Path(file["filename"]).name for file in state["_data_files"]]
    return [DataFile(name, folder / name, split) for name in names]


def _selected(files: Iterable[DataFile], splits: tuple[str, ...], where: Path) -> tuple[DataFile, ...]:
    files = sorted(files, key=lambda file: file.split)  # stable: a split keeps the order of its files
    known = list(dict.fromkeys(file.split for file in files))
    missing = [split for split in splits if split not in known]
    if missing:
        raise CelluScanError(f"{where} has no split {', '.join(missing)}; there are: {', '.join(known)}")
    return tuple(file for file in files if not splits or file.split in splits)
