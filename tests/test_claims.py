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

from celluscan_hf.dataset.shortcuts import WORDS

ROOT = Path(__file__).resolve().parents[1]
FIGURE = re.compile(r"(?<![\w.])\d+\.\d{2,}\b|\b\d+(?:\.\d+)?\s?%")
NOT_PROSE = re.compile(r"```.*?```|`[^`\n]*`|\{\{.*?\}\}|\{%.*?%\}|\]\([^)]*\)|https?://\S+|95 % interval", re.S)
# not measured here, but versions, settings, or what others report: how the line begins, and the figures it may have
OTHERS: dict[str, dict[str, set[str]]] = {
    "README.md": {
        "on two cores. Python": {"3.11", "3.13"},
        "validation or in a tier; without a": {"5 %"},
        "4. **Split** 70/10/20 by group": {"100 %"},
        "95 %. PBC names no patients": {"95 %"},
    },
    "celluscan_hf/reliability/README.md": {"98 % of validation the picture": {"98 %"}},
    "model_card.md": {
        "## The 88.93 %": {"88.93"},
        "CelluScan began as a student project": {"88.93"},
        "| accuracy | 88.93 %": {"88.93"},
    },
    "dataset_card.md": {},
    "celluscan_hf/audits/README.md": {"These models see the middle 0.64": {"0.64"}},
}
STUDENT = 0.8893  # of the last confusion matrix of the student project


@cache
def result(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "results" / f"{name}.json").read_text("utf-8"))
    return content


def figures(name: str) -> Any:
    return result(name)["metrics"]


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
    found = figures("cpu-best")["external"][name]
    judged = f"{found['n']} cells of {title}, another laboratory"
    expected = [interval(found, "macro_f1"), interval(found, "accuracy"), "–"]
    assert row("README.md", "`cpu-best`", "the same", judged) == expected


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
    plain = found["confident_answers"]
    assert f"temperature of {found['temperature']:.3f}" in text
    assert f"a probability of {plain['confidence_threshold']:.2f} on" in text
    assert f"test {plain['share']:.1%} of the cells get a plain class, and {plain['right']:.1%} of those" in text
    assert f"the surest first, {found['aurc']:.3f} of" in text


@pytest.mark.parametrize("kind", list(figures("reliability")["ood_sets"]))
def test_strange_pictures_are_noticed_as_is_said(kind: str) -> None:
    found = figures("reliability")["ood_sets"][kind]
    alone = [f"{found[score]['0.98']:.0%}" for score in ("features", "colours", "energy")]
    noticed = [f"{found['distance']['0.98']:.0%}", f"{found['distance']['auroc']:.2f}"]
    assert row(RELIABILITY, kind.replace("synthetic", "drawn")) == [
        f"{found['n']:,}",
        *noticed,
        *alone,
        f"{found['stain']:.0%}",
    ]


@pytest.mark.parametrize("name", list(figures("reliability")["sets"][0]["per_class"]))
def test_each_class_is_covered_as_is_said(name: str) -> None:
    """Limits over all before limits by class."""
    found = sorted(figures("reliability")["sets"], key=lambda one: (one["by_class"], one["asked"]))
    assert row(RELIABILITY, name) == [f"{one['per_class'][name]:.1%}" for one in found]


@pytest.mark.parametrize(("title", "name"), [("AML-Cytomorphology_LMU", "aml_lmu"), ("BCCD", "bccd")])
def test_the_temperature_of_validation_does_elsewhere_what_is_said(title: str, name: str) -> None:
    found = figures(f"recalibration-{name}")
    changes = [f"{found['uncalibrated'][one]:.2f} → {found['all'][one]:.2f}" for one in ("nll", "ece")]
    assert row(RELIABILITY, f"{title}, {found['cells']} cells") == changes


def test_cells_of_other_laboratories_are_strange_as_is_said() -> None:
    bccd, aml = (figures(f"recalibration-{name}")["out_of_distribution"] for name in ("bccd", "aml_lmu"))
    text = words_of(RELIABILITY)
    assert f"of BCCD the model abstains from {bccd:.0%}, of AML-Cytomorphology_LMU from {aml:.0%}" in text
    assert figures("reliability")["ood_sets"]["red cells"]["features"]["0.98"] == 0  # "none of the red cells"
    assert f"Of {figures('reliability')['test']['n']:,} test cells" in text
    assert (bccd, aml) > (0.95, 0.95)  # "nearly all of them", in README


@pytest.mark.parametrize(("title", "name"), [("AML-Cytomorphology_LMU", "aml_lmu"), ("BCCD", "bccd")])
def test_recalibration_does_what_is_said(title: str, name: str) -> None:
    for found in figures(f"recalibration-{name}")["sizes"]:
        assert row(RELIABILITY, title, str(found["cells"])) == recalibrated(found)


AUDITS = "celluscan_hf/audits/README.md"
Rows = Iterator[tuple[tuple[str, ...], list[str]]]  # how a row of a table begins, and what follows
SPLITS = {"random": "after augmentation, at random", "grouped": "by group, before augmentation"}
LEAKS = {"leak": "short", "leak-by-heart": "by heart"}
RECIPES = ("cpu-small", "cpu-best")
MODELS = {
    "out/cpu-best/run": "`cpu-best`",
    "out/cpu-best-all/run": "`cpu-best`, `--surroundings 1.0`",
    "out/cpu-best-plain/run": "`cpu-best`, `--surroundings 0`",
    "out/cpu-small/run": "`cpu-small`",
    "out/cpu-small-all/run": "`cpu-small`, `--surroundings 1.0`",
    "out/cpu-small-plain/run": "`cpu-small`, `--surroundings 0`",
}
TRAININGS = {"plain": "plain", "background_randomization": "`--surroundings 0.5`"}
REPAINTED = {0: "background_accuracy", 0.5: "background_accuracy_half_randomized", 1: "background_accuracy_randomized"}
VIEWS = (  # of the table of rings, in the order of its columns
    ("shortcut", 0), ("shortcut-one-acquisition", 0), ("shortcut", 0.5), ("shortcut", 1),
    ("shortcut-one-acquisition", 1),
)  # fmt: skip
BENCH = "352x352/jpeg-c95c4e/neutral"  # the second acquisition of PBC


def leak_rows() -> Rows:
    for file, training in LEAKS.items():
        for name, words in SPLITS.items():
            found, tests = figures(file)[name], ("own", "own_originals", "held_out")
            scores = [f"{found[test][metric]:.3f}" for metric in ("accuracy", "macro_f1") for test in tests]
            yield (training, words), [f"{found['train_images']:,}", f"{found['related_share']:.0%}", *scores]


def ring_rows() -> Rows:
    views = [figures(file)[REPAINTED[share]] for file, share in VIEWS]
    for name, words in WORDS.items():
        told = [view.get(name, {}).get("balanced_accuracy") for view in views]
        yield (words,), ["–" if one is None else f"{one:.2f}" for one in told]
    yield ("chance",), [f"{view['ring']['chance']:.2f}" for view in views]


def model_rows() -> Rows:
    for name, words in MODELS.items():
        found = figures("shortcut")["models"][name]
        told = [found["border"]["as_is"], *(found[kind] for kind in ("untouched", "covered", "background_randomized"))]
        features = found["acquisition_probe_accuracy"]["acquisition"]
        assert features["chance"] == 0.5  # as the text above the table says
        yield (words,), [f"{one['balanced_accuracy']:.2f}" for one in (*told, features)]


def reduced_rows() -> Rows:
    """What a training shows, what it costs on the test of the same source, what it gains on another acquisition."""
    away = figures("acquisition")[BENCH]
    left_out = {"cpu-small-plain": away["plain"]["left_out"], "cpu-small": away["background_randomization"]["left_out"]}
    for share, run in {0: "cpu-small-plain", 0.5: "cpu-small", 1: "cpu-small-all"}.items():
        ring = figures("shortcut")[REPAINTED[share]]["ring"]
        yield (
            (f"{share:.0%} of the pictures",),
            [
                f"{ring['balanced_accuracy'] / ring['chance']:.1f}",
                f"{figures('shortcut')['models'][f'out/{run}/run']['untouched']['macro_f1']:.3f}",
                interval(left_out[run], "balanced_accuracy") if run in left_out else "not measured",
            ],
        )


def acquisition_rows() -> Rows:
    for name, words in TRAININGS.items():
        found = figures("acquisition")[BENCH][name]
        means = [interval(found[part], "balanced_accuracy") for part in ("learned_alike", "left_out")]
        yield (words,), [interval(found["learned"], "macro_f1"), *means, interval(found["left_out"], "accuracy")]


def recall_rows() -> Rows:
    for name, words in TRAININGS.items():
        found = figures("acquisition")[BENCH][name]["left_out"]["per_class"]
        classes = ("Basophil", "Eosinophil", "Erythroblast", "Lymphocyte", "Monocyte")
        yield (f"recall, {words}",), [f"{found[one]['recall']:.2f}" for one in classes]


def recalibrated_rows() -> Rows:
    for name, words in TRAININGS.items():
        for found in figures("acquisition")[BENCH][name]["recalibrated"]:
            yield (f"{found['cells']} cells", words), recalibrated(found)


def recalibrated(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['before'][metric]['mean']:.2f} → {found['after'][metric]['mean']:.2f} "
        f"(±{found['gain'][metric]['sd']:.2f})"
        for metric in ("accuracy", "nll", "ece")
    ]


def left_out_rows() -> Rows:
    for value, title in (("aml_lmu", "AML-Cytomorphology_LMU"), ("bccd", "BCCD"), ("pbc", "PBC")):
        for name, words in TRAININGS.items():
            found = figures("left-out")[value][name]
            away = found["left_out"]
            told = [
                interval(away, "accuracy"),
                f"{away['related']['accuracy']:.3f}",
                interval(away, "balanced_accuracy"),
            ]
            yield (title, words), [interval(found["learned"], "accuracy"), f"{away['n']:,}", *told]


def loss_rows() -> Rows:
    for file, labels in (("losses", "all as fine as they are"), ("losses-coarse", "half of the groups by the parent")):
        for loss, found in figures(file).items():
            both = [
                f"{found[name]['mean']:.3f} ({', '.join(f'{one:.3f}' for one in found[name]['values'])})"
                for name in ("macro_f1", "finest_macro_f1")
            ]
            shares = [f"{found[name]['mean']:.1%}" for name in ("to_parent", "adjacent", "distant")]
            yield (labels, loss), [*both, f"{found['parent_macro_f1']['mean']:.3f}", *shares]


TABLES = (
    leak_rows, ring_rows, model_rows, reduced_rows, acquisition_rows, recall_rows, recalibrated_rows, left_out_rows,
    loss_rows,
)  # fmt: skip


@pytest.mark.parametrize("rows", TABLES)
def test_a_table_of_the_audits_says_what_was_measured(rows: Any) -> None:
    for beginning, expected in rows():
        assert row(AUDITS, *beginning) == expected


def words_of(document: str) -> str:
    return " ".join((ROOT / document).read_text("utf-8").split())


def test_recall_falls_as_is_said_where_surroundings_are_repainted() -> None:
    found = figures("shortcut")["models"]["out/cpu-best-plain/run"]
    fall = {
        name: (found["untouched"]["recall"][name], found["background_randomized"]["recall"].get(name, 0))
        for name in found["untouched"]["recall"]
    }
    most = sorted(fall, key=lambda name: fall[name][1] - fall[name][0])[:2]
    said = " and ".join(f"{name} ({fall[name][0]:.2f} to {fall[name][1]:.2f})" for name in most)
    assert f"falls most for {said}" in words_of(AUDITS)


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("file", LEAKS)
def test_the_card_tells_of_the_leak_what_was_measured(name: str, file: str) -> None:
    found = figures(file)[name]
    scores = [f"{found[test]['accuracy']:.3f}" for test in ("own_originals", "held_out")]
    assert row("dataset_card.md", LEAKS[file], SPLITS[name]) == [f"{found['related_share']:.0%}", *scores]


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("file", LEAKS)
def test_readme_tells_of_the_leak_what_was_measured(name: str, file: str) -> None:
    found = figures(file)[name]
    expected = [interval(found[test], "accuracy") for test in ("own_originals", "held_out")]
    assert row("README.md", LEAKS[file], SPLITS[name]) == expected


@pytest.mark.parametrize("name", TRAININGS)
def test_readme_tells_of_the_camera_left_out_what_was_measured(name: str) -> None:
    found = figures("acquisition")[BENCH][name]
    expected = [interval(found[part], "balanced_accuracy") for part in ("learned_alike", "left_out")]
    assert row("README.md", TRAININGS[name]) == expected


@pytest.mark.parametrize("file", LEAKS)
def test_the_leak_flatters_as_is_said(file: str) -> None:
    random, grouped = (figures(file)[name]["optimism"] for name in SPLITS)
    flattered = f"flatters by {random['accuracy']:.3f} in accuracy and {random['macro_f1']:.3f} in macro-F1"
    assert f"{flattered}, ours by {grouped['accuracy']:.3f} and {grouped['macro_f1']:.3f}" in words_of(AUDITS)
    assert f"{result(file)['settings']['steps']} steps" in words_of(AUDITS)


def test_the_leak_of_a_short_training_is_within_the_intervals_and_that_of_a_long_one_is_not() -> None:
    for file, within in (("leak", True), ("leak-by-heart", False)):
        random = figures(file)["random"]
        (low, _), (_, high) = (random[test]["ci95"]["accuracy"] for test in ("own_originals", "held_out"))
        assert (low <= high) == within


@pytest.mark.parametrize(
    ("file", "loss", "name"),
    [
        ("losses", "hierarchical", "finest_macro_f1"),
        ("losses", "hierarchical", "macro_f1"),
        ("losses", "maturation", "macro_f1"),
        ("losses-coarse", "hierarchical", "finest_macro_f1"),
        ("losses-coarse", "hierarchical", "macro_f1"),
    ],
)
def test_a_loss_differs_from_the_flat_one_as_is_said(file: str, loss: str, name: str) -> None:
    found = figures(file)[loss][name]
    low, high = found["gain_ci95"]
    assert f"{found['gain']:+.3f} ({low:+.3f} to {high:+.3f})" in words_of(AUDITS)


def test_a_second_seed_falls_as_is_said_on_the_second_acquisition() -> None:
    plain, repainted = (figures("acquisition-43")[BENCH][name] for name in TRAININGS)
    said = [
        f"from {found['learned_alike']['balanced_accuracy']:.3f} to {found['left_out']['balanced_accuracy']:.3f}"
        for found in (plain, repainted)
    ]
    assert f"balanced accuracy falls {said[0]}, and with repainted surroundings {said[1]}" in words_of(AUDITS)
    learned = [found["learned"]["macro_f1"] for found in (plain, repainted)]
    assert f"on the first acquisition is then {learned[0]:.3f} and {learned[1]:.3f}." in words_of(AUDITS)


def test_cells_of_other_laboratories_are_counted_as_is_said() -> None:
    bccd, aml = (
        [figures("left-out")[name][training]["left_out"] for training in TRAININGS] for name in ("bccd", "aml_lmu")
    )
    platelets = bccd[1]["per_class"]["Platelet"]["support"]
    white = [
        sum(round(one["recall"] * one["support"]) for name, one in found["per_class"].items() if name != "Platelet")
        for found in bccd
    ]
    assert (white, bccd[1]["n"] - platelets) == ([3, 0], 59)
    assert f"a Platelet, which {platelets} of {bccd[1]['n']} are; of the 59 white cells it gets none right" in words_of(
        AUDITS
    )
    assert [round(found["accuracy"] * found["n"]) for found in aml] == [4, 5]
    assert "plain model gets four right, the other five (eleven Myeloblasts are left out" in words_of(AUDITS)
    unlearned = figures("cpu-best")["external"]["aml_lmu"]["unlearned"]
    assert unlearned == figures("left-out")["aml_lmu"]["unseen"] == {"Myeloblast": 11}
    assert "of the 41 cells, 11 are Myeloblasts" in words_of("README.md")
    assert f"only {figures('left-out')['pbc']['train_images']} cells of the two others" in words_of(AUDITS)


def test_covered_cells_are_answered_as_is_said() -> None:
    for found in figures("shortcut")["models"].values():
        recall = dict(found["covered"]["recall"])
        assert recall.pop("Platelet") > 0.98
        assert sum(recall.values()) < 0.1


def test_sources_are_told_from_features_as_is_said() -> None:
    found = figures("shortcut-three")["models"]["out/cpu-best/run"]["acquisition_probe_accuracy"]["source"]
    assert (found["balanced_accuracy"], found["classes"]) == (1, ["Eosinophil"])
    small = sum(count for source, count in found["n"].items() if source != "pbc")
    assert f"{small} of {small} test cells of the two small ones" in words_of(AUDITS)


def test_two_seeds_differ_as_is_said() -> None:
    low, high = sorted(figures("losses-coarse")["hierarchical"]["macro_f1"]["values"])
    assert f"two hierarchical seeds differ by {high - low:.2f}" in words_of(AUDITS)


def test_distant_mistakes_are_as_is_said() -> None:
    flat, maturation = (figures("losses")[loss]["distant"]["mean"] for loss in ("flat", "maturation"))
    assert f"takes mistakes of more than one stage from {flat:.1%} to {maturation:.1%} of the cells" in words_of(AUDITS)


def test_the_ring_tells_as_much_more_than_chance_as_is_said() -> None:
    rings = [figures(file)[REPAINTED[share]]["ring"] for file, share in VIEWS]
    told = [f"{ring['balanced_accuracy'] / ring['chance']:.1f}" for ring in rings]
    text = words_of(AUDITS)
    assert (
        f"The ring tells the class {told[0]} times as often as chance. Without the second acquisition it is {told[1]}"
        in text
    )
    assert f"half of the pictures leaves {told[2]} times, repainting all {told[3]} times, and both" in text
    last = rings[4]["balanced_accuracy"] / rings[4]["chance"]
    assert f"both together {last:.2f} times" in text
    seeds = [
        figures(file)["background_accuracy_randomized"]["ring"] for file in ("shortcut", "shortcut-43", "shortcut-44")
    ]
    each = [f"{ring['balanced_accuracy'] / ring['chance']:.2f}" for ring in seeds]
    assert f"all repainted gives {each[0]}, {each[1]} and {each[2]}" in text
    assert sum(map(float, each)) / 3 <= 1.5  # "on average"
    assert f"where half are, as in the recipes for two cores, {told[2]} times" in text
    assert (
        f"{told[0]} times as often as chance, without one acquisition {told[1]} times, and {told[3]} times where"
        in text
    )


def test_a_share_was_chosen_as_is_said() -> None:
    models = figures("shortcut")["models"]
    validation, test = (
        [
            " and ".join(f"{models[f'out/{recipe}{share}/run'][kind]['macro_f1']:.2f}" for recipe in RECIPES)
            for share in ("-plain", "", "-all")
        ]
        for kind in ("validation", "untouched")
    )
    said = f"on validation is {validation[0]} with none, {validation[1]} with half, {validation[2]} with all of them"
    assert f"{said}; on test {test[0]}, {test[1]}, {test[2]}" in words_of(AUDITS)
    half, plain = (figures("shortcut")["models"][f"out/cpu-small{share}/run"] for share in ("", "-plain"))
    assert half["acquisition_probe_accuracy"]["acquisition"]["n"][BENCH] == 24
    assert "second has 24 test cells there" in words_of(AUDITS)
    assert half["background_randomized"]["macro_f1"] > plain["background_randomized"]["macro_f1"] + 0.2


def test_what_is_said_in_short_is_what_is_said_at_length() -> None:
    short, heart, trial = figures("leak")["random"], figures("leak-by-heart")["random"], figures("labels")
    text = words_of(AUDITS)
    assert f"flatter by {short['optimism']['accuracy']:.3f} in accuracy after a short training" in text
    own, aside = (heart[test]["accuracy"] for test in ("own_originals", "held_out"))
    assert f"and by {heart['optimism']['accuracy']:.3f} after one that learns its pictures by heart: {own:.3f}" in text
    cells = heart["own_originals"]["n"]
    assert f"{own:.3f} on the {cells} originals of its own test, {aside:.3f} on cells put aside" in text
    plain, repainted = (figures("acquisition")[BENCH][name] for name in TRAININGS)
    before, after = (plain[part]["balanced_accuracy"] for part in ("learned_alike", "left_out"))
    assert f"falls from {before:.2f} to {after:.2f}" in text
    kept, cells = repainted["left_out"]["balanced_accuracy"], plain["left_out"]["n"]
    assert f"it falls to {kept:.2f} ({cells} cells; a second seed agrees)" in text
    found, planted = trial["planted"]["found"], trial["planted"]["cells"]
    assert f"{found} of {planted} planted ones, on a list of {trial['listed']['n']:,}" in text


def test_planted_errors_are_found_as_is_said() -> None:
    found, cells = figures("labels"), sum(figures("labels")["cells"].values())
    trial, listed = found["planted"], found["listed"]
    text = words_of(AUDITS)
    assert f"Of {cells:,} cells {trial['cells']} were given a wrong label" in text
    assert f"The list has {listed['n']:,} cells" in text
    assert f"{trial['found']} of the planted ones ({trial['recall']:.0%})" in text
    assert (
        f"the planted are {trial['precision']:.0%} of the list and {trial['precision_first']:.0%} of its first" in text
    )
    assert f"for {trial['suggested_right']:.0%} of those found the true class is suggested" in text


def test_labels_as_they_are_are_doubted_as_is_said() -> None:
    found = figures("labels-as-given")
    listed, text = found["listed"], words_of(AUDITS)
    assert f"the list has {listed['n']:,} of the {sum(found['cells'].values()):,} cells" in text
    pairs = {frozenset((one["label"], one["suggested"])): 0 for one in listed["pairs"]}
    for one in listed["pairs"]:
        pairs[frozenset((one["label"], one["suggested"]))] += one["n"]
    lobed, young = (
        pairs[frozenset(names)]
        for names in (("Band Neutrophil", "Segmented Neutrophil"), ("Myelocyte", "Metamyelocyte"))
    )
    assert f"half, {lobed}, are Band for Segmented Neutrophils or the reverse, and {young} Myelocytes" in text
    by_class = listed["by_class"]
    assert (by_class["Platelet"]["listed"], by_class["Eosinophil"]) == (0, {"cells": 1000, "listed": 1})


SENTENCES = (  # of the audits, that the tests above look for
    "little of another. These are",
    "with repainted surroundings",
    "first acquisition is then 0.",
    "- **Leaks** flatter by 0.010",
    "learns its pictures by heart",
    "- **Another acquisition** of",
    "With `--surroundings 0.5` it",
    "After a short training the l",
    "0.009 in macro-F1, ours by 0",
    "flatters by 0.152 in accurac",
    "acquisition of a cell from w",
    "repainting all 1.4 times, an",
    "repainted gives 1.44, 1.52 a",
    "falls most for Band Neutroph",
    "is 0.85 and 0.89 with none, ",
    "on test 0.86 and 0.89, 0.88 ",
    "Where all labels are fine, t",
    "(-0.007 to +0.010); in brack",
    "+0.009), probably since it s",
    "macro-F1 differs by +0.273 (",
    "difference is +0.005 (-0.007",
    "+0.006 (-0.003 to +0.016), a",
    "([`labels.json`](../../resul",
    "planted are 13% of the list",
)
AUDITED = (
    *LEAKS, "shortcut", "shortcut-43", "shortcut-44", "shortcut-one-acquisition", "shortcut-three", "acquisition",
    "acquisition-43", "left-out", "losses", "losses-coarse", "labels", "labels-as-given",
)  # fmt: skip
CHECKED = {  # how the lines begin that the tests above compare
    "README.md": (
        "| `cpu-small` | 6,190",
        "| `cpu-best` | the same",
        "| the student project",
        "| short |",
        "| by heart |",
        "| plain |",
        "| `--surroundings",
    ),
    RELIABILITY: (
        "temperature of",
        *(f"| {name} |" for name in figures("reliability")["sets"][0]["per_class"]),
        "| AML-Cytomorphology_LMU, 41",
        "| BCCD, 139",
        "| class | 90%",
        *(f"| {words} |" for words in ("accuracy", "negative log-likelihood", "calibration error", "Brier score")),
        *(f"| {asked}% | {limit} |" for asked in (90, 95) for limit in ("over all", "by class")),
        "An answer is plain from",
        "test 82",
        "those of BCCD the model abstains",
        *(f"| {kind.replace('synthetic', 'drawn')} |" for kind in figures("reliability")["ood_sets"]),
        "| AML-Cytomorphology_LMU |",
        "| BCCD |",
    ),
    "dataset_card.md": tuple(f"| {training} | {words} |" for training in LEAKS.values() for words in SPLITS.values()),
    AUDITS: (
        *(f"| {' | '.join(beginning)} |" for rows in TABLES for beginning, _ in rows()),
        *SENTENCES,
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
    assert content["command"].startswith(("python scripts/", "celluscan "))
    assert content["software"]["python"]
    assert content["metrics"]


@pytest.mark.parametrize(
    "name", ["cpu-small", "cpu-best", "reliability", "recalibration-aml_lmu", "recalibration-bccd"]
)
def test_a_result_of_a_model_names_its_data_and_seed(name: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", figures(name)["data"]["fingerprint"])
    assert isinstance(figures(name)["seed"], int)


@pytest.mark.parametrize("name", AUDITED)
def test_a_result_of_an_audit_names_its_data_and_seed(name: str) -> None:
    found = result(name)
    assert re.fullmatch(r"[0-9a-f]{64}", found["data"]["fingerprint"])
    assert isinstance(found["seed"], int)
    assert re.fullmatch(r"[0-9a-f]{40}", found["git"])  # of a checkout as it was committed
    assert (ROOT / "results" / f"{name}.png").is_file()
