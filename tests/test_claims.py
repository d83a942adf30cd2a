"""Every figure that the project's texts claim comes from a file of `results/`, to the last digit that is shown.

Each test writes the lines that the files give, and looks for them in the text. What is left over with a figure in it,
and is not known to be someone else's, or no measurement, fails.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIGURE = re.compile(r"(?<![\w.])\d+\.\d{2,}\b|\b\d+(?:\.\d+)?\s?%")
NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\{\{.*?\}\}|\{%.*?%\}|\]\([^)]*\)|https?://\S+|95 % interval", re.S)
# not measured here, but versions, settings, or what others report: how the line begins, and the figures it may have
OTHERS: dict[str, dict[str, set[str]]] = {
    "README.md": {
        "on two cores. Python": {"3.11", "3.13"},
        "validation or in a tier; without a": {"5 %"},
        "4. **Split** 70/10/20 by group": {"100 %"},
        "cores without pretrained weights; checkpoints were chosen on validation; intervals are of": {"95 %"},
    },
    "celluscan_hf/reliability/README.md": {"98 % of validation.": {"98 %"}},
    "model_card.md": {
        "## The 88.93 %": {"88.93"},
        "CelluScan began as a student project": {"88.93"},
        "| accuracy | 88.93 %": {"88.93"},
    },
    "dataset_card.md": {},
    "celluscan_hf/audits/README.md": {},
}
STUDENT = 0.8893  # of the last confusion matrix of the student project


@cache
def result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text("utf-8"))
    return content


def figures(name: str) -> Any:
    return result(name)["figures"]


def cells(line: str) -> list[str]:
    """Of a table's row."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def row(document: str, *beginning: str) -> list[str]:
    """The one row of a document's tables that begins with these cells; what follows them."""
    lines = map(cells, (ROOT / document).read_text("utf-8").splitlines())
    (found,) = [line for line in lines if line[: len(beginning)] == list(beginning)]
    return found[len(beginning) :]


def interval(metrics: dict[str, Any], name: str) -> str:
    low, high = metrics["ci95"][name]
    return f"{metrics[name]:.3f} ({low:.3f}–{high:.3f})"


@pytest.mark.parametrize(
    ("recipe", "beside"),
    [
        ("cpu-small", ("6,190 cells of a part of PBC, 13 classes", "1,771 others, no cell on both sides")),
        ("cpu-best", ("the same", "the same")),
    ],
)
def test_a_recipe_reaches_what_readme_says(recipe: str, beside: tuple[str, str]) -> None:
    found, test = figures(recipe), figures(recipe)["test"]
    macro_f1, accuracy, minutes = row("README.md", f"`{recipe}`", *beside)
    assert (macro_f1, accuracy) == (interval(test, "macro_f1"), interval(test, "accuracy"))
    assert minutes == f"{found['training_seconds'] / 60:.1f}"
    assert found["data"]["rows"]["train"] == 6190
    assert test["n"] == 1771


@pytest.mark.parametrize(("title", "name"), [("AML-Cytomorphology_LMU", "aml_lmu"), ("BCCD", "bccd")])
def test_what_is_left_in_another_laboratory_is_as_is_said(title: str, name: str) -> None:
    found = figures(f"recalibration-{name}")
    judged = f"{found['cells']} cells of {title}, another laboratory"
    assert row("README.md", "`cpu-best`", "the same", judged) == ["–", f"{found['all']['accuracy']:.2f}", "–"]


@pytest.mark.parametrize("recipe", ["cpu-small", "cpu-best"])
def test_a_recipe_says_what_it_reaches(recipe: str) -> None:
    found = figures(recipe)["test"]
    text = (ROOT / "celluscan_hf/training/recipes" / f"{recipe}.yaml").read_text("utf-8")
    assert f"test macro-F1 {found['macro_f1']:.3f}, accuracy {found['accuracy']:.3f}" in text


def test_the_student_project_reports_what_readme_says() -> None:
    assert f"{STUDENT:.3f}" in row("README.md", "the student project: a frozen ViT-B/16 with a new head")
    assert f"| accuracy | {STUDENT:.2%}".replace("%", " %") in (ROOT / "model_card.md").read_text("utf-8")


RELIABILITY = "celluscan_hf/reliability/README.md"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("accuracy", "accuracy"),
        ("negative log-likelihood", "nll"),
        ("calibration error", "ece"),
        ("Brier score", "brier"),
    ],
)
def test_temperature_does_what_is_said(words: str, name: str) -> None:
    test = figures("reliability")["test"]
    assert row(RELIABILITY, words) == [f"{test[when][name]:.3f}" for when in ("before", "after")]


@pytest.mark.parametrize("number", range(4))
def test_sets_cover_what_is_said(number: int) -> None:
    found = figures("reliability")["sets"][number]
    limit = "by class" if found["by_class"] else "over all"
    least = min(found["per_class"], key=found["per_class"].__getitem__)
    expected = [f"{found['coverage']:.1%}", f"{found['size']:.2f}", f"{least}, {found['per_class'][least]:.1%}"]
    assert row(RELIABILITY, f"{found['asked']:.0%}", limit) == expected


def test_coverage_is_within_two_points_of_what_was_asked() -> None:
    for found in figures("reliability")["sets"]:
        if not found["by_class"]:
            assert found["coverage"] == pytest.approx(found["asked"], abs=0.02)


def test_plain_answers_are_as_is_said() -> None:
    found, text = figures("reliability"), " ".join((ROOT / RELIABILITY).read_text("utf-8").split())
    plain = found["plain_answers"]
    assert f"temperature of {found['temperature']:.3f}" in text
    assert f"a probability of {plain['least_probability']:.2f} on" in text
    assert f"test {plain['share']:.1%} of the cells get a plain class, and {plain['right']:.1%} of those" in text
    assert f"the surest first, {found['aurc']:.3f} of" in text


@pytest.mark.parametrize("kind", list(figures("reliability")["strangers"]))
def test_strange_pictures_are_noticed_as_is_said(kind: str) -> None:
    found = figures("reliability")["strangers"][kind]
    expected = [f"{found['n']:,}"]
    for score in ("distance", "energy"):
        expected += [f"{found[score]['0.98']:.0%}", f"{found[score]['auroc']:.2f}"]
    assert row(RELIABILITY, kind) == [*expected, f"{found['stain']:.0%}"]


@pytest.mark.parametrize(("title", "name"), [("AML-Cytomorphology_LMU", "aml_lmu"), ("BCCD", "bccd")])
def test_recalibration_does_what_is_said(title: str, name: str) -> None:
    for found in figures(f"recalibration-{name}")["sizes"]:
        expected = [
            f"{found['before'][metric]['mean']:.2f} → {found['after'][metric]['mean']:.2f} "
            f"(±{found['gain'][metric]['sd']:.2f})"
            for metric in ("accuracy", "nll", "ece")
        ]
        assert row(RELIABILITY, title, str(found["cells"])) == expected


AUDITS = "celluscan_hf/audits/README.md"


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("outer ring of pixels", "ring"),
        ("colour of the background", "background"),
        ("width and height of the file's image", "size"),
        ("its format and compression", "coding"),
        ("source", "source"),
        ("all of these", "all"),
    ],
)
def test_the_class_is_told_without_the_cell_as_is_said(words: str, name: str) -> None:
    found = figures("shortcut")["surroundings"][name]
    assert row(AUDITS, words) == [f"{found['balanced_accuracy']:.2f}"]
    assert f"chance is {found['chance']:.2f}" in (ROOT / AUDITS).read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("`cpu-best`", "shortcut"),
        ("`cpu-small`", "shortcut-cpu-small"),
        ("`cpu-small`, trained with `--surroundings 0.5`", "shortcut-surroundings"),
    ],
)
def test_a_model_hangs_on_the_surroundings_as_is_said(words: str, name: str) -> None:
    found = figures(name)
    kinds = ("untouched", "covered", "repainted")
    assert row(AUDITS, words) == [f"{found[kind]['balanced_accuracy']:.2f}" for kind in kinds]


def test_recall_falls_as_is_said_where_surroundings_are_repainted() -> None:
    found, text = figures("shortcut"), " ".join((ROOT / AUDITS).read_text("utf-8").split())
    fall = {
        name: (found["untouched"]["recall"][name], found["repainted"]["recall"].get(name, 0))
        for name in found["untouched"]["recall"]
    }
    most = sorted(fall, key=lambda name: fall[name][1] - fall[name][0])[:2]
    said = " and ".join(f"{name} ({fall[name][0]:.2f} to {fall[name][1]:.2f})" for name in most)
    assert f"falls most for {said}" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [("random", "after augmentation, at random"), ("grouped", "by group, before augmentation")],
)
def test_a_split_leaks_as_is_said(name: str, words: str) -> None:
    found = figures("leak")[name]
    tests = ("own", "own_originals", "aside")
    scores = [f"{found[test][metric]:.3f}" for metric in ("accuracy", "macro_f1") for test in tests]
    assert row(AUDITS, words) == [f"{found['train_images']:,}", f"{found['related_share']:.0%}", *scores]


@pytest.mark.parametrize(
    ("name", "words"),
    [("random", "at random, after augmentation"), ("grouped", "by group, before augmentation")],
)
def test_the_card_tells_of_the_leak_what_was_measured(name: str, words: str) -> None:
    found = figures("leak")[name]
    scores = [f"{found[test]['accuracy']:.3f}" for test in ("own_originals", "aside")]
    assert row("dataset_card.md", words) == [f"{found['related_share']:.0%}", *scores]


def test_the_leak_flatters_as_is_said() -> None:
    found, text = figures("leak"), " ".join((ROOT / AUDITS).read_text("utf-8").split())
    random, grouped = (found[name]["optimism"] for name in ("random", "grouped"))
    assert f"flatters by {random['accuracy']:.3f} in accuracy and {random['macro_f1']:.3f} in macro-F1" in text
    assert f"and ours by {grouped['accuracy']:.3f} and {grouped['macro_f1']:.3f}." in text
    low, high = found["random"]["aside"]["ci95"]["accuracy"]
    assert low < found["random"]["own_originals"]["accuracy"] < high  # within the intervals
    assert f"{result('leak')['settings']['steps']} steps of 96 pictures" in text


CHECKED = {  # how the lines begin that the tests above compare
    "README.md": ("| `cpu-small` | 6,190", "| `cpu-best` | the same", "| the student project"),
    RELIABILITY: (
        "temperature of",
        *(f"| {words} |" for words in ("accuracy", "negative log-likelihood", "calibration error", "Brier score")),
        *(f"| {asked}% | {limit} |" for asked in (90, 95) for limit in ("over all", "by class")),
        "An answer is plain from",
        "test 85",
        *(f"| {kind} |" for kind in figures("reliability")["strangers"]),
        "| AML-Cytomorphology_LMU |",
        "| BCCD |",
    ),
    "dataset_card.md": ("| at random, after augmentation |", "| by group, before augmentation |"),
    AUDITS: (
        "| after augmentation, at random |",
        "| by group, before augmentation |",
        "own test the random split flatters by",
        "0.001 and -0.003.",
        "chance is",
        *(f"| {words} |" for words in ("outer ring of pixels", "colour of the background")),
        *(f"| {words} |" for words in ("width and height of the file's image", "its format and compression", "source")),
        "| all of these |",
        "| `cpu-",
        "another colour, recall of `cpu-best` falls most for",
    ),
}


@pytest.mark.parametrize("document", list(OTHERS))
def test_no_figure_is_left_over(document: str) -> None:
    left = [
        line
        for line, found in figured(document)
        if not line.startswith(CHECKED.get(document, ()))
        and not any(line.startswith(start) and found <= allowed for start, allowed in OTHERS[document].items())
    ]
    assert left == [], "write where it comes from: a file of results/ and a test here"


def figured(document: str) -> Iterator[tuple[str, set[str]]]:
    """The lines of prose and tables with figures in them, and these."""
    text = (ROOT / document).read_text("utf-8")
    blank = NOT_PROSE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    for line, shown in zip(text.splitlines(), blank.splitlines(), strict=True):
        if found := set(FIGURE.findall(shown)):
            yield line.strip(), found


@pytest.mark.parametrize("file", sorted((ROOT / "results").glob("*.json")), ids=lambda file: file.stem)
def test_a_result_says_where_it_comes_from(file: Path) -> None:
    content = json.loads(file.read_text("utf-8"))
    assert content["command"].startswith("python scripts/")
    assert content["software"]["python"]
    assert content["figures"]


@pytest.mark.parametrize(
    "name", ["cpu-small", "cpu-best", "reliability", "recalibration-aml_lmu", "recalibration-bccd"]
)
def test_a_result_of_a_model_names_its_data(name: str) -> None:
    data = figures(name)["data"]
    assert re.fullmatch(r"[0-9a-f]{64}", data["fingerprint"] if isinstance(data, dict) else data)
