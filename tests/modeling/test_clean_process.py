"""Our checkpoint folders in processes without this package, and in this one, which has it.

Two child processes do many things each and write their results to a file; the tests read it.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import AutoModelForImageClassification, pipeline

from celluscan_hf.modeling.exporting import export_hand_built, export_native
from celluscan_hf.modeling.processor import build_image_processor

from .conftest import images, tiny_model

pytestmark = pytest.mark.slow  # each starts processes that import the libraries

MEAN, STD = (0.7, 0.6, 0.65), (0.2, 0.21, 0.22)
CLOSE = {"rtol": 0.0, "atol": 1e-5}
OURS = {"layer_norm_eps": 1e-2, "pooling": "mean", "patch_stem": "convolution"}  # not possible in a plain ViT
NATIVE = {"layer_norm_eps": 1e-2}
DINOV2 = {"layer_scale_init": 0.5, "num_register_tokens": 2, "pooling": "cls_mean"}

BLOCK_THE_PACKAGE = """
import sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "celluscan_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoPackage())
"""
COMMON = """
import json, os, shutil
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

pixel_values = load_file("pixel_values.safetensors")["pixel_values"]
TRUST = {"trust_remote_code": True}
results = {}

def logits(model):
    with torch.no_grad():
        return model.eval()(pixel_values).logits.tolist()

def pooled(model):
    with torch.no_grad():
        return model.eval()(pixel_values).pooler_output.tolist()

def scores(rows):
    return {row["label"]: row["score"] for row in rows}

def import_the_package():
    import celluscan_hf

def record(name, action):
    try:
        results[name] = action()
    except Exception as error:
        results[name] = f"{type(error).__name__}: {error}"

def read(folder, label, **trust):
    record(f"{label} AutoConfig", lambda: AutoConfig.from_pretrained(folder, **trust).model_type)
    record(f"{label} AutoModel", lambda: pooled(AutoModel.from_pretrained(folder, **trust)))
    record(f"{label} classifier", lambda: logits(AutoModelForImageClassification.from_pretrained(folder, **trust)))
    record(f"{label} processor", lambda: AutoImageProcessor.from_pretrained(folder, **trust).image_mean)
    record(f"{label} pipeline", lambda: scores(pipeline("image-classification", folder, **trust)("cell.png", top_k=14)))
"""
READ_AND_SAVE = """
def save(model, folder, source):
    model.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(source).save_pretrained(folder)
    return True

def train_and_save():
    model = AutoModelForImageClassification.from_pretrained("calibrated", **TRUST)
    save(model, "unchanged", "calibrated")
    for name in ("reliability.json", "reliability.safetensors"):
        shutil.copyfile(f"calibrated/{name}", f"unchanged/{name}")
    model.classifier.linear.weight.data += 1
    save(model, "trained", "calibrated")
    AutoConfig.from_pretrained("calibrated", **TRUST).save_pretrained("config_alone")

record("import celluscan_hf", import_the_package)
read("hand_built", "hand_built plain")
read("native", "native plain")
read("dinov2", "dinov2 plain")
read("hand_built", "hand_built trusted", **TRUST)
model = AutoModelForImageClassification.from_pretrained("hand_built", **TRUST)
record("save", lambda: save(model, "saved_again", "hand_built"))
AutoModel.from_pretrained("hand_built", **TRUST).save_pretrained("saved_again_vit")
train_and_save()
"""
READ_WHAT_WAS_SAVED = """
def answer(folder):
    return pipeline("wbc-classification", model=folder, **TRUST)("cell.png")

record("import celluscan_hf", import_the_package)
read("saved_again", "saved_again", **TRUST)
record("saved_again_vit AutoModel", lambda: pooled(AutoModel.from_pretrained("saved_again_vit", **TRUST)))
record("unchanged", lambda: answer("unchanged"))
record("trained", lambda: answer("trained"))
config = AutoConfig.from_pretrained("config_alone", **TRUST)
record("config_alone", lambda: type(AutoModel.from_config(config, **TRUST)).__name__)
"""


def run_without_the_package(program: str, home: Path) -> dict[str, Any]:
    """Run a program in a child process; its results by name, errors as text."""
    store = "json.dump(results, open('results.json', 'w'))"
    subprocess.run(
        [sys.executable, "-I", "-c", f"{BLOCK_THE_PACKAGE}{COMMON}{program}\n{store}"],
        cwd=home,
        env=os.environ | {"HF_HOME": str(home / "hf_home"), "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=240,
    )
    return json.loads((home / "results.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory, cell_image, calibrated) -> Path:
    """A folder with a hand-built checkpoint, a native one, a calibrated one, pixels and an image."""
    folder = tmp_path_factory.mktemp("clean")
    processor = build_image_processor(32, MEAN, STD)
    export_hand_built(tiny_model(**OURS), folder / "hand_built", processor)
    export_native(tiny_model(**NATIVE), folder / "native", processor)
    export_native(tiny_model(**DINOV2), folder / "dinov2", processor)
    shutil.copytree(calibrated, folder / "calibrated")
    save_file({"pixel_values": images()}, folder / "pixel_values.safetensors")
    cell_image(0, (50, 70)).save(folder / "cell.png")
    return folder


@pytest.fixture(scope="module")
def clean(home) -> dict[str, Any]:
    """Results of reading both checkpoints without the package, which also saves them again."""
    return run_without_the_package(READ_AND_SAVE, home)


@pytest.fixture(scope="module")
def saved_again(clean, home) -> dict[str, Any]:
    """Results of reading what another process without the package saved."""
    return run_without_the_package(READ_WHAT_WAS_SAVED, home)


def check_logits(values: Any, changes: dict[str, Any]) -> None:
    assert isinstance(values, list), values
    with torch.no_grad():
        assert_close(torch.tensor(values), tiny_model(**changes)(images()).logits, **CLOSE)


def check_pooled(values: Any, changes: dict[str, Any]) -> None:
    assert isinstance(values, list), values
    with torch.no_grad():
        assert_close(torch.tensor(values), tiny_model(**changes).vit(images()).pooler_output, **CLOSE)


def check_scores(scores: Any, changes: dict[str, Any], home: Path) -> None:
    assert isinstance(scores, dict), scores
    model = tiny_model(**changes)
    with Image.open(home / "cell.png") as image:
        pixels = build_image_processor(32, MEAN, STD)(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model(pixels).logits.softmax(-1)[0].tolist()
    assert scores == pytest.approx(dict(zip(model.config.id2label.values(), expected, strict=True)), abs=1e-5)


def test_the_package_is_missing_and_a_hand_built_folder_needs_the_flag(clean):
    assert clean["import celluscan_hf"] == "ModuleNotFoundError: celluscan_hf"
    for name in ("AutoConfig", "AutoModel", "classifier", "pipeline"):
        assert "trust_remote_code" in str(clean[f"hand_built plain {name}"])


def test_a_trusted_folder_gives_our_results(clean, home):
    assert clean["hand_built trusted AutoConfig"] == "celluscan_vit"
    assert clean["hand_built trusted processor"] == list(MEAN)
    check_logits(clean["hand_built trusted classifier"], OURS)
    check_pooled(clean["hand_built trusted AutoModel"], OURS)
    check_scores(clean["hand_built trusted pipeline"], OURS, home)


def test_a_native_folder_gives_our_results_without_a_flag(clean, home):
    assert clean["native plain AutoConfig"] == "vit"
    assert torch.tensor(clean["native plain AutoModel"]).shape == (4, 32)
    check_logits(clean["native plain classifier"], NATIVE)
    check_scores(clean["native plain pipeline"], NATIVE, home)


def test_a_native_folder_of_a_dinov2_does_too(clean, home):
    assert clean["dinov2 plain AutoConfig"] == "dinov2_with_registers"
    check_logits(clean["dinov2 plain classifier"], DINOV2)
    check_scores(clean["dinov2 plain pipeline"], DINOV2, home)


def test_what_was_loaded_without_the_package_can_be_saved_and_loaded_again(clean, saved_again, home):
    assert clean["save"] is True
    for folder in ("saved_again", "saved_again_vit"):
        code = {path.name for path in (home / folder).glob("*.py")}
        assert {"configuration_celluscan.py", "modeling_celluscan.py"} <= code
        check_pooled(saved_again[f"{folder} AutoModel"], OURS)
    assert saved_again["import celluscan_hf"] == "ModuleNotFoundError: celluscan_hf"
    check_logits(saved_again["saved_again classifier"], OURS)
    check_scores(saved_again["saved_again pipeline"], OURS, home)


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": True}], ids=["plain", "trusted"])
def test_with_the_package_no_flag_is_needed_and_none_in_the_way(trust, home):
    classifier = AutoModelForImageClassification.from_pretrained(home / "hand_built", **trust).eval()
    with torch.no_grad():
        check_logits(classifier(images()).logits.tolist(), OURS)
    rows = pipeline("image-classification", model=str(home / "hand_built"), **trust)(str(home / "cell.png"), top_k=14)
    check_scores({row["label"]: row["score"] for row in rows}, OURS, home)


def test_a_folder_saved_without_the_package_contains_its_pipeline(saved_again, calibrated, home):
    expected = pipeline("wbc-classification", model=str(calibrated), device="cpu")(str(home / "cell.png"))
    answer = saved_again["unchanged"]
    assert answer["ood_score"] == pytest.approx(expected["ood_score"], rel=1e-4)
    for name in ("score", "abnormal"):
        assert answer[name] == pytest.approx(expected[name], abs=1e-5)
    assert [row["label"] for row in answer["top"]] == [row["label"] for row in expected["top"]]
    numbers = {"ood_score", "score", "abnormal", "top"}
    assert {name: answer[name] for name in set(answer) - numbers} == {
        name: expected[name] for name in set(expected) - numbers
    }


def test_the_pipeline_of_a_trained_folder_asks_for_its_calibration(saved_again):
    assert "has no reliability.json" in saved_again["trained"]


def test_a_config_saved_alone_contains_the_code_of_its_models(saved_again):
    assert saved_again["config_alone"] == "CelluScanModel"
