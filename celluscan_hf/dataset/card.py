"""Render the dataset card: `dataset_card.md` filled with measured values, and YAML for `datasets` and the Hub.

The YAML lists configs, features and split sizes, so that neither `load_dataset` nor the viewer scans the files.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetInfo, SplitDict, SplitInfo
from datasets.info import DatasetInfosDict
from huggingface_hub import DatasetCard, DatasetCardData
from jinja2 import Environment, StrictUndefined
from PIL import Image, ImageDraw, ImageFont

from .. import taxonomy
from ..curation.splits import SPLITS
from ..sources.licenses import hub_name
from . import shortcuts
from .features import FEATURES
from .inspection import FileReport
from .schema import CONFIGS, HELD_OUT, Part

GRID = "assets/classes.jpg"
_TEMPLATE = "dataset_card.md"
GRID_COLUMNS = 8
_CELL, _LABEL_WIDTH, _GAP = 112, 208, 6  # pixels
_SIZE_CATEGORIES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def render(
    statistics: dict[str, Any],
    sources: dict[str, Any],
    data: DatasetCardData,
    repository: str | None = None,
    versions: Sequence[dict[str, Any]] = (),
    images: bool = True,
) -> str:
    """Render the card, YAML first. A value that the template uses but nobody gives raises `UndefinedError`.

    `repository` is its Hub id if it has one, `versions` its tagged revisions, oldest first. Without `images` the card
    describes a repository from which the dataset can be built, but not loaded.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["thousands"] = lambda number: f"{number:,}"
    body = environment.from_string(template_path(_TEMPLATE).read_text("utf-8")).render(
        repository=repository,
        versions=versions,
        images=images,
        configs=[config["config_name"] for config in data.get("configs", [])],
        grid=GRID,
        statistics=statistics,
        sources=sources,
        classes_table=classes_table(statistics),
        source_table=source_table(statistics),
        groups_table=groups_table(statistics),
        taxonomy_table=taxonomy_table(),
        dropped_table=table(["reason", "files or boxes"], statistics["dropped"].items()),
        shortcut_table=shortcut_table(statistics),
    )
    return str(DatasetCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def template_path(name: str, module: str = __file__) -> Path:
    """Path of a card template: next to `module` in an installed package, at the root in a checkout."""
    packaged = Path(module).with_name(name)
    return packaged if packaged.exists() else Path(module).parents[2] / name


def metadata(reports: Sequence[FileReport], statistics: dict[str, Any]) -> DatasetCardData:
    """Return the card's YAML: configs with their files, features and split sizes, licences, task, size."""
    rows = sum(statistics["rows"].values())
    configs = [
        name for name, train in CONFIGS.items() if _reports_of(reports, train)
    ]  # a small build has no 5 % of train
    size = next((name for limit, name in _SIZE_CATEGORIES if rows < limit), "1M<n<10M")
    data = DatasetCardData(
        pretty_name="CelluScan white blood cells",
        license=sorted({hub_name(name) for name in statistics["licenses"]}),
        task_categories=["image-classification"],
        task_ids=["multi-class-image-classification"],
        size_categories=[size],
        tags=["biology", "medical", "haematology", "white-blood-cells", "microscopy"],
        configs=[_config(name, reports) for name in configs],
    )
    infos = DatasetInfosDict({name: _info(name, CONFIGS[name], reports) for name in configs})
    infos.to_dataset_card_data(data)
    return data


def _config(name: str, reports: Sequence[FileReport]) -> dict[str, Any]:
    files = [
        {"split": split, "path": [f"{part.prefix}-*.parquet" for part in parts if _reports_of(reports, [part])]}
        for split, parts in _splits(CONFIGS[name])
    ]
    config = {"config_name": name, "data_files": [entry for entry in files if entry["path"]]}
    return config | {"default": True} if name == "default" else config


def _info(name: str, parts: tuple[Part, ...], reports: Sequence[FileReport]) -> DatasetInfo:
    splits = SplitDict()
    files: list[FileReport] = []
    for split, members in _splits(parts):
        own = _reports_of(reports, members)
        files += own
        if own:
            rows = sum(report.count for report in own)
            splits.add(SplitInfo(split, num_bytes=sum(report.memory_bytes for report in own), num_examples=rows))
    download = sum(report.path.stat().st_size for report in files)
    return DatasetInfo(
        features=FEATURES,
        splits=splits,
        config_name=name,
        download_size=download,
        dataset_size=sum(split.num_bytes for split in splits.values()),
    )


def _splits(train: tuple[Part, ...]) -> list[tuple[str, list[Part]]]:
    return [("train", list(train)), *((part.split, [part]) for part in HELD_OUT)]


def _reports_of(reports: Iterable[FileReport], parts: Sequence[Part]) -> list[FileReport]:
    return [report for report in reports if report.part in parts]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Format a Markdown table; numeric columns are right-aligned with thousands separators."""
    body = [list(row) for row in rows]
    numeric = [any(isinstance(row[i], int) for row in body) for i in range(len(header))]
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join("---:" if number else "---" for number in numeric) + "|",
    ]
    lines += ["| " + " | ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in row) + " |" for row in body]
    return "\n".join(lines)


def classes_table(statistics: dict[str, Any]) -> str:
    """Tabulate classes by split: originals, augmented, and train after balancing; with totals."""
    rows = []
    for name, counts in statistics["classes"].items():
        train, validation, test = (counts[split] for split in SPLITS)
        rows.append([name, train, counts["augmented"], train + counts["augmented"], validation, test])
    totals = [sum(row[column] for row in rows) for column in range(1, 6)]
    header = ["class", "train originals", "+ augmented", "= train", "validation", "test"]
    return table(header, [*rows, ["**all**", *totals]])


def source_table(statistics: dict[str, Any]) -> str:
    """Tabulate classes by source: originals of all splits."""
    names = list(statistics["sources"])
    totals = {
        source: sum((Counter(labels) for labels in splits.values()), Counter())
        for source, splits in statistics["sources"].items()
    }
    rows = [[label, *(totals[source][label] for source in names)] for label in statistics["classes"]]
    return table(["class", *(f"`{name}`" for name in names)], rows)


def found_and_published(statistics: dict[str, Any]) -> list[list[object]]:
    """List, for each source label, how many files or boxes were found and how many its authors publish."""
    rows: list[list[object]] = []
    for name, counts in statistics["found"].items():
        published = {label: count for label, count in statistics["published"][name].items() if label != "total"}
        for label in dict.fromkeys([*counts, *published]):
            rows.append([name, label or "(none)", counts.get(label, 0), published.get(label, "")])
        total = statistics["published"][name].get("total", sum(published.values()))
        rows.append([name, "all", sum(counts.values()), total or ""])
    return rows


def groups_table(statistics: dict[str, Any]) -> str:
    """Tabulate the groups (patients, slides) of each source; empty for builds that did not count them."""
    rows = [
        [name, counts["groups"], counts["images"], counts["images_without"], counts["from"]]
        for name, counts in statistics.get("source_groups", {}).items()
    ]
    header = ["source", "groups", "images in them", "images without a group", "groups from"]
    return table(header, rows) if rows else ""


def taxonomy_table() -> str:
    """Tabulate the 14 classes with label id, code, parent, lineage, stage and the abnormal flag."""
    rows = []
    for label, cell in enumerate(taxonomy.CLASSES):
        stage, abnormal = str(cell.stage or ""), "yes" if cell.abnormal_in_blood else ""
        rows.append([str(label), cell.name, cell.code, cell.parent or "", cell.lineage, stage, abnormal])
    return table(["label", "class", "code", "parent", "lineage", "maturation", "abnormal in adult blood"], rows)


def shortcut_table(statistics: dict[str, Any]) -> str:
    """Tabulate how well the class is predicted without the cell; empty without a test split."""
    rows = shortcuts.table_rows(statistics["shortcuts"])
    return table(["predicted from", "balanced accuracy on test", "chance"], rows) if rows else ""


def draw_grid(cells: dict[str, list[Image.Image]]) -> Image.Image:
    """Draw an image with a row per class: its name, then up to eight of its images."""
    width = _LABEL_WIDTH + GRID_COLUMNS * (_CELL + _GAP)
    grid = Image.new("RGB", (width, len(cells) * (_CELL + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(grid)
    font = ImageFont.load_default(size=17)
    for row, (name, images) in enumerate(cells.items()):
        top = _GAP + row * (_CELL + _GAP)
        draw.text((_GAP * 2, top + _CELL // 2), name, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images[:GRID_COLUMNS]):
            left = _LABEL_WIDTH + column * (_CELL + _GAP)
            grid.paste(image.resize((_CELL, _CELL), Image.Resampling.LANCZOS), (left, top))
    return grid
