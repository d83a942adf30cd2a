"""Texts of the project: generated tables, links, the size of README.md, and where results come from."""

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXTS = [*ROOT.glob("*.md"), *ROOT.glob("celluscan_hf/*/README.md")]
RESULTS = sorted((ROOT / "results").glob("*.json"))
AUDITS = ("leak", "shortcut", "left-out", "losses", "labels")


@pytest.fixture(scope="module")
def tables() -> Any:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "scripts" / "tables.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_table_is_used_and_current(tables: Any, tmp_path: Path) -> None:
    used = set()
    for path in tables.texts():
        copy = tmp_path / path.name
        copy.write_text(text := path.read_text("utf-8"), "utf-8")
        assert not tables.update(copy), f"{path.name}: run python scripts/tables.py"
        used |= set(re.findall(r"^<!-- table: ([\w-]+) -->$", text, re.M))
        assert len(re.findall(r"^<!-- table: ", text, re.M)) == len(tables.MARKED.findall(text))
    assert used == set(tables.TABLES)


def test_a_table_with_another_value_is_rewritten_and_nothing_else(tables: Any, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    changed = tmp_path / "README.md"
    changed.write_text(text.replace("0.886 (", "0.986 ("), "utf-8")
    assert tables.update(changed)
    assert changed.read_text("utf-8") == text


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.S)):
        file, _, anchor = link.partition("#")
        if ":" in link or "{" in link or (path.name.endswith("_card.md") and not file.startswith(".")):
            continue
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 160
    assert len(text.split()) <= 1300


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_says_where_it_comes_from(path: Path, tables: Any) -> None:
    record = json.loads(path.read_text("utf-8"))
    assert record["command"].startswith(("python scripts/", "celluscan "))
    assert record["software"]["python"]
    assert tables.get(record, "metrics")
    if record["what"] in AUDITS:
        assert re.fullmatch(r"[0-9a-f]{64}", record["data"]["fingerprint"])
        assert isinstance(record["seed"], int)
        assert re.fullmatch(r"[0-9a-f]{40}", record["git"])
        assert path.with_suffix(".png").is_file()
    elif record["what"] in ("recipe", "reliability", "recalibration"):
        model = tables.get(record, "metrics")
        assert re.fullmatch(r"[0-9a-f]{64}", model["data"]["fingerprint"])
        assert isinstance(model["seed"], int)
