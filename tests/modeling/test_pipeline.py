"""`pipeline("wbc-classification")`: the same answers in any batch, files read as in predict, clear errors."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from celluscan_hf.inference.inputs import find_images
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.taxonomy import lookup

TASK = "wbc-classification"


@pytest.fixture(scope="module")
def classify(calibrated: Path) -> Any:
    return pipeline(TASK, model=str(calibrated), device="cpu")


@pytest.fixture(scope="module")
def cells(cell_image: Callable[..., Image.Image]) -> list[Image.Image]:
    return [cell_image(seed, (64, 48 + 4 * seed)) for seed in range(5)]


def test_answers_do_not_depend_on_the_batch_and_are_those_of_the_plain_pipeline(
    classify: Any, cells: list[Image.Image], calibrated: Path
) -> None:
    alone = [classify(cell, top_k=14) for cell in cells]
    plain = pipeline("image-classification", model=str(calibrated), device="cpu")
    for batch_size in (2, 5):
        batched = classify(cells, batch_size=batch_size, top_k=14)
        for single, answer, cell in zip(alone, batched, cells, strict=True):
            assert [answer[name] for name in ("label", "set", "reason")] == [
                single[name] for name in ("label", "set", "reason")
            ]
            assert answer["ood_score"] == pytest.approx(single["ood_score"], rel=1e-4)
            temperature = classify.reliability.other_temperature if answer["ood_score"] > 1 else 1
            scores = {row["label"]: row["score"] ** (1 / temperature) for row in plain(cell, top_k=14)}
            scores = {label: score / sum(scores.values()) for label, score in scores.items()}
            assert {row["label"]: row["score"] for row in answer["top"]} == pytest.approx(scores, abs=1e-4)


def test_an_answer_has_the_facts_of_its_label(classify: Any, cells: list[Image.Image]) -> None:
    answer = classify(cells[0])
    cell = lookup(answer["label"])
    assert (answer["code"], answer["lineage"], answer["stage"]) == (cell.code, cell.lineage, cell.stage)
    assert answer["abstain"] == (answer["reason"] is not None)
    assert json.loads(json.dumps(answer)) == answer


def test_what_is_no_stained_cell_is_named(classify: Any, cells: list[Image.Image]) -> None:
    answers = classify([Image.new("RGB", (64, 64), "white"), cells[0].convert("L"), draw_cell_image()])
    assert [answer["reason"] == "not a stained cell" for answer in answers] == [True, True, False]
    assert answers[0]["hint"] == "nothing in it is stained, as nuclei and platelets are"
    assert all(answer["abstain"] for answer in answers[:2])


def draw_cell_image() -> Image.Image:
    return draw_cell("Basophil", np.random.default_rng(0), 128)


def test_coverage_is_chosen_by_the_call_or_with_the_pipeline(
    classify: Any, cells: list[Image.Image], calibrated: Path
) -> None:
    sizes = [len(classify(cells[0], coverage=coverage)["set"]) for coverage in (0.2, 0.9, 0.99)]
    assert sizes == sorted(sizes)
    assert sizes[2] == 14  # 28 validation cells are too few for 99 %
    always = pipeline(TASK, model=str(calibrated), device="cpu", coverage=0.99, top_k=1)
    assert len(always(cells[0])["set"]) == 14
    assert len(always(cells[0])["top"]) == 1


def test_arrays_and_tensors_are_read_as_in_the_plain_pipeline(
    classify: Any, cells: list[Image.Image], calibrated: Path
) -> None:
    plain = pipeline("image-classification", model=str(calibrated), device="cpu")
    array = np.asarray(cells[0])
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for image in (array, tensor, [array, tensor], [np.moveaxis(array, 2, 0)]):
        answers, expected = classify(image, top_k=14), plain(image, top_k=14)
        pairs = zip(answers, expected, strict=True) if isinstance(image, list) else [(answers, expected)]
        for answer, scores in pairs:
            top = {row["label"]: row["score"] for row in answer["top"]}
            assert top == pytest.approx({row["label"]: row["score"] for row in scores}, abs=1e-5)


def test_arrays_of_16_bits_and_of_grey_are_read_as_files_are(classify: Any, cells: list[Image.Image]) -> None:
    grey = np.asarray(cells[0].convert("L"))
    deep = grey.astype(np.uint16) << 4
    expected = classify.preprocess(Image.fromarray(grey))["pixel_values"]
    for array in (grey, deep, np.dstack([deep] * 3)):
        assert torch.equal(classify.preprocess(array)["pixel_values"], expected)


def test_options_that_are_none_are_not_given(classify: Any, cells: list[Image.Image]) -> None:
    expected = classify(cells[0])
    assert classify(cells[0], top_k=None, coverage=None, by_class=None, timeout=None) == expected
    assert classify(images=cells[0]) == expected
    with pytest.raises(ValueError, match="no image was given"):
        classify()


@pytest.fixture(scope="module")
def files(cells: list[Image.Image], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cell in files that Pillow and transformers open in other ways than this project."""
    folder = tmp_path_factory.mktemp("files")
    colours = np.asarray(cells[0])
    deep = colours.astype(np.uint16)
    alpha = cells[0].copy()
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    alpha.save(folder / "alpha.png")
    Image.fromarray(deep[..., 0] << 8).save(folder / "grey 16.png")
    tifffile.imwrite(folder / "colour 12.tif", deep << 4, photometric="rgb")
    tifffile.imwrite(folder / "planar 16.tif", np.moveaxis(deep << 8, 2, 0), photometric="rgb", planarconfig="separate")
    tifffile.imwrite(folder / "from white.tif", deep[..., 0] << 8, photometric="miniswhite")
    return {path.stem: path for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["alpha", "grey 16", "colour 12", "planar 16", "from white"])
def test_a_file_has_the_pixels_that_predict_reads(name: str, classify: Any, files: dict[str, Path]) -> None:
    (named,) = find_images([files[name]])
    decoded = named.decode()
    expected = classify.image_processor(images=decoded.image, return_tensors="pt")["pixel_values"]
    opened = Image.open(files[name])
    encoded = base64.b64encode(files[name].read_bytes()).decode()
    for image in (str(files[name]), files[name], opened, encoded, f"data:image/tiff;base64,{encoded}"):
        prepared = classify.preprocess(image)
        assert torch.equal(prepared["pixel_values"], expected)
        assert prepared["note"] == decoded.note
    assert classify([str(files[name])] * 3, batch_size=2)[2]["note"] == (decoded.note or None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 40, 40), np.uint8), "has 2 pages"),
        (np.zeros((40, 40), np.float32), "32-bit float, convert to 8 bit"),
    ],
)
def test_a_file_is_refused_as_predict_refuses_it(
    values: np.ndarray, message: str, classify: Any, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "cell.tif", values, photometric="minisblack")
    for image in (str(tmp_path / "cell.tif"), Image.open(tmp_path / "cell.tif")):
        with pytest.raises(ValueError, match=message):
            classify(image)


@pytest.mark.parametrize(("image", "error"), [("gone.png", ValueError), ("", ValueError), (7, TypeError)])
def test_anything_but_an_image_is_refused_in_words(image: Any, error: type[Exception], classify: Any) -> None:
    with pytest.raises(error, match="expected a path, an address, a base64 string"):
        classify(image)


@pytest.mark.parametrize(("option", "message"), [({"coverage": 90}, "coverage must be"), ({"top_k": 0}, "top_k must")])
def test_options_out_of_range_are_refused(classify: Any, cells: list[Image.Image], option: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classify(cells[0], **option)
    with pytest.raises(ValueError, match="has no option treshold"):
        classify(cells[0], treshold=1)


def test_a_model_that_was_not_calibrated_says_what_to_run(calibrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run", ignore=shutil.ignore_patterns("reliability.*"))
    with pytest.raises(ValueError, match=r"has no reliability\.json.*celluscan calibrate .*--dataset"):
        pipeline(TASK, model=str(folder), device="cpu")


def test_files_of_other_weights_are_refused(calibrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run")
    model = AutoModelForImageClassification.from_pretrained(folder)
    model.classifier.linear.weight.data *= 1.5
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="belongs to other weights than the model has; calibrate it again"):
        pipeline(TASK, model=str(folder), device="cpu")


def test_a_file_that_cannot_be_read_is_refused(calibrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run")
    for content in ("{", '{"version": 99}', "{}"):
        (folder / "reliability.json").write_text(content)
        with pytest.raises(ValueError, match=r"reliability\.json cannot be used .* calibrate the model again"):
            pipeline(TASK, model=str(folder), device="cpu")
