from collections import Counter

import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.training.sampling import CellSampler

LABELS = [0] * 50 + [1] * 9 + [4] * 5


def test_natural_draws_every_row_at_most_once() -> None:
    rows = [draw.row for draw in CellSampler(LABELS, "natural", seed=1, batch=10)]
    assert len(rows) == 60
    assert len(set(rows)) == 60


def test_every_epoch_leaves_other_rows_out() -> None:
    sampler, shown = CellSampler(LABELS, "natural", seed=1, batch=10), set()
    for epoch in range(5):
        sampler.set_epoch(epoch)
        shown.add(frozenset(draw.row for draw in sampler))
    assert len(shown) == 5


def test_balanced_draws_classes_and_their_rows_equally_often() -> None:
    rows = [draw.row for draw in CellSampler(LABELS, "balanced", seed=1, batch=1)]
    assert sorted(Counter(LABELS[row] for row in rows).values()) == [21, 21, 22]
    small = Counter(row for row in rows if LABELS[row] == 4)
    assert len(small) == 5
    assert max(small.values()) - min(small.values()) <= 1


SOURCES = ["one"] * 40 + ["two"] * 10 + ["one"] * 9 + ["two"] * 5


def counts(kind: str) -> Counter[tuple[int, str]]:
    """Draws of each class and source in an epoch."""
    draws = CellSampler(LABELS, kind, seed=1, batch=1, sources=SOURCES)
    return Counter((LABELS[draw.row], SOURCES[draw.row]) for draw in draws)


def test_balanced_sources_draws_the_sources_of_a_class_equally_often() -> None:
    by_source = counts("balanced_sources")
    assert abs(by_source[0, "one"] - by_source[0, "two"]) <= 1
    assert by_source[1, "one"] in (21, 22)
    assert by_source[4, "two"] in (21, 22)
    assert sum(by_source.values()) == 64


def test_sqrt_draws_by_the_square_root_of_the_rows_of_a_class_in_a_source() -> None:
    roots = {key: count**0.5 for key, count in Counter(zip(LABELS, SOURCES, strict=True)).items()}
    for key, count in counts("sqrt").items():
        assert abs(count - 64 * roots[key] / sum(roots.values())) < 1


def test_every_epoch_has_an_order_of_its_own_that_the_seed_decides() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = CellSampler(LABELS, "natural", seed, batch=1)
        sampler.set_epoch(epoch)
        return [draw.row for draw in sampler]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_draw_numbers_are_unique_in_a_run() -> None:
    sampler = CellSampler(LABELS, "balanced", seed=1, batch=10)
    numbers = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        numbers += [draw.number for draw in sampler]
    assert sorted(numbers) == list(range(180))


def test_fewer_rows_than_a_batch_are_refused_with_the_option_to_lower() -> None:
    with pytest.raises(
        CelluScanError, match=r"64 rows, fewer than one batch over all processes \(100\).*per_device_train_batch"
    ):
        CellSampler(LABELS, "natural", seed=1, batch=100)
