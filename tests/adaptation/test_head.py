"""The head: near the source's where cells say nothing, right where they do, and one linear layer."""

import numpy as np
import pytest
from scipy.special import log_softmax

from celluscan_hf.adaptation.head import LinearHead, balanced_weights, fit_head, fit_heads, whitener

RNG = np.random.default_rng(0)
SOURCE = LinearHead(RNG.normal(size=(5, 8)), RNG.normal(size=5))
LABELS = np.repeat([1, 3], [12, 4])
FEATURES = RNG.normal(size=(16, 8)) + 3 * np.eye(8)[LABELS]


def test_it_learns_the_classes_of_the_cells() -> None:
    fitted = fit_head(SOURCE, FEATURES[None], LABELS, strength=0.1)
    assert (fitted(FEATURES).argmax(axis=1) == LABELS).all()
    assert not (SOURCE(FEATURES).argmax(axis=1) == LABELS).all()


def test_classes_without_cells_stay_as_they_were() -> None:
    fitted = fit_head(SOURCE, FEATURES[None], LABELS, strength=1.0)
    absent = [0, 2, 4]
    assert np.array_equal(fitted.weight[absent], SOURCE.weight[absent])
    assert np.array_equal(fitted.bias[absent], SOURCE.bias[absent])


def test_what_is_found_is_the_minimum() -> None:
    mean, whitening = whitener(FEATURES, LABELS)

    def energy(change: np.ndarray) -> float:
        logits = SOURCE(FEATURES) + (FEATURES - mean) @ whitening @ change[:, :8].T + change[:, 8]
        losses = -log_softmax(logits, axis=1)[np.arange(16), LABELS]
        return float(
            (balanced_weights(LABELS) * losses).sum() + (change[:, :8] ** 2).sum() + (change[:, 8] ** 2).sum() / 18
        )

    fitted = fit_head(SOURCE, FEATURES[None], LABELS, strength=2.0)
    found = np.zeros((5, 9))
    found[:, :8] = (fitted.weight - SOURCE.weight) @ np.linalg.inv(whitening).T
    found[:, 8] = fitted.bias - SOURCE.bias + (fitted.weight - SOURCE.weight) @ mean
    for _ in range(20):
        step = np.zeros((5, 9))
        step[[1, 3]] = 0.05 * RNG.normal(size=(2, 9))
        assert energy(found) < energy(found + step)


def test_a_strong_prior_keeps_the_direction_of_the_head() -> None:
    fitted = fit_head(SOURCE, FEATURES[None], LABELS, strength=1e6)
    assert np.abs(fitted.weight - SOURCE.weight).max() < 1e-3


def test_the_scale_of_a_feature_does_not_matter() -> None:
    scale = np.array([1e3, 1, 1e-2, 1, 1, 5, 1, 1])
    fitted = fit_head(SOURCE, FEATURES[None], LABELS, strength=1.0)
    scaled = fit_head(LinearHead(SOURCE.weight / scale, SOURCE.bias), (FEATURES * scale)[None], LABELS, strength=1.0)
    assert scaled(FEATURES * scale) == pytest.approx(fitted(FEATURES), abs=1e-3)


def test_every_class_weighs_the_same() -> None:
    weights = balanced_weights(LABELS)
    assert weights.mean() == pytest.approx(1)
    assert weights[LABELS == 1].sum() == pytest.approx(weights[LABELS == 3].sum())


def test_a_feature_that_never_varies_does_no_harm() -> None:
    constant = FEATURES.copy()
    constant[:, 0] = 2.0
    assert np.isfinite(fit_head(SOURCE, constant[None], LABELS, strength=1.0)(constant)).all()


def test_what_differs_within_classes_counts_less() -> None:
    noisy = FEATURES.copy()
    noisy[:, :2] += 5 * RNG.normal(size=(16, 1))  # the same in two features, whatever the class
    mean, whitening = whitener(noisy, LABELS)
    spreads = []
    for values in ((noisy - mean) / noisy.std(axis=0), (noisy - mean) @ whitening):
        within = values - np.stack([values[label == LABELS].mean(axis=0) for label in LABELS])
        spreads.append(np.linalg.eigvalsh(within.T @ within))
    assert spreads[1][-1] / spreads[1].mean() < 0.7 * spreads[0][-1] / spreads[0].mean()
    assert ((noisy - mean) @ whitening).std(axis=0).mean() == pytest.approx(1)


def test_one_cell_of_each_class_in_one_look_is_enough() -> None:
    fitted = fit_head(SOURCE, FEATURES[None, [0, 15]], LABELS[[0, 15]], strength=0.01)
    assert (fitted(FEATURES[[0, 15]]).argmax(axis=1) == LABELS[[0, 15]]).all()


def test_heads_of_several_strengths_are_those_of_each() -> None:
    for strength, head in zip((10.0, 1.0), fit_heads(SOURCE, FEATURES[None], LABELS, (10.0, 1.0)), strict=True):
        assert head(FEATURES) == pytest.approx(fit_head(SOURCE, FEATURES[None], LABELS, strength)(FEATURES), abs=0.02)


def test_looks_at_a_cell_weigh_as_one_cell() -> None:
    once = fit_head(SOURCE, FEATURES[None], LABELS, strength=1.0)
    thrice = fit_head(SOURCE, np.stack([FEATURES] * 3), LABELS, strength=1.0)
    assert thrice(FEATURES) == pytest.approx(once(FEATURES), abs=1e-3)
