"""Synthetic cells: repeatable, of the given size, and distinguished by morphology, not by their background."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from celluscan_hf import taxonomy
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.sources.morphology import DRAWN, FINER, MORPHOLOGY

Pixels = NDArray[np.int64]


def pixels(name: str, seed: int, size: int = 256) -> Pixels:
    return np.asarray(draw_cell(name, np.random.default_rng(seed), size), np.int64)


def purple(cell: Pixels) -> float:
    """The share of the middle, where no red cell lies, that is stained as dark as a nucleus."""
    middle = cell[64:192, 64:192]
    return float(((middle[..., 1] < 105) & (middle[..., 2] > middle[..., 1] + 25)).mean())


def orange(cell: Pixels) -> float:
    middle = cell[64:192, 64:192]
    return float(((middle[..., 0] > middle[..., 2] + 40) & (middle[..., 1] < 150)).mean())


def mean_of(measure: Callable[[Pixels], float], name: str) -> float:
    return float(np.mean([measure(pixels(name, seed)) for seed in range(6)]))


def border(cell: Pixels) -> Pixels:
    return np.concatenate([cell[:8].reshape(-1, 3), cell[-8:].reshape(-1, 3)])


@pytest.mark.parametrize("name", DRAWN)
def test_a_cell_is_an_rgb_square_that_depends_on_the_seed_alone(name: str) -> None:
    image = draw_cell(name, np.random.default_rng(0), 96)
    assert (image.mode, image.size) == ("RGB", (96, 96))
    assert np.array_equal(pixels(name, 0, 96), np.asarray(image))
    assert not np.array_equal(pixels(name, 1, 96)[24:72, 24:72], np.asarray(image)[24:72, 24:72])


def test_an_unknown_class_is_named_in_the_error() -> None:
    with pytest.raises(KeyError, match="Smudge Cell"):
        draw_cell("Smudge Cell", np.random.default_rng(0))


def test_the_published_classes_have_a_morphology_or_children() -> None:
    assert set(MORPHOLOGY) | set(FINER) == set(DRAWN) >= set(taxonomy.NAMES[:14])
    assert all(taxonomy.is_ancestor(parent, child) for parent, finer in FINER.items() for child in finer)


@pytest.mark.parametrize(
    "order",
    [
        ("Platelet", "Erythroblast", "Segmented Neutrophil", "Promyelocyte"),
        ("Platelet", "Band Neutrophil", "Metamyelocyte", "Myeloblast"),
        ("Lymphocyte", "Monocyte", "Myeloblast"),
    ],
)
def test_dark_purple_grows_with_the_nucleus(order: tuple[str, ...]) -> None:
    shares = [mean_of(purple, name) for name in order]
    assert shares == sorted(shares)


def test_only_the_eosinophil_is_full_of_orange_granules() -> None:
    shares = {name: mean_of(orange, name) for name in taxonomy.NAMES}
    assert shares.pop("Eosinophil") > 0.15
    assert max(shares.values()) < 0.02


def test_the_background_is_the_same_for_every_class() -> None:
    reference = border(pixels("Platelet", 3))
    assert all(np.array_equal(border(pixels(name, 3)), reference) for name in taxonomy.NAMES)


def test_the_background_varies_more_between_cells_than_between_classes() -> None:
    lymphocytes, monocytes = (
        np.array([border(pixels(name, seed)).mean(0) for seed in seeds])
        for name, seeds in (("Lymphocyte", range(12)), ("Monocyte", range(12, 24)))
    )
    assert (abs(lymphocytes.mean(0) - monocytes.mean(0)) < lymphocytes.std(0) + monocytes.std(0)).all()
