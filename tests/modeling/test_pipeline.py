"""`pipeline("wbc-classification")`: the same answers in any batch, clear errors, and no package needed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoModelForImageClassification, pipeline

from celluscan_hf.taxonomy import lookup

TASK = "wbc-classification"
WITHOUT_THE_PACKAGE = """
import json, sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "celluscan_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoPackage())
from transformers import pipeline

print(json.dumps(pipeline("wbc-classification", model=sys.argv[1], trust_remote_code=True)(sys.argv[2])))
"""


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
        for one, other, cell in zip(alone, classify(cells, batch_size=batch_size, top_k=14), cells, strict=True):
            assert {name: other[name] for name in ("label", "set", "reason")} == {
                name: one[name] for name in ("label", "set", "reason")
            }
            assert other["strangeness"] == pytest.approx(one["strangeness"], rel=1e-4)
            scores = {found["label"]: found["score"] for found in plain(cell, top_k=14)}
            assert {found["label"]: found["score"] for found in other["top"]} == pytest.approx(scores, abs=1e-5)


def test_an_answer_has_the_facts_of_its_label(classify: Any, cells: list[Image.Image]) -> None:
    answer = classify(cells[0])
    cell = lookup(answer["label"])
    assert (answer["code"], answer["lineage"], answer["stage"]) == (cell.code, cell.lineage, cell.stage)
    assert answer["abstain"] == (answer["reason"] is not None)
    assert json.loads(json.dumps(answer)) == answer


def test_coverage_is_chosen_by_the_call_or_with_the_pipeline(
    classify: Any, cells: list[Image.Image], calibrated: Path
) -> None:
    sizes = [len(classify(cells[0], coverage=coverage)["set"]) for coverage in (0.2, 0.9, 0.99)]
    assert sizes == sorted(sizes)
    assert sizes[2] == 14  # 28 validation cells are too few for 99 %
    always = pipeline(TASK, model=str(calibrated), device="cpu", coverage=0.99, top_k=1)
    assert len(always(cells[0])["set"]) == 14
    assert len(always(cells[0])["top"]) == 1


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
    with pytest.raises(ValueError, match="is of other weights than the model has; calibrate it again"):
        pipeline(TASK, model=str(folder), device="cpu")


@pytest.mark.parametrize("spoiled", ["{", '{"version": 99}', "{}"])
def test_a_file_that_cannot_be_read_is_refused(spoiled: str, calibrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "run")
    (folder / "reliability.json").write_text(spoiled)
    with pytest.raises(ValueError, match=r"reliability\.json cannot be used .* calibrate the model again"):
        pipeline(TASK, model=str(folder), device="cpu")


def test_half_precision_is_still_the_same_weights(calibrated: Path, cells: list[Image.Image]) -> None:
    assert pipeline(TASK, model=str(calibrated), device="cpu", dtype="bfloat16")(cells[0])["set"]


@pytest.mark.slow
def test_the_hand_built_folder_answers_alike_without_the_package(
    calibrated: Path, classify: Any, cells: list[Image.Image], tmp_path: Path
) -> None:
    cells[0].save(tmp_path / "cell.png")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(calibrated), str(tmp_path / "cell.png")],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    answer, expected = json.loads(done.stdout), classify(str(tmp_path / "cell.png"))
    assert answer.pop("strangeness") == pytest.approx(expected.pop("strangeness"), rel=1e-4)
    assert [one["label"] for one in answer.pop("top")] == [one["label"] for one in expected.pop("top")]
    for name in ("score", "abnormal"):
        assert answer.pop(name) == pytest.approx(expected.pop(name), abs=1e-5)
    assert answer == expected
