import itertools
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from celluscan_hf import taxonomy
from celluscan_hf.training.losses import LOSSES, CellLoss, class_weights, hierarchical_log_probs, maturation_error
from celluscan_hf.training.settings import TrainingSettings

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


def test_focal_lowers_the_weight_of_what_is_classified_well() -> None:
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


IDS = {cell.code: label for label, cell in enumerate(taxonomy.CLASSES)}
PARENTS = ("NEU", "IG")


def scores(**shares: float) -> torch.Tensor:
    """Logits (1, 14) whose probabilities are these shares, by code; the other classes have next to none."""
    probabilities = torch.full((1, 14), 1e-30)
    for code, share in shares.items():
        probabilities[0, IDS[code]] = share
    return probabilities.log()


def mixed(**shares: float) -> torch.Tensor:
    """A label (1, 14) of these shares, by code."""
    label = torch.zeros(1, 14)
    for code, share in shares.items():
        label[0, IDS[code]] = share
    return label


def hierarchical(
    logits: torch.Tensor, labels: torch.Tensor, parent_share: float = 0.0, smoothing: float = 0.0, **options: Any
) -> torch.Tensor:
    loss = CellLoss("hierarchical", smoothing, 2.0, parent_share=parent_share, maturation_weight=0.0)
    return loss(SimpleNamespace(logits=logits), labels, **options)


def ordinal(logits: torch.Tensor, labels: torch.Tensor, kind: str = "cross_entropy", **options: Any) -> float:
    """What a weight of 1 adds to a loss."""
    outputs = SimpleNamespace(logits=logits)
    with_term, without = (CellLoss(kind, 0.1, 2.0, maturation_weight=weight, **options) for weight in (1.0, 0.0))
    return float(with_term(outputs, labels) - without(outputs, labels))


ALL = torch.randn(14, 14, generator=torch.Generator().manual_seed(2))  # logits of a cell of each class
EVERY = torch.arange(14)
CHILDLESS = torch.tensor([label for label in range(14) if taxonomy.CLASSES[label].code not in PARENTS])


def test_a_parent_label_counts_itself_and_any_child_as_right() -> None:
    logits = scores(NEU=0.1, BNE=0.2, SNE=0.3, LY=0.4)
    assert hierarchical(logits, mixed(NEU=1)) == pytest.approx(-math.log(0.6))
    assert hierarchical(logits, mixed(NEU=1), parent_share=0.25) == pytest.approx(
        -0.25 * math.log(0.1) - 0.75 * math.log(0.6)
    )
    assert hierarchical(logits, mixed(BNE=1)) == pytest.approx(-math.log(0.2))
    logits = scores(IG=0.1, PMY=0.1, MY=0.2, MMY=0.3, MYO=0.3)  # a Myeloblast is not a child of it
    assert hierarchical(logits, mixed(IG=1)) == pytest.approx(-math.log(0.7))


def test_labels_without_children_have_the_cross_entropy() -> None:
    logits = ALL[CHILDLESS]
    flat = CellLoss("cross_entropy", 0.0, 2.0)(SimpleNamespace(logits=logits), CHILDLESS)
    for share in (0.0, 0.3):
        assert torch.equal(hierarchical(logits, CHILDLESS, share), flat)


def test_a_parent_share_of_one_is_cross_entropy() -> None:
    expected = functional.cross_entropy(ALL, EVERY, label_smoothing=0.1)
    assert hierarchical(ALL, EVERY, 1.0, smoothing=0.1) == pytest.approx(expected)


def test_each_part_of_a_mixed_label_has_its_own_likelihood() -> None:
    logits = scores(NEU=0.1, BNE=0.2, SNE=0.3, LY=0.4)
    expected = -0.7 * math.log(0.6) - 0.1 * math.log(0.2) - 0.2 * math.log(0.4)
    assert hierarchical(logits, mixed(NEU=0.7, BNE=0.1, LY=0.2)) == pytest.approx(expected)


def test_within_a_family_only_the_parent_share_prefers_the_parent() -> None:
    logits = scores(NEU=0.2, BNE=0.3, SNE=0.5).requires_grad_()
    (slope,) = torch.autograd.grad(hierarchical(logits, mixed(NEU=1)), logits)
    assert slope.abs().max() < 1e-6
    (slope,) = torch.autograd.grad(hierarchical(logits, mixed(NEU=1), parent_share=0.1), logits)
    assert slope[0, IDS["NEU"]] == pytest.approx(0.1 * (0.2 - 1))
    assert slope[0, IDS["SNE"]] == pytest.approx(0.1 * 0.5)


def test_a_family_with_next_to_no_probability_keeps_its_gradient() -> None:
    logits = torch.zeros(1, 14)
    logits[0, [IDS[code] for code in ("NEU", "BNE", "SNE")]] = -500.0
    logits.requires_grad_()
    loss = hierarchical(logits, mixed(NEU=1))
    (slope,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(500 - math.log(3) + math.log(11))
    assert slope[0, [IDS["NEU"], IDS["BNE"], IDS["SNE"]]].tolist() == pytest.approx([-1 / 3] * 3, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", LOSSES)
def test_logits_of_half_precision_lose_nothing_but_their_own_rounding(kind: str, dtype: torch.dtype) -> None:
    logits = (20000 * ALL.clamp(-3, 3)).to(dtype).requires_grad_()
    loss = CellLoss(kind, 0.1, 2.0, torch.ones(14), maturation_weight=0.5)
    value = loss(SimpleNamespace(logits=logits), EVERY)
    (slope,) = torch.autograd.grad(value, logits)
    assert value == loss(SimpleNamespace(logits=logits.float()), EVERY)
    assert value.isfinite() and slope.isfinite().all()
    small = ALL.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss(SimpleNamespace(logits=small), EVERY) == loss(SimpleNamespace(logits=small.float()), EVERY)


@pytest.mark.parametrize("part", [partial(hierarchical_log_probs, parent_share=0.2), maturation_error])
def test_gradients_are_those_of_finite_differences(part: Callable[[torch.Tensor], torch.Tensor]) -> None:
    logits = ALL[:3].double().requires_grad_()
    assert torch.autograd.gradcheck(lambda scores: part(scores.log_softmax(-1)), (logits,))


def test_a_certain_prediction_costs_the_stages_it_is_off() -> None:
    stages = ["MYO", "PMY", "MY", "MMY", "BNE", "SNE"]
    for true, predicted in itertools.product(range(6), repeat=2):
        cost = ordinal(scores(**{stages[predicted]: 1.0}), torch.tensor([IDS[stages[true]]]))
        assert cost == pytest.approx(abs(true - predicted), abs=1e-4)


def test_uncertainty_costs_the_squared_distance_of_the_shares() -> None:
    uncertain = scores(PMY=0.2, MY=0.5, MMY=0.1, BNE=0.2)
    assert ordinal(uncertain, mixed(MY=1)) == pytest.approx(0.2**2 + 0.3**2 + 0.2**2, abs=1e-5)


def test_only_what_the_stages_share_among_them_counts() -> None:
    inside = ordinal(scores(MY=0.5, MMY=0.5), mixed(MY=1))
    assert ordinal(scores(MY=0.2, MMY=0.2, LY=0.5, IG=0.05, NEU=0.05), mixed(MY=1)) == pytest.approx(inside, abs=1e-5)
    logits = scores(MY=0.2, MMY=0.2, LY=0.6).requires_grad_()
    (slope,) = torch.autograd.grad((maturation_error(logits.log_softmax(-1)) * mixed(MY=1)).sum(), logits)
    assert slope[0, IDS["LY"]] == 0
    assert slope[0, IDS["MMY"]] > 0 > slope[0, IDS["MY"]]


def test_a_parent_leaves_its_stages_open() -> None:
    for predicted in ({"PMY": 1.0}, {"MMY": 1.0}, {"PMY": 0.3, "MY": 0.2, "MMY": 0.5}):
        assert ordinal(scores(**predicted), mixed(IG=1)) == pytest.approx(0, abs=1e-5)
    assert ordinal(scores(BNE=0.1, SNE=0.9), mixed(NEU=1)) == pytest.approx(0, abs=1e-5)
    for label, predicted, stages in (("IG", "MYO", 1), ("IG", "SNE", 2), ("NEU", "MMY", 1), ("NEU", "MYO", 4)):
        assert ordinal(scores(**{predicted: 1.0}), mixed(**{label: 1})) == pytest.approx(stages, abs=1e-4)


def test_labels_without_a_stage_cost_nothing() -> None:
    off = [label for label, cell in enumerate(taxonomy.CLASSES) if not taxonomy.stages(cell.name)]
    assert len(off) == 6
    assert (maturation_error(ALL.log_softmax(-1))[:, off] == 0).all()


def test_mixed_labels_pay_for_each_part() -> None:
    logits = scores(MYO=0.5, PMY=0.5)
    assert ordinal(logits, mixed(MYO=0.5, PMY=0.2, LY=0.3)) == pytest.approx(0.5 * 0.25 + 0.2 * 0.25, abs=1e-5)


def test_the_maturation_term_is_least_for_honest_probabilities() -> None:
    honest = {"PMY": 0.5, "MY": 0.3, "MMY": 0.2}
    best = ordinal(scores(**honest), mixed(**honest))
    for other in ({"PMY": 1.0}, {"MY": 1.0}, {"PMY": 0.6, "MY": 0.3, "MMY": 0.1}, {"PMY": 0.4, "MY": 0.3, "MMY": 0.3}):
        assert ordinal(scores(**other), mixed(**honest)) > best + 1e-3


@pytest.mark.parametrize("kind", LOSSES)
def test_the_maturation_term_stands_beside_any_loss(kind: str) -> None:
    weights = torch.arange(1.0, 15.0) if kind == "class_balanced" else None
    costs = maturation_error(ALL.log_softmax(-1))[EVERY, EVERY]
    expected = (costs if weights is None else costs * weights).mean()
    assert ordinal(ALL, EVERY, kind, class_weights=weights) == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("kind", LOSSES)
def test_a_step_in_eight_parts_is_a_step_in_one(kind: str) -> None:
    loss = CellLoss(kind, 0.1, 2.0, torch.arange(1.0, 15.0), parent_share=0.3, maturation_weight=0.5)
    logits, labels = ALL.repeat(4, 1)[:48], EVERY.repeat(4)[:48]
    parts = [
        loss(SimpleNamespace(logits=part), some, num_items_in_batch=torch.tensor(48))
        for part, some in zip(logits.chunk(8), labels.chunk(8), strict=True)
    ]
    assert sum(parts) == pytest.approx(loss(SimpleNamespace(logits=logits), labels))


def test_the_options_that_a_loss_names_are_settings() -> None:
    options = [option for loss in LOSSES.values() for option in loss.options]
    assert options and set(options) <= set(TrainingSettings.__dataclass_fields__)
