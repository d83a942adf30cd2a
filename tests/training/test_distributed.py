"""Two processes that talk by gloo train like one with the same global batch, also after they were killed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from safetensors.torch import load_file

from celluscan_hf.errors import CelluScanError
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.training.trainer import CellTrainer

PER_STEP = 54  # images over all processes; divides neither train (392) nor validation (28, by five)
DINOV2 = {"image_size": 28, "patch_size": 14, "layer_scale_init": 0.1, "num_register_tokens": 2, "mlp": "swiglu"}
SMALL = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SAVING = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4, "ema_decay": 0.9}


def history(folder: Path, name: str) -> list[float]:
    return [line[name] for line in json.loads((folder / "training.json").read_text())["history"] if name in line]


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True], ids=["indexed", "streamed"])
def test_two_processes_take_the_steps_of_one_and_resume_exactly(
    streaming: bool, recipe: Callable[..., Path], trained: Callable[..., int], train: Callable[..., Any], tmp_path: Path
) -> None:
    single, double, killed = (tmp_path / name for name in ("one", "two", "killed"))
    recipes = []
    for processes in (1, 2):
        share = {"per_device_train_batch_size": PER_STEP // processes, "per_device_eval_batch_size": 5}
        workers = 2 * streaming * (processes - 1)
        recipes.append(recipe(f"on{processes}", streaming=streaming, dataloader_num_workers=workers, **share, **SAVING))
    assert trained(recipes[0], single) == 0

    chosen = "--recipe", recipes[1], "--output_dir"
    result = train(*chosen, double, processes=2, only_first_writes=True)
    assert result.returncode == 0, result.stderr
    assert [json.loads((folder / "settings.json").read_text())["processes"] for folder in (single, double)] == [1, 2]
    assert len(history(single, "loss")) == 2 * (392 // PER_STEP)
    assert history(double, "loss") == pytest.approx(history(single, "loss"), abs=1e-4)
    weights = [load_file(folder / "model.safetensors") for folder in (single, double)]
    assert all((weights[0][name] - weights[1][name]).abs().max() < 1e-3 for name in weights[0])
    assert set(history(double, "eval_n")) == {28}  # every row of validation once
    validation = [json.loads((folder / "training.json").read_text())["validation"] for folder in (single, double)]
    assert validation[1]["n"] == 28
    assert validation[1] == pytest.approx(validation[0], abs=1e-3)
    for name in ("eval_accuracy", "eval_nll", "eval_macro_f1"):
        assert history(double, name) == pytest.approx(history(single, name), abs=1e-3)

    assert train(*chosen, killed, processes=2, kill_at=9).returncode != 0
    assert not (killed / "training.json").exists()
    result = train(*chosen, killed, "--resume_from_checkpoint", "last", processes=2)
    assert result.returncode == 0, result.stderr
    assert history(killed, "loss") == history(double, "loss")
    resumed = load_file(killed / "model.safetensors")
    assert all((weights[1][name] == resumed[name]).all() for name in resumed)


@pytest.mark.slow
@pytest.mark.parametrize("model", [{}, DINOV2], ids=["ViT", "DINOv2"])
def test_a_sharded_model_takes_the_steps_of_one_process_and_resumes_exactly(
    model: dict[str, Any],
    recipe: Callable[..., Path],
    trained: Callable[..., int],
    train: Callable[..., Any],
    tmp_path: Path,
) -> None:
    # evaluations without a checkpoint too: what FSDP2 gathers for them must not be left for the next step
    steps = SAVING | {"eval_steps": 2, "save_total_limit": 9, "layer_decay": 0.8, "per_device_eval_batch_size": 5}
    recipes = [
        recipe(f"on{processes}", model=model, per_device_train_batch_size=PER_STEP // processes, **steps, **device)
        for processes, device in ((1, {}), (2, {"use_cpu": False}))
    ]
    single, sharded = tmp_path / "one", tmp_path / "sharded"
    assert trained(recipes[0], single) == 0
    started = {"processes": 2, "config": "fsdp", "cpu_as_gpu": True}
    result = train("--recipe", recipes[1], "--output_dir", sharded, **started)
    assert result.returncode == 0, result.stderr
    # gradients are summed in another order, in float32; Adam divides even those that should be 0 by their size
    assert history(sharded, "loss") == pytest.approx(history(single, "loss"), abs=1e-5)
    assert history(sharded, "eval_nll") == pytest.approx(history(single, "eval_nll"), abs=1e-5)
    expected, weights = (load_file(folder / "model.safetensors") for folder in (single, sharded))
    assert expected.keys() == weights.keys()
    assert all((expected[name] - weights[name]).abs().max() < 1e-3 for name in expected)
    own_code = json.loads((sharded / "checkpoint-8" / "config.json").read_text())["auto_map"]
    assert own_code["AutoModelForImageClassification"] == "modeling_celluscan.CelluScanForImageClassification"
    if not model:
        return

    stopped = Path(shutil.copytree(sharded, tmp_path / "stopped"))
    for name in ("checkpoint-12", "checkpoint-14"):
        shutil.rmtree(stopped / name)
    for name in ("training.json", "model.safetensors"):
        (stopped / name).unlink()
    result = train("--recipe", recipes[1], "--output_dir", stopped, "--resume_from_checkpoint", "last", **started)
    assert result.returncode == 0, result.stderr
    assert json.loads((stopped / "training.json").read_text())["resumed_from"] == "checkpoint-8"
    assert history(stopped, "loss") == history(sharded, "loss")
    resumed = load_file(stopped / "model.safetensors")
    assert all((weights[name] == resumed[name]).all() for name in weights)


@pytest.mark.parametrize(
    ("launcher", "settings", "message"),
    [
        ({"fsdp": 2}, {"muon": True}, "Muon needs complete matrices"),
        ({"deepspeed": True}, {"ema_decay": 0.9}, "averaged weights need our optimiser"),
        ({"fsdp": 2, "stem": "convolution"}, {"ema_decay": 0.9}, "--ema_decay averages the statistics of the conv"),
        ({"fsdp": 2, "states": "SHARDED_STATE_DICT"}, {}, "FSDP 2 with StateDictType.SHARDED_STATE_DICT is not supp"),
        ({"fsdp": 1}, {}, "FSDP 1 with StateDictType.FULL_STATE_DICT is not supported"),
    ],
)
def test_what_cannot_be_sharded_is_refused_before_training(
    launcher: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    model = CelluScanForImageClassification(CelluScanConfig(**SMALL, patch_stem=launcher.get("stem", "linear")))
    states = launcher.get("states", "FULL_STATE_DICT")
    version = launcher.get("fsdp", 0)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=version, state_dict_type=states) if version else None
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin), is_fsdp2=version == 2)
    trainer = SimpleNamespace(
        args=SimpleNamespace(**{"muon": False, "ema_decay": 0.0} | settings),
        model=model,
        accelerator=accelerator,
        is_fsdp_enabled=bool(version),
        is_deepspeed_enabled=launcher.get("deepspeed", False),
    )
    with pytest.raises(CelluScanError, match=message):
        CellTrainer._check_sharding(trainer)


def zero_settings() -> dict[str, Any]:
    file = Path(__file__).parents[2] / "scripts" / "accelerate" / "zero2.yaml"
    settings: dict[str, Any] = load_config_from_file(str(file)).deepspeed_config
    return DeepSpeedPlugin(**settings).deepspeed_config["zero_optimization"]  # an unknown setting raises


def test_the_zero_config_shards_gradients_and_optimiser_and_offloads_nothing() -> None:
    settings = zero_settings()
    assert settings["stage"] == 2
    assert settings["offload_optimizer"]["device"] == settings["offload_param"]["device"] == "none"


def test_the_zero_config_is_valid_for_deepspeed() -> None:
    schema = pytest.importorskip("deepspeed.runtime.zero.config", reason="DeepSpeed is not installed")
    assert schema.DeepSpeedZeroConfig(**zero_settings()).stage == 2
