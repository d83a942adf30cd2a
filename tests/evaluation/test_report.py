"""The report says what was measured, in words that hold, and leaves out or names what was not."""

import re
from itertools import pairwise
from typing import Any

import pytest

from celluscan_hf import taxonomy
from celluscan_hf.evaluation.folder import FILES
from celluscan_hf.evaluation.measure import measure, measure_external
from celluscan_hf.evaluation.report import largest_confusions, render

PLOTS = {name for name in FILES if name.endswith(".png")}
SOURCE = {"title": "Drawn cells", "license": "MIT", "caution": "", "path": "/data/drawn"}


def report(cells, resamples: int = 20, external: Any = None, **data: Any) -> str:
    described = {"dataset": "out/wbc", "split": "test", "sources": {"drawn": SOURCE}, "dropped": {}} | data
    model = {"name": "out/run", "class": "Model", "parameters": 1000, "celluscan_hf": "1", "revision": None}
    metrics = measure(cells, resamples) | {
        "model": model | {"sha256": "ab" * 32},
        "data": {"n": len(cells), "fingerprint": "cd" * 32} | described,
        "external": external or {},
        "versions": {"torch": "2"},
        "command": "celluscan evaluate",
    }
    return render(metrics, PLOTS)


def words(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_headline_and_notice_stand_first(everything):
    text = report(everything)
    measured = measure(everything, 20)
    assert text.index("Not a medical device") < text.index(f"{100 * measured['accuracy']:.1f}\N{NO-BREAK SPACE}%")
    low, high = measured["ci95"]["macro_f1"]
    row, five = [line for line in text.splitlines() if line.startswith("| the test split of `out/wbc` |")]
    assert f"| {measured['five_classes']['n']} | {measured['five_classes']['any_answer']['macro_f1']:.3f} (" in five
    assert f"| {measured['n']} | 13 |" in row and f"| {measured['macro_f1']:.3f} ({low:.3f}–{high:.3f}) |" in row


def test_every_picture_there_is_is_shown_once(everything):
    shown = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", report(everything))
    assert sorted(shown) == sorted(PLOTS)


@pytest.mark.parametrize("external", [False, True])
def test_tables_have_as_many_fields_in_every_line(external, everything):
    measured = {"far": external_metrics(everything, dropped={"truncated": 2})} if external else {}
    lines = report(everything, external=measured, dropped={"truncated": 2}).splitlines()
    tables = [line.count("|") if line.startswith("|") else 0 for line in lines]
    assert all(0 in (first, second) or first == second for first, second in pairwise(tables))
    assert max(tables) > 5


@pytest.mark.parametrize("external", [False, True])
def test_no_value_is_left_unformatted(external, everything):
    text = report(everything, external={"far": external_metrics(everything, 0)} if external else {})
    assert not re.search(r"None|nan|Undefined|\{\{|\d\.\d{6}", text)
    assert "\n\n\n\n" not in text


def test_a_class_without_cells_is_named_and_has_no_score(everything):
    text = report(everything)
    assert "There were no cells of **Myeloblast**" in text
    assert "| Myeloblast | MYO | 0 | no cells | | | |" in text


def test_what_cannot_be_measured_is_said(predicted):
    text = words(report(predicted([("LY", "LY", 0.9), ("MO", "LY", 0.8)])))
    assert "None of the classes PMY/MY/MMY, BNE/SNE and EO/NEU has cells here." in text
    assert "No cell here has a maturation stage." in text
    assert "detection cannot be measured" in text
    assert "All cells come from one source, `drawn`." in text


def test_both_levels_stand_side_by_side(everything):
    measured, text = measure(everything, 20), report(everything)
    for level, scores in (("14 classes", measured), ("9 classes, children as their parent", measured["parent_level"])):
        low, high = scores["ci95"]["accuracy"]
        assert f"| {level} | {scores['n']} | {scores['accuracy']:.3f} ({low:.3f}–{high:.3f}) |" in text
        assert f"| {scores['macro_f1']:.3f} (" in text
    assert re.search(r"\| 9 classes, children as their parent \| \d+ \| 0\.\d{3} \| 0", report(everything, 0))


def test_distant_mistakes_have_a_rate_and_its_interval(everything):
    line = measure(everything, 0)["maturation"]
    low, high = line["rates"]["ci95"]["distant"]
    share = f"{100 * line['distant'] / line['n']:.1f}\N{NO-BREAK SPACE}%"
    ends = f"{100 * low:.1f}–{100 * high:.1f}\N{NO-BREAK SPACE}%"
    assert f"| two or more stages away | {line['distant']} | {share} | {ends} |" in report(everything)


def test_several_sources_have_a_table(everything):
    text = report(everything)
    assert "| `one` | 69 |" in text and "| `two` | 69 |" in text
    assert "All cells come from one source" not in text


def test_names_finer_than_the_label_are_told_apart_from_mistakes(predicted):
    text = words(report(predicted([("NEU", "SNE", 0.9), ("LY", "LY", 0.9)])))
    assert "1 more were predicted as a finer or coarser class" in text
    assert "accuracy is 100.0" in text


@pytest.mark.parametrize(("groups", "sentence"), [(None, "too narrow"), (["a", "a"], "come in 1 groups")])
def test_groups_are_told(groups, sentence, predicted):
    assert sentence in words(report(predicted([("LY", "LY", 0.9), ("MO", "MO", 0.8)], groups)))


def test_training_cells_are_called_so(everything):
    assert "These are cells of the training split" in report(everything, split="train")
    assert "These are cells of the training split" not in report(everything)


def test_a_raw_source_is_named_with_what_is_not_known(predicted):
    cells = predicted([("LY", "LY", 0.9)])
    measured = measure(cells, 0)
    described = {"sources": {"drawn": SOURCE}, "fingerprint": "cd", "n": 1, "dropped": {}}
    model = dict.fromkeys(("revision", "sha256")) | {"name": "m", "class": "M", "parameters": 1, "celluscan_hf": "1"}
    text = render(measured | {"model": model, "data": described, "versions": {}, "command": "c", "external": {}}, set())
    assert "1 single cells of Drawn cells (`drawn`)" in words(text)
    assert "is not checked here" in text
    assert "| source `drawn` | Drawn cells, licence MIT: `/data/drawn` |" in text


def external_metrics(cells, resamples: int = 20, learned: Any = range(14), **facts: Any) -> dict[str, Any]:
    """What `metrics.json` says of one external source."""
    described_source = {
        "title": "Another laboratory",
        "license": "MIT",
        "caution": "",
        "fingerprint": "ef" * 32,
        "dropped": {},
    }
    return measure_external(cells, resamples, learned) | described_source | facts


def test_the_figure_of_the_split_stands_in_one_table_with_those_of_other_laboratories(everything, predicted):
    far = external_metrics(predicted([("LY", "LY", 0.9), ("MO", "LY", 0.8)]), dropped={"truncated": 2})
    text = report(everything, external={"far": far})
    lines = text.splitlines()
    first, five = [number for number, line in enumerate(lines) if line.startswith("| the test split of")]
    assert lines[first + 1].startswith("| Another laboratory (`far`) | 2 | 2 | 0.500 (")
    assert lines[five + 1].startswith("| Another laboratory (`far`) | 2 | 0.333 (")
    assert "expect lower" not in text
    assert re.search(
        r"its accuracy is \*\*50\.0.%\*\* \([^)]*\) on 2 cells of Another laboratory \(`far`\)\.", words(text)
    )
    assert f"| external source `far` | Another laboratory, licence MIT, fingerprint `{'ef' * 32}` |" in text
    assert "| left out of `far`: `truncated` | 2 |" in text


def test_cells_of_classes_that_were_not_learned_are_counted_apart(everything, predicted):
    cells = predicted([("MYO", "MO", 0.9), ("LY", "LY", 0.9), ("MO", "LY", 0.9), ("MO", "MO", 0.9)])
    far = external_metrics(cells, learned={taxonomy.LABEL2ID[name] for name in ("Lymphocyte", "Monocyte")})
    assert far["unlearned"] == {"Myeloblast": 1}
    text = words(report(everything, external={"far": far}))
    assert re.search(r"1 cells of `far` are of classes without a training cell \(Myeloblast\).* is 66\.7.%", text)


def test_where_no_other_laboratory_was_measured_the_table_says_so(everything):
    text = report(everything)
    assert "| other laboratories: not measured; expect lower | – |" in text
    assert "expect it to be lower" in text
    assert "## Other laboratories" not in text


def test_answers_finer_than_an_external_label_are_counted_apart(everything, predicted):
    far = external_metrics(predicted([("NEU", "SNE", 0.9), ("LY", "LY", 0.9), ("LY", "MO", 0.9)]))
    text = report(everything, external={"far": far})
    assert re.search(r"\| `far` \| 3 \| 3 \| 2 \| 33\.3.% \| 66\.7.% \|", text)


def test_several_external_sources_are_listed_with_their_cautions(everything, predicted):
    cells = predicted([("LY", "LY", 0.9)])
    measured = {name: external_metrics(cells, 0, title=name.title(), caution=f"Of {name}.") for name in ("b", "c", "d")}
    text = report(everything, external=measured)
    assert (
        "on 1 cells of B (`b`), " in words(text) and "of C (`c`) and " in words(text) and "of D (`d`)." in words(text)
    )
    assert "**Caution with `c`**: Of c." in text


def test_the_caution_of_a_source_is_passed_on(everything):
    text = report(everything, sources={"drawn": SOURCE | {"caution": "Grey backgrounds."}})
    assert "**Caution with `drawn`**: Grey backgrounds." in text


def test_without_resamples_the_intervals_are_left_open(everything):
    text = report(everything, 0)
    assert re.search(r"\| the test split of `out/wbc` \| 138 \| 13 (\| \d\.\d{3} ){5}\|", text)


def test_what_was_left_out_is_counted(everything):
    assert "| left out: `truncated` | 1,200 |" in report(everything, dropped={"truncated": 1200})


def test_a_name_cannot_break_a_table(everything):
    assert "| data | `out\\|w'bc`, test |" in report(everything, dataset="out|w`bc")


def test_the_largest_confusions_come_first(predicted):
    measured = largest_confusions(
        measure(predicted([("LY", "MO", 0.9)] * 2 + [("EO", "BA", 0.9), ("LY", "LY", 0.9)]), 0)
    )
    assert [(pair["true"], pair["predicted"], pair["n"]) for pair in measured] == [
        ("Lymphocyte", "Monocyte", 2),
        ("Eosinophil", "Basophil", 1),
    ]
    assert measured[0]["share"] == pytest.approx(2 / 3)
