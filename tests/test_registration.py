"""The Auto classes know our model after `import celluscan_hf`, whatever is imported first, and nothing heavy is loaded.

A child process forks for every order of imports, so that each starts fresh; the tests read the results.
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
    "package, Auto classes": "import celluscan_hf; from transformers import AutoModel, pipeline",
    "Auto classes, package": "from transformers import AutoModel, pipeline; import celluscan_hf",
    "package, our models": "import celluscan_hf; import celluscan_hf.modeling.modeling_celluscan",
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
        result = measure()
    except BaseException:
        result = traceback.format_exc()
    with open(os.path.join(results, name), "w") as file:
        json.dump(result, file)
    os._exit(0)
"""
HEAVY_MODULES = """
import sys

def measure():
    return sorted({"torch", "transformers.models.auto.configuration_auto", "datasets"} & set(sys.modules))
"""
OUR_CLASSES = """
import huggingface_hub.dataclasses, torch.distributed.tensor, torchvision  # heavy: once for all forks

def measure():
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
    from transformers.pipelines import check_task

    config = AutoConfig.for_model("celluscan_vit", hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    models = [auto.from_config(config) for auto in (AutoModel, AutoModelForImageClassification)]
    classes = [type(config), *map(type, models), check_task("wbc-classification")[1]["impl"]]
    return [f"{kind.__module__}.{kind.__name__}" for kind in classes]
"""


def in_forks(program: str, cases: Mapping[str, str], results: Path) -> dict[str, Any]:
    """Run `measure` of a program after each of these imports; its results, or the traceback of an error."""
    subprocess.run(
        [sys.executable, "-c", program + IN_FORKS, json.dumps([cases, str(results)])],
        cwd=results,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        check=True,
        timeout=300,
    )
    return {path.name: json.loads(path.read_text()) for path in results.iterdir()}


def test_imports_without_the_model_load_no_torch(tmp_path):
    assert in_forks(HEAVY_MODULES, LEAN, tmp_path) == {name: [] for name in LEAN}


@pytest.mark.slow
def test_the_auto_classes_and_the_pipeline_are_registered_in_every_order_of_imports(tmp_path):
    ours = [
        "celluscan_hf.modeling.configuration_celluscan.CelluScanConfig",
        "celluscan_hf.modeling.modeling_celluscan.CelluScanModel",
        "celluscan_hf.modeling.modeling_celluscan.CelluScanForImageClassification",
        "celluscan_hf.modeling.pipeline_celluscan.WhiteBloodCellPipeline",
    ]
    assert in_forks(OUR_CLASSES, ORDERS, tmp_path) == dict.fromkeys(ORDERS, ours)
