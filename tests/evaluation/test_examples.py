"""Examples are recognised cells that may be shown, the first by name, and say whose they are."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.evaluation.cells import Cell, Cells
from celluscan_hf.evaluation.examples import choose_examples, write_examples


@pytest.fixture
def cell(cell_image):
    def make(image_id: str, code: str, license: str = "CC-BY-4.0") -> Cell:
        label = taxonomy.LABEL2ID[taxonomy.lookup(code).name]
        return Cell(image_id, "drawn", code, license, image_id, "0" * 64, label, partial(cell_image, len(image_id)))

    return make


@pytest.fixture
def predictions_of(predicted):
    """Predictions of cells, from what the model said of each."""

    def make(cells, codes, probability=0.9):
        true = [taxonomy.CLASSES[cell.label].code for cell in cells]
        predictions = predicted([(true_code, other, probability) for true_code, other in zip(true, codes, strict=True)])
        predictions.facts["image_id"][:] = [cell.image_id for cell in cells]
        return predictions

    return make


def ids(cells):
    return [cell.image_id for cell in cells]


def test_each_class_has_the_first_of_its_recognised_cells_by_name(cell, predictions_of):
    kept = [cell("d/3", "MO"), cell("d/2", "BA"), cell("d/1", "BA"), cell("d/0", "BA")]
    assert ids(choose_examples(predictions_of(kept, ["MO", "BA", "BA", "LY"]), kept)) == ["d/1", "d/3"]


def test_none_is_picked_for_how_sure_the_model_was(cell, predictions_of, predicted):
    kept = [cell("d/1", "BA"), cell("d/2", "BA")]
    predictions = predicted([("BA", "BA", 0.4), ("BA", "BA", 0.99)])
    predictions.facts["image_id"][:] = ids(kept)
    assert ids(choose_examples(predictions, kept)) == ["d/1"]


@pytest.mark.parametrize("license", ["unknown", "free for research", ""])
def test_a_cell_that_may_not_be_passed_on_is_not_shown(license, cell, predictions_of):
    kept = [cell("d/1", "BA", license), cell("d/2", "BA", "MIT"), cell("d/3", "LY", license)]
    assert ids(choose_examples(predictions_of(kept, ["BA", "BA", "LY"]), kept)) == ["d/2"]


def test_a_cell_whose_image_could_not_be_used_is_not_shown(cell, predictions_of):
    kept = [cell("d/1", "BA"), cell("d/2", "BA")]
    assert ids(choose_examples(predictions_of(kept[1:], ["BA"]), kept)) == ["d/2"]


def test_files_and_facts_of_the_examples_agree(cell, predictions_of, tmp_path):
    kept = [cell("d/1", "PMY"), cell("d/22", "BNE", "MIT")]
    described = {"sources": {"drawn": {"title": "Drawn cells", "license": "MIT", "caution": ""}}}
    examples = write_examples(predictions_of(kept, ["PMY", "BNE"]), Cells(kept, [], described), tmp_path)
    assert examples[0] == {
        "file": "examples/BNE.jpg",
        "class": "Band Neutrophil",
        "code": "BNE",
        "image_id": "d/22",
        "source": "drawn",
        "license": "MIT",
        "title": "Drawn cells",
    }
    assert [entry["code"] for entry in examples] == ["BNE", "PMY"]
    assert {path.name for path in (tmp_path / "examples").iterdir()} == {"BNE.jpg", "PMY.jpg"}
    with Image.open(tmp_path / "examples" / "BNE.jpg") as image:
        assert image.format == "JPEG"
        shown = np.asarray(image, float)
    assert np.abs(shown - np.asarray(kept[1].read(), float)).mean() < 2


def test_the_file_is_of_quality_95(cell, predictions_of, tmp_path):
    kept = [cell("d/1", "BA")]
    write_examples(predictions_of(kept, ["BA"]), Cells(kept, [], {"sources": {"drawn": {"title": ""}}}), tmp_path)
    expected = io.BytesIO()
    kept[0].read().save(expected, "JPEG", quality=95)
    with Image.open(tmp_path / "examples" / "BA.jpg") as image, Image.open(expected) as same:
        assert image.quantization == same.quantization  # type: ignore[attr-defined]


def test_without_any_there_is_no_folder(cell, predictions_of, tmp_path):
    kept = [cell("d/1", "BA")]
    assert write_examples(predictions_of(kept, ["LY"]), Cells(kept, [], {"sources": {}}), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
