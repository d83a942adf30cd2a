import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from celluscan_hf.dataset import shortcuts
from celluscan_hf.dataset.shortcuts import RING_FEATURES, Seen, ring


def seen(labels: np.ndarray, backgrounds: np.ndarray, sources: list[str] | None = None, seed: int = 0) -> Seen:
    """Originals of one size and coding, their rings of the given grey levels."""
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
    return Seen(rows, (backgrounds[:, None] + noise).astype(np.float32))


LABELS = np.arange(200) % 2


def test_a_background_that_differs_by_class_is_found() -> None:
    found = shortcuts.audit(seen(LABELS, 200 + 40 * LABELS), seen(LABELS, 200 + 40 * LABELS), 0, 1)
    assert found["ring"]["balanced_accuracy"] > 0.95
    assert found["background"]["balanced_accuracy"] > 0.95
    assert found["all"]["balanced_accuracy"] > 0.95


def test_one_background_for_all_tells_nothing() -> None:
    found = shortcuts.audit(seen(LABELS, np.full(200, 220.0)), seen(LABELS, np.full(200, 220.0), seed=1), 0, 1)
    assert found["ring"]["balanced_accuracy"] == pytest.approx(found["ring"]["chance"], abs=0.15)
    assert found["size"]["balanced_accuracy"] == found["size"]["chance"] == 0.5


def test_a_source_of_one_class_is_found_and_an_unknown_one_is_no_error() -> None:
    names = [f"source {label}" for label in LABELS]
    found = shortcuts.audit(seen(LABELS, np.full(200, 220.0), names), seen(LABELS, np.full(200, 220.0), names), 0, 1)
    assert found["source"]["balanced_accuracy"] == 1.0
    assert found["source"]["recall"] == {"Band Neutrophil": 1.0, "Basophil": 1.0}
    other = seen(LABELS, np.full(200, 220.0), ["elsewhere"] * 200)
    assert shortcuts.audit(seen(LABELS, np.full(200, 220.0), names), other, 0, 1)["source"]["balanced_accuracy"] == 0.5


def test_the_result_does_not_depend_on_the_number_of_processes() -> None:
    train, test = seen(LABELS, 200 + 3 * LABELS), seen(LABELS, 200 + 3 * LABELS)
    assert shortcuts.audit(train, test, 7, 1) == shortcuts.audit(train, test, 7, 2)


def test_one_class_alone_cannot_be_told_apart() -> None:
    assert shortcuts.audit(seen(LABELS * 0, LABELS * 1.0), seen(LABELS, LABELS * 1.0), 0, 1) == {}


def test_a_ring_knows_its_border_and_not_its_middle() -> None:
    image = Image.new("RGB", (224, 224), (250, 230, 210))
    described = ring(image)
    assert described.shape == (RING_FEATURES,)
    assert described[:3] == pytest.approx([250, 230, 210])
    image.paste((90, 20, 140), (40, 40, 180, 180))
    assert np.array_equal(ring(image), described)
    image.paste((90, 20, 140), (0, 0, 224, 4))
    assert not np.array_equal(ring(image), described)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3)])
def test_a_thin_image_has_a_ring_too(size: tuple[int, int]) -> None:
    assert np.isfinite(ring(Image.new("RGB", size))).all()
