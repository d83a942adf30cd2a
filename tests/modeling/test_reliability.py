"""Coverage of prediction sets, OOD scores, and the reasons to abstain."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from celluscan_hf.modeling.reliability_celluscan import (
    COLOURS,
    NOT_A_CELL,
    MahalanobisScorer,
    Reliability,
    colours,
    conformity,
    decide,
    facts_of,
    threshold,
)
from celluscan_hf.taxonomy import CLASSES, lookup


def reliability(scores: np.ndarray, labels: np.ndarray, **changes: object) -> Reliability:
    fields = (
        dict(scorers=(MahalanobisScorer(np.zeros((1, 3)), np.eye(3)),), ood_threshold=1.0, confidence_threshold=0.7)
        | changes
    )
    return Reliability(CLASSES, scores, labels, **fields)  # type: ignore[arg-type]


def simulated(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (count, 14), and labels that follow a sharper version of them: badly calibrated ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (count, 14))
    labels = (2 * logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)), labels


def fitted(probabilities: np.ndarray, labels: np.ndarray) -> Reliability:
    return reliability(conformity(probabilities)[np.arange(len(labels)), labels], labels)


def test_the_threshold_is_the_score_at_its_finite_sample_place() -> None:
    scores = np.arange(9) / 10
    assert threshold(scores, 0.9) == 0.8  # the 9th of 9: ceil(10 * 0.9)
    assert threshold(scores, 0.5) == 0.4
    assert threshold(scores, 0.91) == math.inf


@pytest.mark.parametrize("coverage", [0.85, 0.9, 0.95])
def test_sets_cover_as_often_as_asked_whatever_the_probabilities_are_worth(coverage: float) -> None:
    """Averaged over 20 draws of other cells from the same distribution."""
    covered = []
    for seed in range(20):
        probabilities, labels = simulated(600, 100 + seed)
        within = fitted(*simulated(600, seed)).sets(probabilities, coverage)
        assert within.any(axis=1).all()
        covered.append(within[np.arange(len(labels)), labels].mean())
    assert np.mean(covered) == pytest.approx(coverage, abs=0.01)


def test_a_set_always_holds_the_likeliest_class_and_grows_with_coverage() -> None:
    calibration, (probabilities, _) = fitted(*simulated(600, 0)), simulated(100, 1)
    narrow, wide = calibration.sets(probabilities, 0.3), calibration.sets(probabilities, 0.99)
    assert narrow[np.arange(100), probabilities.argmax(axis=1)].all()
    assert (wide | ~narrow).all()
    assert wide.sum() > narrow.sum()


def test_by_class_a_hard_class_is_covered_too_and_a_rare_one_takes_the_common_limit() -> None:
    labels = np.array([0] * 500 + [1] * 100 + [2] * 3)
    scores = np.concatenate([np.linspace(0, 0.1, 500), np.linspace(0.5, 0.9, 100), np.full(3, 0.2)])
    common, own = (reliability(scores, labels).thresholds(0.9, by_class) for by_class in (False, True))
    assert len(set(common)) == 1
    assert own[0] < common[0] < own[1]
    assert own[2] == own[13] == common[0]


def test_sets_hold_all_classes_if_there_are_too_few_cells() -> None:
    assert fitted(*simulated(5, 0)).sets(simulated(3, 1)[0], 0.9).all()


@pytest.mark.parametrize("coverage", [0, 1, 90, math.nan])
def test_a_coverage_outside_of_0_to_1_is_refused(coverage: float) -> None:
    with pytest.raises(ValueError, match="coverage must be above 0 and below 1"):
        fitted(*simulated(5, 0)).thresholds(coverage)


def test_the_ood_score_is_the_squared_mahalanobis_distance_from_the_nearest_centre() -> None:
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    precision = root @ root.T + np.eye(3)
    centres, features = rng.normal(size=(2, 3)), rng.normal(size=(10, 3)).astype(np.float32)
    calibration = reliability(
        np.zeros(1), np.zeros(1), scorers=(MahalanobisScorer(centres, np.linalg.cholesky(precision)),)
    )
    expected = cdist(features, centres, "mahalanobis", VI=precision).min(axis=1) ** 2
    assert calibration.ood_score(features) == pytest.approx(expected, rel=1e-5)


def test_the_ood_score_is_the_larger_of_its_parts() -> None:
    parts = (MahalanobisScorer(np.zeros((1, 2)), np.eye(2)), MahalanobisScorer(np.zeros((1, 1)), 2 * np.eye(1)))
    calibration = reliability(np.zeros(1), np.zeros(1), scorers=parts)
    assert calibration.ood_score(np.array([[3.0, 0, 1], [1, 1, 3]])).tolist() == [9, 36]


def test_colours_do_not_depend_on_orientation_but_on_stain() -> None:
    batch = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    statistics = colours(batch)
    assert statistics.shape == (2, COLOURS)
    assert torch.allclose(statistics, colours(batch.flip(-1).transpose(2, 3)), atol=1e-5)
    assert torch.allclose(statistics[:, :3], batch.mean(dim=(2, 3)))
    assert not torch.allclose(statistics, colours(batch.roll(1, dims=1)), atol=0.01)
    assert colours(torch.ones(1, 3, 8, 8)).isfinite().all()


@pytest.mark.parametrize(
    ("shares", "features", "label", "reason"),
    [
        ({"BA": 0.9, "LY": 0.1}, 0.1, "Basophil", None),
        ({"BA": 0.9, "LY": 0.1}, 9.0, "Basophil", None),
        ({"BNE": 0.5, "SNE": 0.4, "LY": 0.1}, 0.1, "Neutrophil", "children of Neutrophil compete"),
        ({"MO": 0.5, "LY": 0.5}, 0.1, "Lymphocyte", "low confidence"),
    ],
)
def test_an_answer_abstains_with_its_reason(
    shares: dict[str, float], features: float, label: str, reason: str | None
) -> None:
    probabilities = np.array([shares.get(cell.code, 0.0) for cell in CLASSES])
    answer = fitted(*simulated(600, 0)).answer(probabilities, np.full(3, features), top_k=2)
    assert (answer["label"], answer["reason"], answer["abstain"]) == (label, reason, reason is not None)
    assert answer["code"] == lookup(label).code
    assert len(answer["top"]) == 2
    assert answer["set"][0] == answer["top"][0]["label"]  # also out of distribution: coverage is over all cells
    assert (answer["hint"] is not None) == (answer["ood_score"] > 1) == (features == 9.0)
    if label == "Neutrophil":
        assert answer["score"] == pytest.approx(0.9)


def test_an_image_that_is_out_of_distribution_gets_a_lower_score_and_the_same_class() -> None:
    probabilities = np.array([{"BA": 0.9, "LY": 0.1}.get(cell.code, 0.0) for cell in CLASSES])
    cooler = dataclasses.replace(fitted(*simulated(600, 0)), other_temperature=2.0)
    inside, outside = (cooler.answer(probabilities, np.full(3, distance)) for distance in (0.1, 9.0))
    assert (inside["score"], outside["label"]) == (0.9, "Basophil")
    assert outside["score"] == pytest.approx(3 / 4)  # sqrt(0.9) : sqrt(0.1) = 3 : 1
    assert inside["hint"] is None
    assert "microscope" in outside["hint"]


def test_what_is_no_stained_cell_has_its_reason_and_hint() -> None:
    probabilities = np.array([float(cell.code == "BA") for cell in CLASSES])
    answer = fitted(*simulated(600, 0)).answer(probabilities, np.full(3, 9.0), refusal="it has no colours")
    assert (answer["abstain"], answer["reason"], answer["hint"]) == (True, NOT_A_CELL, "it has no colours")


def test_the_confidence_threshold_is_that_of_the_model() -> None:
    ranking = [(lookup("BA"), 0.6), (lookup("LY"), 0.4)]
    assert decide(ranking).reason == "low confidence"
    assert decide(ranking, confidence_threshold=0.55).reason == ""


def test_a_label_outside_of_the_classes_has_no_facts() -> None:
    assert set(facts_of("Tabby", CLASSES).values()) == {None}
