from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from celluscan_hf.errors import CelluScanError
from celluscan_hf.space import recogniser as module
from celluscan_hf.space.page import record
from celluscan_hf.space.recogniser import Recogniser
from celluscan_hf.space.texts import card


@pytest.mark.parametrize(("bfloat16", "tolerance"), [(False, 1e-4), (True, 0.02)])
def test_answers_are_those_of_the_pipeline_and_do_not_depend_on_the_batch(
    bfloat16: bool, tolerance: float, checkpoint: Path, cell_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "computes_bfloat16", lambda device: bfloat16)
    files = [cell_files["Basophil"], cell_files["Monocyte"]]
    recogniser = Recogniser(str(checkpoint))
    together = recogniser.recognise(files)
    classify = pipeline("image-classification", model=str(checkpoint))
    overlaid = recogniser.recognise(files, overlay=True)
    for file, result, overlay in zip(files, together, overlaid, strict=True):
        expected = {row["label"]: row["score"] for row in classify(str(file), top_k=14)}
        (alone,) = recogniser.recognise([file])
        assert result.overlay is None
        assert overlay.overlay is not None
        for answer in (result.answer, alone.answer, overlay.answer):
            assert answer is not None
            assert {cell.name: share for cell, share in answer.ranking} == pytest.approx(expected, abs=tolerance)


def test_a_bad_file_is_reported_in_its_place(checkpoint: Path, cell_files: dict[str, Path]) -> None:
    files = [cell_files[name] for name in ("broken", "Basophil", "wide", "meadow", "Monocyte")]
    broken, first, wide, meadow, last = Recogniser(str(checkpoint)).recognise(files, overlay=True)
    assert "not an image" in str(broken.problem)
    assert "5000 x 100 pixels" in str(wide.problem)
    assert meadow.doubt == "nothing in it is stained, as nuclei and platelets are"
    assert [result.name for result in (first, last)] == ["Basophil.png", "Monocyte.png"]
    assert all(result.answer and not result.doubt and result.overlay for result in (first, last))


def test_files_are_read_as_predict_reads_them(checkpoint: Path, cell_files: dict[str, Path], tmp_path: Path) -> None:
    levels = np.asarray(Image.open(cell_files["Basophil"]).convert("RGB"), np.uint16)
    tifffile.imwrite(tmp_path / "deep.tif", np.moveaxis(levels << 4, 2, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((2, 40, 40), np.uint8), photometric="minisblack")
    plain, deep, pages = Recogniser(str(checkpoint)).recognise(
        [cell_files["Basophil"], tmp_path / "deep.tif", tmp_path / "pages.tif"]
    )
    assert plain.answer is not None
    assert deep.answer is not None
    assert deep.answer.score == pytest.approx(plain.answer.score, abs=1e-5)
    assert deep.note.startswith("taken for 12-bit samples")
    assert record(deep)["note"] == deep.note
    assert deep.note in card(deep)
    assert "multi page (has 2 pages" in str(pages.problem)


def test_a_file_that_is_too_large_is_not_opened(
    checkpoint: Path, cell_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    monkeypatch.setattr(module, "decode", lambda data: pytest.fail("opened"))
    (result,) = Recogniser(str(checkpoint)).recognise([cell_files["Basophil"]])
    assert "at most" in str(result.problem)


def test_a_model_of_other_classes_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForImageClassification.from_pretrained(checkpoint)
    model.config.id2label = {index: f"LABEL_{index}" for index in range(14)}
    model.save_pretrained(tmp_path / "other")
    (tmp_path / "other" / "preprocessor_config.json").write_bytes(
        (checkpoint / "preprocessor_config.json").read_bytes()
    )
    with pytest.raises(CelluScanError, match="expected the 14 of CelluScan in their order"):
        Recogniser(str(tmp_path / "other"))
