"""The Auto classes know our model after `import celluscan_hf`, whatever is imported first, and nothing heavy is loaded.

A child process forks itself for every order of imports, so that each begins anew; the tests read what came out.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[1]
LEAN = {
    "the package": "import celluscan_hf",
    "the scan of images": "import celluscan_hf.curation.scan",
    "the package and transformers": "import celluscan_hf, transformers",
}
ORDERS = {
    "package, Auto classes": "import celluscan_hf; from transformers import AutoModel",
    "Auto classes, package": "from transformers import AutoModel; import celluscan_hf",
    "package, another model": "import celluscan_hf; from transformers import ViTForImageClassification",
    "package, our models": "import celluscan_hf; import celluscan_hf.modeling.modeling_celluscan",
    "package, our config": "import celluscan_hf; import celluscan_hf.modeling.configuration_celluscan",
    "package, layers": "import celluscan_hf; import transformers.modeling_layers",
    "layers, package": "import transformers.modeling_layers; import celluscan_hf",
}
IN_FORKS = """
import json, os, sys, traceback

cases, results = json.loads(sys.argv[1])
for name, statements in cases.items():
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    try:
        exec(statements, {})
        found = look()
    except BaseException:
        found = traceback.format_exc()
    with open(os.path.join(results, name), "w") as file:
        json.dump(found, file)
    os._exit(0)
"""
LOOK_FOR_WEIGHT = """
import sys

def run_model():
    return sorted({"torch", "transformers.models.auto.configuration_auto", "datasets"} & set(sys.modules))
"""
LOOK_FOR_THE_TASK = """
import huggingface_hub.dataclasses, torch.distributed.tensor, torchvision  # heavy: once for all forks

def run_model():
    from transformers.pipelines import PIPELINE_REGISTRY, check_task

    return check_task("wbc-classification")[1]["impl"].__name__
"""
PIPELINES = {
    "package, pipeline": "import celluscan_hf; from transformers import pipeline",
    "pipeline, package": "from transformers import pipeline; import celluscan_hf",
}
LOOK_FOR_OURS = """
import huggingface_hub.dataclasses, torch.distributed.tensor, torchvision  # heavy: once for all forks

def run_model():
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

    config = AutoConfig.for_model("celluscan_vit", hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    models = [auto.from_config(config) for auto in (AutoModel, AutoModelForImageClassification)]
    return [f"{type(thing).__module__}.{type(thing).__name__}" for thing in (config, *models)]
"""


def in_forks(look: str, cases: Mapping[str, str], results: Path) -> dict[str, Any]:
    """What `look` returns after each of these imports, or the traceback of an error."""
    subprocess.run(
        [sys.executable, "-c", look + IN_FORKS, json.dumps([cases, str(results)])],
        cwd=results,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        check=True,
        timeout=300,
    )
    return {path.name: json.loads(path.read_text()) for path in results.iterdir()}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> dict[str, Any]:
    return in_forks(LOOK_FOR_WEIGHT, LEAN, tmp_path_factory.mktemp("lean"))


@pytest.fixture(scope="module")
def registered(tmp_path_factory) -> dict[str, Any]:
    return in_forks(LOOK_FOR_OURS, ORDERS, tmp_path_factory.mktemp("orders"))


@pytest.mark.parametrize("name", LEAN)
def test_imports_without_the_model_load_no_torch(loaded, name):
    assert loaded[name] == []


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_the_auto_classes_know_our_models_in_every_order_of_imports(registered, order):
    assert registered[order] == [
        "celluscan_hf.modeling.configuration_celluscan.CelluScanConfig",
        "celluscan_hf.modeling.modeling_celluscan.CelluScanModel",
        "celluscan_hf.modeling.modeling_celluscan.CelluScanForImageClassification",
    ]


@pytest.mark.slow
def test_the_pipeline_is_known_in_either_order_of_imports(tmp_path):
    assert in_forks(LOOK_FOR_THE_TASK, PIPELINES, tmp_path) == dict.fromkeys(PIPELINES, "WhiteBloodCellPipeline")
