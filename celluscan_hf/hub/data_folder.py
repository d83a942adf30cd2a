"""Assemble the folder of a dataset repository: the built files, and a card with its name and versions."""

import csv
import json
import os
import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from huggingface_hub import DatasetCard, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

from .. import taxonomy
from ..dataset.card import render
from ..dataset.inspection import parquet_files
from ..dataset.reading import open_dataset
from ..errors import CelluScanError
from ..sources.licenses import redistributable
from .upload import Target, explain_failures

VERSIONS = "curation/versions.json"
_ROWS = ("image_id", "sha256", "phash", "source", "source_label", "license", "group_id", "parent_id", "augmentation")
_CONFIG_KEYS = ("configs", "dataset_info")  # of the card's YAML: they describe the rows
Versions = list[dict[str, Any]]


def check_licenses(folder: Path) -> None:
    """Raise a `CelluScanError` that names the sources whose images may not be redistributed."""
    closed = [
        f"{name} ({source['license']})"
        for name, source in _read(folder / "curation" / "sources.json").items()
        if source["used"] and not redistributable(source["license"])
    ]
    if closed:
        raise CelluScanError(
            f"the licence does not allow publishing the images of {', '.join(closed)}: ask their authors and build "
            "with --license SOURCE=LICENCE, build without them, or use --recipe-only, which publishes no images"
        )


def published_versions(target: Target) -> Versions:
    """Return the tagged revisions that the repository lists, oldest first; none for a new one."""
    with explain_failures(target):
        try:
            path = hf_hub_download(target.repository, VERSIONS, repo_type=target.kind)
        except (EntryNotFoundError, RepositoryNotFoundError):
            return []
    return list(_read(Path(path)))


def assemble(built: Path, target: Target, versions: Versions, folder: Path, recipe_only: bool = False) -> None:
    """Write the folder of the repository; `versions` are those published before."""
    data = open_dataset(built)
    shutil.copytree(built, folder, copy_function=_link, ignore=_images if recipe_only else None)
    statistics, sources = (_read(built / "curation" / f"{name}.json") for name in ("statistics", "sources"))
    if target.revision:
        versions = with_version(versions, target.revision, data.fingerprint, statistics)
    (folder / VERSIONS).unlink(
        missing_ok=True
    )  # in a folder downloaded from the Hub; a hard link, so not to be overwritten
    if versions:
        (folder / VERSIONS).write_text(json.dumps(versions, indent=1) + "\n", "utf-8")
    card = DatasetCard.load(built / "README.md").data
    if recipe_only:
        _write_rows(built, folder / "curation")
        for key in _CONFIG_KEYS:
            card.pop(key)
    text = render(statistics, sources, card, target.repository, versions, images=not recipe_only)
    (folder / "README.md").unlink()  # a hard link to that of the build
    (folder / "README.md").write_text(text, "utf-8")


def with_version(versions: Versions, revision: str, fingerprint: str, statistics: dict[str, Any]) -> Versions:
    """Add an entry for a revision, dated today, unless the list already has it for the same data."""
    if any(version["revision"] == revision and version["fingerprint"] == fingerprint for version in versions):
        return versions
    entry = {
        "revision": revision,
        "date": datetime.now(UTC).date().isoformat(),
        "fingerprint": fingerprint,
        "rows": statistics["rows"],
        "sources": statistics["settings"]["sources"],
    }
    return [version for version in versions if version["revision"] != revision] + [entry]


def _link(source: str, target: str) -> None:
    """Hard-link a file if the file system supports it; else copy it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _images(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name in ("data", "assets")]


def _write_rows(built: Path, folder: Path) -> None:
    """Write `rows.csv`, every row without its image, and `label_map.csv`."""
    labels: Counter[tuple[str, str, str]] = Counter()
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["split", "label", *_ROWS])
        for file in parquet_files(built):
            split = file.name.split("-")[0]
            for row in pq.read_table(file, columns=["label", *_ROWS]).to_pylist():
                name = taxonomy.NAMES[row["label"]]
                writer.writerow([split, name, *(row[column] for column in _ROWS)])
                if row["parent_id"] is None:
                    labels[row["source"], row["source_label"], name] += 1
    with (folder / "label_map.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["source", "source_label", "label", "originals"])
        writer.writerows([*key, count] for key, count in sorted(labels.items()))


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise CelluScanError(f"{path}: {error.strerror}; expected a folder made by celluscan build") from error
    except ValueError as error:
        raise CelluScanError(f"{path} is damaged ({error}); build it again with celluscan build") from error
