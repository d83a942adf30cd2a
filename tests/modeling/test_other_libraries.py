"""The README's code for other libraries runs unchanged and does what the README says."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from celluscan_hf.modeling import modeling_celluscan
from celluscan_hf.modeling.checkpoints import read_checkpoint
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.exporting import export_hand_built
from celluscan_hf.modeling.processor import build_image_processor

README = Path(modeling_celluscan.__file__).parent / "README.md"
SIZES = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
Run = Callable[..., dict[str, Any]]


def blocks(title: str) -> list[str]:
    """The Python blocks of one part of the section, by the beginning of its heading."""
    section = README.read_text("utf-8").partition("## With other libraries\n")[2].partition("\n## ")[0]
    first, *parts = section.split("\n### ")
    part = next(part for part in parts if part.startswith(title)) if title else first
    return re.findall(r"```python\n(.*?)```", part, re.DOTALL)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the blocks of one part, after the first of the section, beside two models; all names they define."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name, stem in (("run", "linear"), ("convolution", "convolution")):
        model = modeling_celluscan.CelluScanForImageClassification(
            CelluScanConfig(**SIZES, image_size=32, patch_size=8, patch_stem=stem)
        )
        export_hand_built(model, Path("out", name), build_image_processor(32, (0.5,) * 3, (0.2,) * 3, resized=40))

    def run_blocks(title: str, **replaced: str) -> dict[str, Any]:
        names: dict[str, Any] = {}
        for block in [*blocks(""), *blocks(title)]:
            for old, new in replaced.items():
                block = block.replace(old, new)
            exec(compile(block, str(README), "exec"), names)
        return names

    return run_blocks


def logits(model: Any, names: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        result: torch.Tensor = model.eval()(pixel_values=names["pixel_values"]).logits
    return result


@pytest.mark.parametrize("use_dora", ["False", "True"], ids=["LoRA", "DoRA"])
def test_an_adapter_is_trained_saved_and_merged(use_dora: str, run: Run) -> None:
    pytest.importorskip("peft")
    names = run("PEFT", **{"use_dora=False": f"use_dora={use_dora}"})
    assert names["adapted"].peft_config["default"].use_dora == (use_dora == "True")
    trained = logits(names["adapted"], names)
    assert (trained - logits(read_checkpoint("out/run").build(), names)).abs().max() > 1e-3
    torch.testing.assert_close(logits(names["loaded"], names), trained, atol=1e-5, rtol=0)
    merged = AutoModelForImageClassification.from_pretrained("out/merged")
    torch.testing.assert_close(logits(merged, names), trained, atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", ["with_stem", "frozen_stem"])
def test_an_adapter_beside_batch_norm_loads_as_it_was_trained(way: str, run: Run) -> None:
    peft = pytest.importorskip("peft")
    names = run("PEFT")
    base = read_checkpoint("out/convolution").build()
    loaded = peft.PeftModel.from_pretrained(base, f"out/adapter-{way.replace('_', '-')}")
    assert torch.equal(logits(loaded, names), logits(names[way], names))


def test_an_adapter_without_either_loads_as_something_else(run: Run) -> None:
    peft = pytest.importorskip("peft")
    names = run("PEFT", **{".vit.embeddings.projection.eval()": ""})
    base = read_checkpoint("out/convolution").build()
    loaded = peft.PeftModel.from_pretrained(base, "out/adapter-frozen-stem")
    assert (logits(loaded, names) - logits(names["frozen_stem"], names)).abs().max() > 1e-3


def test_int8_weights_give_nearly_the_same_and_are_loaded_again(run: Run) -> None:
    pytest.importorskip("torchao")
    names = run("torchao")
    quantised = logits(names["int8"], names)
    torch.testing.assert_close(quantised, logits(names["model"], names), atol=0.01, rtol=0)
    assert not torch.equal(quantised, logits(names["model"], names))
    assert torch.equal(logits(AutoModelForImageClassification.from_pretrained("out/int8"), names), quantised)


def test_attributions_of_captum_add_up_to_the_difference_of_logits(run: Run) -> None:
    pytest.importorskip("captum")
    names = run("captum")
    pixel_values, labels = names["pixel_values"], names["labels"]
    assert names["attributions"].shape == pixel_values.shape
    baseline = names["model"](torch.zeros_like(pixel_values)).logits
    difference = (names["model"](pixel_values).logits - baseline).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(names["attributions"].sum((1, 2, 3)).float(), difference, atol=1e-3, rtol=0)


def test_heatmaps_of_grad_cam_cover_the_image(run: Run) -> None:
    pytest.importorskip("pytorch_grad_cam")
    heatmaps = run("pytorch-grad-cam")["heatmaps"]
    assert heatmaps.shape == (4, 32, 32)
    assert heatmaps.min() >= 0 and heatmaps.max() == pytest.approx(1, abs=1e-3) and heatmaps.std() > 0.01


def test_of_the_last_block_one_token_leaves(run: Run) -> None:
    names = run("Scripts")
    shapes: dict[str, tuple[int, ...]] = {}
    block = names["model"].vit.layers[-1]
    for name, module in (("block", block), ("layernorm_before", block.layernorm_before)):
        module.register_forward_hook(lambda *_, name=name: shapes.update({name: tuple(_[2].shape)}))
    logits(names["model"], names)
    assert shapes == {"block": (4, 1, 32), "layernorm_before": (4, 17, 32)}


def test_a_processor_without_a_crop_gives_what_the_model_takes(run: Run) -> None:
    run("Scripts")
    assert AutoImageProcessor.from_pretrained("out/run").size["height"] == 40
    processor = AutoImageProcessor.from_pretrained("out/processor")
    assert (processor.size["height"], processor.size["width"]) == (32, 32)
    assert processor(torch.zeros(3, 50, 60, dtype=torch.uint8))["pixel_values"][0].shape == (3, 32, 32)
