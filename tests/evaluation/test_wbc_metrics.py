"""The metric gives the figures of the textbook, over groups that belong together, and refuses what does not fit."""

from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from sklearn import metrics

from celluscan_hf.evaluation.wbc_metrics import wbc_metrics
from celluscan_hf.evaluation.wbc_metrics.wbc_metrics import compute_metrics
from celluscan_hf.taxonomy import NAMES

# The original project's last confusion matrix: true classes as rows, predicted ones as columns, in taxonomy order.
ORIGINAL = [
    [720, 4, 4, 2, 0, 1, 42, 3, 2, 6, 0, 2, 0, 86],
    [2, 860, 0, 0, 2, 0, 11, 1, 2, 6, 0, 0, 7, 1],
    [2, 1, 1303, 0, 1, 20, 0, 14, 0, 1, 67, 1, 0, 1],
    [4, 6, 1, 828, 6, 3, 6, 2, 1, 6, 0, 5, 5, 2],
    [1, 3, 0, 3, 867, 0, 1, 0, 8, 0, 0, 0, 4, 1],
    [0, 2, 11, 5, 0, 1666, 0, 23, 0, 3, 16, 0, 0, 1],
    [66, 16, 1, 9, 2, 1, 594, 12, 1, 169, 0, 0, 60, 3],
    [1, 2, 12, 1, 2, 26, 12, 928, 1, 11, 22, 0, 4, 0],
    [0, 0, 0, 0, 3, 0, 1, 1, 912, 0, 0, 0, 1, 0],
    [12, 13, 1, 13, 1, 2, 143, 8, 1, 597, 0, 0, 151, 2],
    [0, 3, 48, 0, 1, 19, 0, 12, 0, 0, 1237, 0, 0, 5],
    [1, 4, 0, 7, 0, 4, 0, 0, 0, 0, 0, 896, 1, 1],
    [1, 21, 0, 0, 0, 0, 18, 4, 1, 63, 0, 0, 818, 0],
    [163, 1, 2, 2, 1, 0, 5, 2, 5, 0, 3, 0, 3, 695],
]
SCALARS = ("accuracy", "balanced_accuracy", "macro_f1", "nll", "ece")


def pairs(matrix: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = np.indices(np.shape(matrix)).reshape(2, -1)
    counts = np.ravel(matrix)
    return np.repeat(predicted, counts), np.repeat(true, counts)


def guesses(count: int = 300, classes: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    references = rng.integers(0, classes, count)
    scores = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[references]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    return probabilities, references


def letters(classes: int) -> list[str]:
    return [chr(ord("a") + index) for index in range(classes)]


def test_the_published_matrix_of_the_seed_has_its_published_accuracy():
    predictions, references = pairs(ORIGINAL)
    result = compute_metrics(predictions, references, NAMES, resamples=0)
    assert result["n"] == 14530
    assert round(result["accuracy"], 4) == 0.8893
    assert result["confusion_matrix"] == {"labels": list(NAMES), "matrix": ORIGINAL}
    assert "nll" not in result and "ece" not in result


def test_scalars_and_classes_are_those_of_scikit_learn():
    probabilities, references = guesses()
    predicted = probabilities.argmax(axis=1)
    result = compute_metrics(probabilities, references, letters(5), resamples=0)
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(references, predicted))
    assert result["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(references, predicted))
    assert result["macro_f1"] == pytest.approx(metrics.f1_score(references, predicted, average="macro"))
    assert result["nll"] == pytest.approx(metrics.log_loss(references, probabilities))
    expected = metrics.precision_recall_fscore_support(references, predicted)
    for index, name in enumerate(letters(5)):
        assert list(result["per_class"][name].values()) == pytest.approx([column[index] for column in expected])


def test_calibration_error_is_the_weighted_gap_between_confidence_and_accuracy():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.38, 0.62]])
    result = compute_metrics(probabilities, np.array([0, 1, 0, 1]), ["a", "b"], resamples=0)
    assert result["ece"] == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1.0 - 0.62))


def test_the_two_highest_bins_are_apart():
    result = compute_metrics(np.array([[0.95, 0.05], [0.9, 0.1]]), np.array([0, 1]), ["a", "b"], resamples=0)
    assert result["ece"] == pytest.approx(0.5 * 0.05 + 0.5 * 0.9)


def test_a_class_without_images_counts_neither_way():
    result = compute_metrics(np.array([0, 1, 2]), np.array([0, 1, 1]), ["a", "b", "c"], resamples=0)
    assert result["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert result["macro_f1"] == pytest.approx((1 + 2 / 3) / 2)
    assert result["per_class"]["c"] == {"precision": 0.0, "recall": None, "f1": None, "support": 0}


def test_intervals_hold_the_figure_and_repeat():
    probabilities, references = guesses()
    result = compute_metrics(probabilities, references, letters(5), resamples=200, seed=3)
    for name in SCALARS:
        low, high = result["ci95"][name]
        assert low < high
        assert name == "ece" or low < result[name] < high  # resampling noise adds to a calibration error
    assert compute_metrics(probabilities, references, letters(5), resamples=200, seed=3) == result


def test_an_interval_of_accuracy_is_as_wide_as_the_binomial_says():
    probabilities, references = guesses(2000)
    result = compute_metrics(probabilities, references, letters(5), resamples=500)
    low, high = result["ci95"]["accuracy"]
    error = np.sqrt(result["accuracy"] * (1 - result["accuracy"]) / 2000)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_copies_of_a_cell_do_not_make_an_interval_narrower():
    probabilities, references = guesses(200)
    names = letters(5)
    once = compute_metrics(probabilities, references, names, resamples=300)
    copied = np.repeat(probabilities, 10, axis=0), np.repeat(references, 10)
    groups = np.repeat(np.arange(200), 10)
    together = compute_metrics(*copied, names, groups=groups, resamples=300)
    apart = compute_metrics(*copied, names, resamples=300)
    widths = [np.diff(scores["ci95"]["accuracy"])[0] for scores in (once, together, apart)]
    assert widths[1] == pytest.approx(widths[0])
    assert widths[2] < 0.5 * widths[0]


def test_each_source_has_its_own_compute_metrics():
    probabilities, references = guesses(300)
    sources = np.array(["one", "two", "two"] * 100)
    result = compute_metrics(probabilities, references, letters(5), sources=sources, resamples=50)["per_source"]
    assert {name: part["n"] for name, part in result.items()} == {"one": 100, "two": 200}
    alone = compute_metrics(probabilities[sources == "one"], references[sources == "one"], letters(5), resamples=50)
    assert result["one"] == {name: alone[name] for name in ("n", *SCALARS, "ci95")}


PARENTS = {"b": "a", "d": "c"}
BECOMES = np.array([0, 0, 1, 1, 2])  # a b | c d | e


def test_children_count_as_their_parent():
    message, true = [0, 1, 3, 2, 4, 4], [1, 1, 2, 0, 4, 1]
    result = compute_metrics(np.array(message), np.array(true), letters(5), resamples=0, parents=PARENTS)[
        "parent_level"
    ]
    assert result["classes"] == ["a", "c", "e"]
    assert result["confusion_matrix"] == {"labels": ["a", "c", "e"], "matrix": [[2, 1, 1], [0, 1, 0], [0, 0, 1]]}
    assert (result["n"], result["accuracy"]) == (6, pytest.approx(4 / 6))
    assert result["balanced_accuracy"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert result["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3) / 3)
    assert result["per_class"]["a"]["recall"] == 0.5


def test_the_parent_is_told_by_the_sum_of_its_children():
    probabilities = np.array([[0.1, 0.3, 0.0, 0.35, 0.25], [0.0, 0.0, 0.3, 0.3, 0.4]])
    result = compute_metrics(probabilities, np.array([0, 4]), letters(5), resamples=0, parents=PARENTS)["parent_level"]
    assert result["confusion_matrix"]["matrix"] == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert result["nll"] == pytest.approx(-(np.log(0.4) + np.log(0.4)) / 2)


def test_parent_level_has_the_figures_of_merged_classes_and_changes_no_other():
    probabilities, references = guesses()
    options: dict[str, Any] = {"groups": np.arange(300) // 2, "sources": ["one"] * 300, "resamples": 50}
    result = compute_metrics(probabilities, references, letters(5), **options, parents=PARENTS)
    coarse = result.pop("parent_level")
    assert result == compute_metrics(probabilities, references, letters(5), **options)
    del options["sources"]
    merged = np.stack([probabilities[:, np.equal(BECOMES, label)].sum(axis=1) for label in range(3)], axis=1)
    alone = compute_metrics(merged, BECOMES[references], ["a", "c", "e"], **options)
    assert list(coarse["ci95"]) == list(SCALARS)
    assert coarse["ci95"]["macro_f1"] == pytest.approx(alone["ci95"]["macro_f1"])
    assert coarse["per_class"] == alone["per_class"]


@pytest.mark.parametrize("probabilities", [True, False])
def test_the_folder_loads_offline_as_a_metric_of_evaluate(probabilities, tmp_path):
    predictions, references = guesses(60)
    given: Any = predictions if probabilities else predictions.argmax(axis=1)
    metric = evaluate.load(str(Path(wbc_metrics.__file__).parent), cache_dir=str(tmp_path))
    result = metric.compute(
        predictions=given, references=references, label_names=letters(5), resamples=20, parents=PARENTS
    )
    assert result == compute_metrics(given, references, letters(5), resamples=20, parents=PARENTS)


PROBABILITIES, REFERENCES = guesses(4, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": PROBABILITIES[:0], "references": REFERENCES[:0]}, "at least one image"),
        ({"predictions": PROBABILITIES[:3]}, "predictions: expected 4.*got 3"),
        ({"predictions": PROBABILITIES[:, :2]}, r"predictions: expected the shape \(4, 3\), got \(4, 2\)"),
        ({"predictions": PROBABILITIES * 2}, "rows that sum to one"),
        ({"predictions": PROBABILITIES * np.nan}, "rows that sum to one"),
        ({"predictions": np.array([0, 1, 2, 3])}, "predictions: expected class indices from 0 to 2, got 0 to 3"),
        ({"references": np.array([0, -1, 2, 1])}, "references: expected class indices from 0 to 2, got -1 to 2"),
        ({"groups": ["a"]}, "groups: expected 4.*got 1"),
        ({"sources": ["a"]}, "sources: expected 4.*got 1"),
        ({"parents": {"b": "z"}}, "parents: expected names among label_names, got 'b': 'z'"),
        ({"parents": {"b": "a", "c": "b"}}, "parents: expected one level, got 'c': 'b': 'a'"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told(changes, message):
    given: dict[str, Any] = {"predictions": PROBABILITIES, "references": REFERENCES} | changes
    with pytest.raises(ValueError, match=message):
        compute_metrics(**given, label_names=letters(3))


@pytest.fixture(scope="module")
def loaded() -> evaluate.EvaluationModule:
    """The metric as others' scripts have it."""
    return evaluate.load(str(Path(wbc_metrics.__file__).parent))


def test_without_label_names_the_classes_are_the_14(loaded: evaluate.EvaluationModule) -> None:
    assert wbc_metrics.LABEL_NAMES == NAMES
    predictions, references = pairs(ORIGINAL)
    result = loaded.compute(predictions=predictions, references=references, resamples=0)
    assert result["confusion_matrix"] == {"labels": list(NAMES), "matrix": ORIGINAL}
    probabilities, references = guesses(classes=14)
    assert loaded.compute(predictions=probabilities, references=references)["n"] == 300


def test_batches_need_no_label_names_either(loaded: evaluate.EvaluationModule) -> None:
    for batch in ([0, 13], [5]):
        loaded.add_batch(predictions=batch, references=batch)
    assert loaded.compute()["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("predictions", "references", "got"),
    [
        ([0, 14], [0, 1], "class indices up to 14"),
        ([0, 1], [20, 1], "class indices up to 20"),
        ([[0.5, 0.5], [0.5, 0.5]], [0, 1], "2 columns of predictions"),
    ],
)
def test_other_classes_need_their_names(
    predictions: list[Any], references: list[int], got: str, loaded: evaluate.EvaluationModule
) -> None:
    with pytest.raises(ValueError, match=f"label_names: expected the names of all classes, as {got} do not fit the 14"):
        loaded.compute(predictions=predictions, references=references)


def test_an_index_below_zero_is_named(loaded: evaluate.EvaluationModule) -> None:
    with pytest.raises(ValueError, match="references: expected class indices from 0 to 13, got -100 to 1"):
        loaded.compute(predictions=[0, 1], references=[-100, 1])
