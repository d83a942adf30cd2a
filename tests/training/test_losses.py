from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from celluscan_hf.training.losses import CellLoss, class_weights

LOGITS = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 4, 0, 0, 1])
OUTPUTS = SimpleNamespace(logits=LOGITS)


def test_cross_entropy_is_that_of_torch_with_and_without_smoothing() -> None:
    for smoothing in (0.0, 0.1):
        expected = functional.cross_entropy(LOGITS, LABELS, label_smoothing=smoothing)
        assert CellLoss("cross_entropy", smoothing, 2.0)(OUTPUTS, LABELS) == pytest.approx(expected)


def test_mixed_labels_weigh_their_classes() -> None:
    shares = torch.rand(8, 5, generator=torch.Generator().manual_seed(1)).softmax(1)
    expected = functional.cross_entropy(LOGITS, shares, label_smoothing=0.1)
    assert CellLoss("cross_entropy", 0.1, 2.0)(OUTPUTS, shares) == pytest.approx(expected)


def test_micro_batches_add_up_to_the_mean_of_the_whole_batch() -> None:
    loss = CellLoss("focal", 0.1, 2.0)
    parts = [
        loss(SimpleNamespace(logits=LOGITS[here]), LABELS[here], num_items_in_batch=8)
        for here in (slice(0, 3), slice(3, 8))
    ]
    assert sum(parts) == pytest.approx(loss(OUTPUTS, LABELS))


def test_focal_lowers_the_weight_of_what_is_told_well() -> None:
    probability = LOGITS.softmax(1)[torch.arange(8), LABELS]
    expected = ((1 - probability) ** 2 * -probability.log()).mean()
    assert CellLoss("focal", 0.0, 2.0)(OUTPUTS, LABELS) == pytest.approx(expected)
    assert CellLoss("focal", 0.0, 0.0)(OUTPUTS, LABELS) == pytest.approx(functional.cross_entropy(LOGITS, LABELS))


def test_class_balanced_weighs_by_the_inverse_effective_number() -> None:
    weights = class_weights([100, 10, 0], beta=0.99)
    ratio = (1 - 0.99**100) / (1 - 0.99**10)
    assert weights[1] / weights[0] == pytest.approx(ratio)
    assert weights[2] == 0
    assert (weights * torch.tensor([100, 10, 0])).sum() / 110 == pytest.approx(1)
    loss = CellLoss("class_balanced", 0.0, 2.0, torch.tensor([1.0, 2, 3, 4, 5]))(OUTPUTS, LABELS)
    each = functional.cross_entropy(LOGITS, LABELS, reduction="none")
    assert loss == pytest.approx((each * (LABELS + 1)).mean())
