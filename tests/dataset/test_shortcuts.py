import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from celluscan_hf.dataset import shortcuts
from celluscan_hf.dataset.shortcuts import RING_FEATURES, CellContext, ring


def context(
    labels: np.ndarray, backgrounds: np.ndarray, sources: list[str] | None = None, seed: int = 0
) -> CellContext:
    """Return originals of one size and coding, with rings of the given grey levels."""
    rows = pa.table(
        {
            "label": pa.array(labels),
            "width": pa.array([64] * len(labels), pa.int32()),
            "height": pa.array([64] * len(labels), pa.int32()),
            "acquisition": ["64x64/png/warm"] * len(labels),
            "source": sources or ["one"] * len(labels),
        }
    )
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 2, (len(labels), RING_FEATURES))
    return CellContext(rows, (backgrounds[:, None] + noise).astype(np.float32))


LABELS = np.arange(200) % 2


def test_a_background_that_differs_by_class_is_found() -> None:
    result = shortcuts.audit(context(LABELS, 200 + 40 * LABELS), context(LABELS, 200 + 40 * LABELS), 0, 1)
    assert result["ring"]["balanced_accuracy"] > 0.95
    assert result["background"]["balanced_accuracy"] > 0.95
    assert result["all"]["balanced_accuracy"] > 0.95


def test_equal_backgrounds_stay_at_chance() -> None:
    result = shortcuts.audit(context(LABELS, np.full(200, 220.0)), context(LABELS, np.full(200, 220.0), seed=1), 0, 1)
    assert result["ring"]["balanced_accuracy"] == pytest.approx(result["ring"]["chance"], abs=0.15)
    assert result["size"]["balanced_accuracy"] == result["size"]["chance"] == 0.5


def test_a_source_of_one_class_is_found_and_an_unknown_one_is_not_an_error() -> None:
    names = [f"source {label}" for label in LABELS]
    result = shortcuts.audit(
        context(LABELS, np.full(200, 220.0), names), context(LABELS, np.full(200, 220.0), names), 0, 1
    )
    assert result["source"]["balanced_accuracy"] == 1.0
    assert result["source"]["recall"] == {"Band Neutrophil": 1.0, "Basophil": 1.0}
    other = context(LABELS, np.full(200, 220.0), ["elsewhere"] * 200)
    assert (
        shortcuts.audit(context(LABELS, np.full(200, 220.0), names), other, 0, 1)["source"]["balanced_accuracy"] == 0.5
    )


def test_the_result_does_not_depend_on_the_number_of_processes() -> None:
    train, test = context(LABELS, 200 + 3 * LABELS), context(LABELS, 200 + 3 * LABELS)
    assert shortcuts.audit(train, test, 7, 1) == shortcuts.audit(train, test, 7, 2)


def test_a_single_class_gives_no_result() -> None:
    assert shortcuts.audit(context(LABELS * 0, LABELS * 1.0), context(LABELS, LABELS * 1.0), 0, 1) == {}


def test_a_ring_depends_on_the_border_and_not_on_the_centre() -> None:
    image = Image.new("RGB", (224, 224), (250, 230, 210))
    features = ring(image)
    assert features.shape == (RING_FEATURES,)
    assert features[:3] == pytest.approx([250, 230, 210])
    image.paste((90, 20, 140), (40, 40, 180, 180))
    assert np.array_equal(ring(image), features)
    image.paste((90, 20, 140), (0, 0, 224, 4))
    assert not np.array_equal(ring(image), features)


@pytest.mark.parametrize("size", [(1, 1), (3, 200)])
def test_a_thin_image_has_a_ring_too(size: tuple[int, int]) -> None:
    assert np.isfinite(ring(Image.new("RGB", size))).all()
