"""Our folders in processes that know nothing of this package, and in one that imported it.

Each child process does many things and writes down what came out; the tests read that.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close
from transformers import pipeline

from celluscan_hf.modeling.exporting import export_hand_built, export_native
from celluscan_hf.modeling.processor import build_image_processor

from .conftest import images, tiny_model

PROJECT = Path(__file__).resolve().parents[2]
MEAN, STD = (0.7, 0.6, 0.65), (0.2, 0.21, 0.22)
CLOSE = {"rtol": 0.0, "atol": 1e-5}
OURS = {"layer_norm_eps": 1e-2, "pooling": "mean", "patch_stem": "convolution"}  # nothing that a plain ViT could do
NATIVE = {"layer_norm_eps": 1e-2}

BLOCK_THE_PACKAGE = """
import sys

class NoPackage:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "celluscan_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoPackage())
"""
IMPORT_THE_PACKAGE = "import celluscan_hf\n"
READ_FOLDERS = """
import json, sys
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

plan = json.loads(sys.argv[1])
pixel_values = load_file("pixel_values.safetensors")["pixel_values"]
results = {}

def logits(model):
    with torch.no_grad():
        return model.eval()(pixel_values).logits.tolist()

def pooled(model):
    with torch.no_grad():
        return model.eval()(pixel_values).pooler_output.tolist()

def scores(found):
    return {row["label"]: row["score"] for row in found}

def import_the_package():
    import celluscan_hf
    return celluscan_hf.__version__

def everything(folder, **trust):
    yield "AutoConfig", lambda: AutoConfig.from_pretrained(folder, **trust).model_type
    yield "AutoModel", lambda: pooled(AutoModel.from_pretrained(folder, **trust))
    yield "AutoModelForImageClassification", lambda: logits(
        AutoModelForImageClassification.from_pretrained(folder, **trust)
    )
    yield "AutoImageProcessor", lambda: AutoImageProcessor.from_pretrained(folder, **trust).image_mean
    yield "pipeline", lambda: scores(
        pipeline("image-classification", model=folder, **trust)("cell.png", top_k=14)
    )

def save_again(folder):
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    model.save_pretrained("saved_again")
    AutoImageProcessor.from_pretrained(folder).save_pretrained("saved_again")
    AutoModel.from_pretrained(folder, trust_remote_code=True).save_pretrained("saved_again_vit")
    return True

def record(name, action):
    try:
        results[name] = action()
    except Exception as error:
        results[name] = f"{type(error).__name__}: {error}"

record("import celluscan_hf", import_the_package)
for folder, trust in plan["read"]:
    for name, action in everything(folder, **trust):
        record(f"{folder} {'trusted' if trust else 'plain'} {name}", action)
for folder in plan["save"]:
    record(f"save {folder}", lambda: save_again(folder))
json.dump(results, open(plan["results"], "w"))
"""
TRUST = {"trust_remote_code": True}
TRAIN_AND_SAVE = """
import json, shutil, sys
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

plan = json.loads(sys.argv[1])
source = plan["source"]

def save(model, folder):
    model.save_pretrained(folder)
    AutoImageProcessor.from_pretrained(source).save_pretrained(folder)

model = AutoModelForImageClassification.from_pretrained(source, trust_remote_code=True)
save(model, "unchanged")
for name in ("reliability.json", "reliability.safetensors"):
    shutil.copyfile(f"{source}/{name}", f"unchanged/{name}")
model.classifier.linear.weight.data += 1
save(model, "trained")
AutoConfig.from_pretrained(source, trust_remote_code=True).save_pretrained("config_alone")
json.dump({}, open(plan["results"], "w"))
"""
USE_SAVED = """
import json, sys
from transformers import AutoConfig, AutoModel, pipeline

def answer(folder):
    try:
        return pipeline("wbc-classification", model=folder, trust_remote_code=True)("cell.png")["label"]
    except Exception as error:
        return f"{type(error).__name__}: {error}"

results = {folder: answer(folder) for folder in ("unchanged", "trained")}
config = AutoConfig.from_pretrained("config_alone", trust_remote_code=True)
results["config_alone"] = type(AutoModel.from_config(config, trust_remote_code=True)).__name__
json.dump(results, open(json.loads(sys.argv[1])["results"], "w"))
"""


def run(program: str, options: list[str], home: Path, **plan: Any) -> dict[str, Any]:
    """What a child process found, by what it did; an error as its text."""
    plan = {"read": [], "save": [], "results": str(home / "results.json")} | plan
    subprocess.run(
        [sys.executable, *options, "-c", program, json.dumps(plan)],
        cwd=home,
        env=os.environ | {"HF_HOME": str(home / "hf_home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(PROJECT)},
        stdin=subprocess.DEVNULL,
        check=True,
        timeout=120,
    )
    return json.loads((home / "results.json").read_text())


@pytest.fixture(scope="module")
def home(tmp_path_factory, cell_image) -> Path:
    """A folder with a hand-built checkpoint, a native one, pixels and a picture."""
    folder = tmp_path_factory.mktemp("clean")
    processor = build_image_processor(32, MEAN, STD)
    export_hand_built(tiny_model(**OURS), folder / "hand_built", processor)
    export_native(tiny_model(**NATIVE), folder / "native", processor)
    save_file({"pixel_values": images()}, folder / "pixel_values.safetensors")
    cell_image(0, (50, 70)).save(folder / "cell.png")
    return folder


@pytest.fixture(scope="module")
def clean(home) -> dict[str, Any]:
    """Without the package: the hand-built folder without and with the flag, the native one; then saved again."""
    read = [["hand_built", {}], ["native", {}], ["hand_built", TRUST]]
    return run(BLOCK_THE_PACKAGE + READ_FOLDERS, ["-I"], home, read=read, save=["hand_built"])


@pytest.fixture(scope="module")
def saved_again(clean, home) -> dict[str, Any]:
    """Without the package: what another process without it had loaded and saved."""
    read = [["saved_again", TRUST], ["saved_again_vit", TRUST]]
    return run(BLOCK_THE_PACKAGE + READ_FOLDERS, ["-I"], home, read=read)


@pytest.fixture(scope="module")
def with_package(home) -> dict[str, Any]:
    """With the package imported: no flag, which may be there."""
    return run(IMPORT_THE_PACKAGE + READ_FOLDERS, [], home, read=[["hand_built", {}], ["hand_built", TRUST]])


def check_logits(found: Any, changes: dict[str, Any]) -> None:
    assert isinstance(found, list), found
    with torch.no_grad():
        assert_close(torch.tensor(found), tiny_model(**changes)(images()).logits, **CLOSE)


def check_pooled(found: Any, changes: dict[str, Any]) -> None:
    assert isinstance(found, list), found
    with torch.no_grad():
        assert_close(torch.tensor(found), tiny_model(**changes).vit(images()).pooler_output, **CLOSE)


def check_scores(found: Any, changes: dict[str, Any], home: Path) -> None:
    assert isinstance(found, dict), found
    model = tiny_model(**changes)
    with Image.open(home / "cell.png") as image:
        pixels = build_image_processor(32, MEAN, STD)(image, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = model(pixels).logits.softmax(-1)[0].tolist()
    assert found == pytest.approx(dict(zip(model.config.id2label.values(), expected, strict=True)), abs=1e-5)


def test_the_package_is_not_there(clean):
    assert clean["import celluscan_hf"] == "ModuleNotFoundError: celluscan_hf"


@pytest.mark.parametrize("name", ["AutoConfig", "AutoModel", "AutoModelForImageClassification", "pipeline"])
def test_a_hand_built_folder_needs_the_flag(clean, name):
    assert "trust_remote_code" in str(clean[f"hand_built plain {name}"])


def test_trusted_the_config_is_ours(clean):
    assert clean["hand_built trusted AutoConfig"] == "celluscan_vit"


def test_trusted_the_classifier_gives_our_logits(clean):
    check_logits(clean["hand_built trusted AutoModelForImageClassification"], OURS)


def test_trusted_the_model_without_head_gives_our_pooled_token(clean):
    check_pooled(clean["hand_built trusted AutoModel"], OURS)


def test_trusted_the_processor_is_ours(clean):
    assert clean["hand_built trusted AutoImageProcessor"] == list(MEAN)


def test_trusted_the_pipeline_gives_our_scores(clean, home):
    check_scores(clean["hand_built trusted pipeline"], OURS, home)


def test_a_native_folder_gives_our_logits_without_a_flag(clean):
    assert clean["native plain AutoConfig"] == "vit"
    check_logits(clean["native plain AutoModelForImageClassification"], NATIVE)


def test_a_native_folder_gives_our_scores_in_a_pipeline_without_a_flag(clean, home):
    check_scores(clean["native plain pipeline"], NATIVE, home)


def test_a_native_folder_loads_without_a_head(clean):
    assert torch.tensor(clean["native plain AutoModel"]).shape == (4, 32)


def test_what_was_loaded_without_the_package_can_be_saved(clean, home):
    assert clean["save hand_built"] is True
    for folder in ("saved_again", "saved_again_vit"):
        code = {path.name for path in (home / folder).glob("*.py")}
        assert {"configuration_celluscan.py", "modeling_celluscan.py"} <= code


def test_saved_again_the_classifier_gives_our_logits(saved_again, home):
    assert saved_again["import celluscan_hf"] == "ModuleNotFoundError: celluscan_hf"
    check_logits(saved_again["saved_again trusted AutoModelForImageClassification"], OURS)
    check_scores(saved_again["saved_again trusted pipeline"], OURS, home)


@pytest.mark.parametrize("folder", ["saved_again", "saved_again_vit"])
def test_saved_again_the_model_without_head_gives_our_pooled_token(saved_again, folder):
    check_pooled(saved_again[f"{folder} trusted AutoModel"], OURS)


@pytest.mark.parametrize("flag", ["plain", "trusted"])
def test_with_the_package_no_flag_is_needed_and_none_in_the_way(with_package, home, flag):
    assert with_package[f"hand_built {flag} AutoConfig"] == "celluscan_vit"
    check_pooled(with_package[f"hand_built {flag} AutoModel"], OURS)
    check_logits(with_package[f"hand_built {flag} AutoModelForImageClassification"], OURS)
    check_scores(with_package[f"hand_built {flag} pipeline"], OURS, home)


@pytest.fixture(scope="module")
def used_without_the_package(calibrated, tmp_path_factory, cell_image) -> dict[str, Any]:
    """What a process without the package answers with folders that another one without it has saved."""
    folder = tmp_path_factory.mktemp("saved")
    cell_image(0, (50, 70)).save(folder / "cell.png")
    run(BLOCK_THE_PACKAGE + TRAIN_AND_SAVE, ["-I"], folder, source=str(calibrated))
    return run(BLOCK_THE_PACKAGE + USE_SAVED, ["-I"], folder) | {"cell": str(folder / "cell.png")}


def test_a_folder_saved_without_the_package_holds_its_pipeline(used_without_the_package, calibrated):
    expected = pipeline("wbc-classification", model=str(calibrated), device="cpu")(used_without_the_package["cell"])
    assert used_without_the_package["unchanged"] == expected["label"]


def test_the_pipeline_of_a_trained_folder_asks_for_its_calibration(used_without_the_package):
    assert "has no reliability.json" in used_without_the_package["trained"]


def test_a_config_saved_alone_holds_the_code_of_its_models(used_without_the_package):
    assert used_without_the_package["config_alone"] == "CelluScanModel"
