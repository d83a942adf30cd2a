import numpy as np
import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.reliability.temperature import Adjustment, fit_adjustment, fit_temperature, nll


def cells(count: int, seed: int, temperature: float = 1.0, bias: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits (count, 14) of a model whose true logits are z / temperature, and `bias` more for class 3; labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (count, 14))
    true = logits / temperature + bias * (np.arange(14) == 3)
    return logits, (true + rng.gumbel(size=logits.shape)).argmax(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found_and_the_second_one_is_one(temperature: float) -> None:
    logits, labels = cells(4000, 0, temperature)
    fitted = fit_temperature(logits, labels)
    assert fitted == pytest.approx(temperature, rel=0.1)
    assert fit_temperature(logits / fitted, labels) == pytest.approx(1, abs=1e-4)


def test_no_cell_gives_no_temperature() -> None:
    with pytest.raises(CelluScanError, match="no cell to calibrate on"):
        fit_temperature(np.zeros((0, 14)), np.zeros(0, np.int64))


def test_sixteen_cells_of_a_microscope_that_needs_nothing_do_little_harm() -> None:
    judged = cells(2000, 1)
    before = nll(*judged)
    after = [nll(fit_adjustment(*cells(16, seed))(judged[0]), judged[1]) for seed in range(10, 20)]
    assert np.mean(after) < before + 0.1


def test_a_shift_is_undone_the_better_the_more_cells_there_are() -> None:
    judged = cells(2000, 1, 2.5, 2.0)
    few, many = (nll(fit_adjustment(*cells(count, 2, 2.5, 2.0))(judged[0]), judged[1]) for count in (16, 1000))
    assert many < few < nll(*judged)
    assert fit_adjustment(*cells(1000, 2, 2.5, 2.0)).bias.argmax() == 3


def test_a_class_that_no_cell_hints_at_keeps_its_bias() -> None:
    logits, labels = cells(64, 0)
    logits[:, 5] = -30
    labels[labels == 5] = 6
    assert fit_adjustment(logits, labels).bias[5] == pytest.approx(0, abs=1e-3)


def test_an_adjustment_divides_and_adds() -> None:
    assert Adjustment(2.0, np.array([0.0, 1.0]))(np.array([[2.0, 4.0]])).tolist() == [[1.0, 3.0]]


def test_few_cells_that_are_all_right_do_not_make_every_answer_certain() -> None:
    labels = np.arange(10) % 3
    logits = 2.0 * np.eye(3)[labels]
    assert fit_temperature(logits, labels) < 0.05
    assert 0.4 < fit_temperature(logits, labels, 0.5) < 1
    rng = np.random.default_rng(0)
    many = rng.normal(0, 3, (4000, 3))
    truth = np.array([rng.choice(3, p=np.exp(row) / np.exp(row).sum()) for row in many / 2])
    assert fit_temperature(many, truth, 0.5) == pytest.approx(fit_temperature(many, truth), rel=0.01)
