import numpy as np
import pytest

from celluscan_hf.reliability.outliers import QUANTILE, fit_mahalanobis, fit_scorers, sample_per_class


def test_known_cells_are_centred_by_class_and_of_size_one() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 500)
    features = rng.normal(size=(1000, 4)) * (1, 2, 1.5, 3) + 50 * labels[:, None]
    scorer = fit_mahalanobis(features, labels)
    white = (features - scorer.centres[labels]) @ scorer.whitening
    assert (white**2).mean() == pytest.approx(1, rel=0.1)
    assert scorer.centres[1] == pytest.approx(features[labels == 1].mean(axis=0))


def test_rare_classes_have_no_centre_and_few_cells_one_together() -> None:
    features = np.random.default_rng(0).normal(size=(12, 3))
    assert len(fit_mahalanobis(features, np.array([0] * 10 + [1] * 2)).centres) == 1
    alone = fit_mahalanobis(features[:2], np.array([0, 1]))
    assert alone.centres[0] == pytest.approx(features[:2].mean(axis=0))
    assert np.isfinite(alone.whitening).all()


def test_equal_features_can_still_be_inverted() -> None:
    assert np.isfinite(fit_mahalanobis(np.ones((10, 3)), np.zeros(10, np.int64)).whitening).all()


def test_sample_per_class_takes_at_most_so_many_always_the_same() -> None:
    labels = np.array([0] * 300 + [5] * 3)
    rows = sample_per_class(labels, 100)
    assert np.bincount(labels[rows]).tolist() == [100, 0, 0, 0, 0, 3]
    assert rows.tolist() == sorted(set(rows.tolist())) == sample_per_class(labels, 100).tolist()


def test_one_of_fifty_validation_cells_lies_beyond_one_by_features_and_by_colours() -> None:
    rng = np.random.default_rng(0)
    train, validation = rng.normal(size=(400, 12)), rng.normal(size=(1000, 12))
    features, colours = fit_scorers(train, np.repeat([0, 1], 200), validation)
    assert (features.centres.shape, colours.centres.shape) == ((2, 3), (2, 9))
    for part, values in ((features, validation[:, :3]), (colours, validation[:, 3:])):
        assert (part.distance(values) > 1).mean() == pytest.approx(1 - QUANTILE, abs=0.002)
