import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, pipeline

from celluscan_hf import taxonomy
from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.reading import CellDataset
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.training.losses import LOSSES
from celluscan_hf.training.trainer import CellTrainer
from tests.commands import train as run_training

Recipe = Callable[..., Path]
Trained = Callable[..., int]
TRAINED_BY_TRANSFORMERS_ALONE = """
import sys
from transformers import pipeline
print(pipeline("image-classification", model=sys.argv[1])(sys.argv[2])[0]["label"])
assert "celluscan_hf" not in sys.modules
"""


def record(folder: Path, name: str = "training") -> Any:
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, data_set: Path) -> Path:
    """A finished run of a plain ViT, trained long enough to classify some synthetic cells."""
    output = tmp_path_factory.mktemp("run") / "out"
    arguments = ["--num_train_epochs", "6", "--ema_decay", "0.9", "--disable_tqdm", "true", "--muon", "true"]
    assert (
        run_training(["--recipe", "cpu-small", "--dataset", str(data_set), "--output_dir", str(output), *arguments])
        == 0
    )
    return output


@pytest.mark.slow
def test_a_trained_plain_vit_needs_transformers_alone(run: Path, tmp_path: Path) -> None:
    cell = tmp_path / "cell.png"
    Image.new("RGB", (50, 60), (200, 180, 190)).save(cell)
    result = subprocess.run(
        [sys.executable, "-c", TRAINED_BY_TRANSFORMERS_ALONE, str(run), str(cell)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in taxonomy.NAMES
    assert not list(run.rglob("*.bin"))


def test_the_published_model_gives_the_metrics_of_the_record(run: Path, cells: CellDataset) -> None:
    rows = cells.split("originals", "validation")
    names = rows.features["label"].names
    classify = pipeline("image-classification", model=str(run), top_k=1)
    images = [Image.open(io.BytesIO(row["image"]["bytes"])) for row in rows]
    right = [answer[0]["label"] == names[row["label"]] for answer, row in zip(classify(images), rows, strict=True)]
    metrics = record(run)["validation"]
    assert metrics["n"] == len(rows) == 28
    assert sum(right) / len(right) == pytest.approx(metrics["accuracy"])
    assert metrics["accuracy"] > 2 / 14  # it has learned


def test_a_run_ends_calibrated_by_default(run: Path, recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    calibration = record(run)["calibration"]
    assert calibration["n"] == 28
    assert calibration["after"]["nll"] <= calibration["before"]["nll"]
    assert (
        pipeline("wbc-classification", model=str(run), device="cpu").reliability.confidence_threshold
        == calibration["confidence_threshold"]["threshold"]
    )
    assert trained(recipe(max_steps=2), tmp_path / "plain") == 0  # whose recipe has calibrate: false
    assert record(tmp_path / "plain")["calibration"] is None
    assert not (tmp_path / "plain" / "reliability.json").exists()


def test_the_record_describes_the_run(run: Path, cells: CellDataset) -> None:
    recorded = record(run, "settings")
    assert recorded["data"]["fingerprint"] == cells.fingerprint
    assert recorded["data"]["rows"] == {"train": len(cells.split("originals", "train")), "validation": 28}
    assert recorded["settings"]["learning_rate"] > 0
    assert recorded["settings"]["seed"] == recorded["seed"] == 42
    assert recorded["model"]["hidden_size"] == 192
    assert set(recorded["versions"]) >= {"python", "torch", "transformers", "celluscan_hf"}
    assert recorded["git"] is None or len(recorded["git"].removesuffix("-modified")) == 40
    assert (run / "curves.png").is_file()


def test_a_checkpoint_holds_the_averages_and_no_pickled_arguments(run: Path) -> None:
    last = max(run.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert not (last / "training_args.bin").exists()
    state = torch.load(last / "optimizer.pt", weights_only=True)
    assert all(group["shows_averages"] for group in state["param_groups"])
    assert (last / "preprocessor_config.json").is_file()


@pytest.mark.parametrize(
    "model", [{"patch_stem": "convolution"}, {"input_norm": "image"}, {"views": 2}, {"crops": [0.9, 0.8, 0.7]}], ids=str
)
def test_a_model_that_is_not_a_plain_vit_is_published_with_its_code(
    model: dict[str, Any], recipe: Recipe, trained: Trained, tmp_path: Path
) -> None:
    chosen = recipe(model=model, max_steps=2, crop_pct=0.8, load_best_model_at_end=False)
    assert trained(chosen, tmp_path / "run") == 0
    assert (tmp_path / "run" / "modeling_celluscan.py").is_file()
    published, processor = load_classifier(tmp_path / "run")
    assert type(published).__name__ == "CelluScanForImageClassification"
    assert {name: getattr(published.config, name) for name in model} == model
    assert processor(Image.new("RGB", (50, 50)), return_tensors="pt")["pixel_values"].shape[-1] == (
        published.config.picture_size
    )


def test_training_looks_at_one_of_the_crops(
    recipe: Recipe, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(recipe(model={"crops": [1.0, 0.5]}, max_steps=2, crop_pct=0.8), tmp_path / "run") == 2
    assert (
        "--crop_pct 0.8, at which training looks, must be one of the model's crops, [1.0, 0.5]"
        in capsys.readouterr().err
    )


def test_stages_run_in_order_and_each_goes_on_from_the_last(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    stages = [{"dataset_config": "subset_20", "max_steps": 2}, {"max_steps": 3, "learning_rate": 0.0}]
    chosen = recipe(stages=stages, per_device_train_batch_size=16, weight_decay=0.0, load_best_model_at_end=False)
    assert trained(chosen, tmp_path / "run") == 0
    folders = (tmp_path / "run" / "stage-1", tmp_path / "run")
    assert [record(folder)["steps"] for folder in folders] == [2, 3]
    first, last = (record(folder, "settings") for folder in folders)
    assert (first["data"]["config"], last["data"]["config"]) == ("subset_20", "default")
    weights = [load_file(folder / "model.safetensors") for folder in folders]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])  # the last learned nothing


def test_a_frozen_model_trains_its_head_alone(run: Path, data_set: Path, tmp_path: Path) -> None:
    given = ["--recipe", "cpu-small", "--dataset", str(data_set), "--start", str(run), "--calibrate", "false"]
    options = ["--freeze", "true", "--muon", "false", "--max_steps", "2", "--output_dir", str(tmp_path / "head")]
    assert run_training([*given, *options]) == 0
    before, after = (load_file(folder / "model.safetensors") for folder in (run, tmp_path / "head"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_adapters_train_beside_the_matrices_and_are_merged(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    fields = {"layer_scale_init": 0.1, "num_register_tokens": 2, "pooling": "cls_mean"}
    assert trained(recipe(model=fields, num_train_epochs=1), tmp_path / "first") == 0
    adapted = recipe("adapted", model=fields, start=str(tmp_path / "first"), lora_rank=4, ema_decay=0.9)
    assert trained(adapted, tmp_path / "adapted") == 0
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "adapted"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    kinds = {".".join(name.split(".")[-3:-1]) for name in changed if not name.startswith("classifier")}
    assert kinds == {"attention.query", "attention.key", "attention.value", "output.dense", "mlp.fc1", "mlp.fc2"}
    assert not [name for name in changed if name.endswith("bias") and not name.startswith("classifier")]
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "adapted")  # of transformers alone
    assert type(model).__name__ == "Dinov2WithRegistersForImageClassification"
    loaded, _ = load_classifier(tmp_path / "adapted")
    assert loaded.config.id2label == taxonomy.ID2LABEL


def test_adapters_and_a_frozen_model_exclude_each_other(
    recipe: Recipe, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(recipe(lora_rank=4, freeze=True), tmp_path / "out") == 2
    assert "--lora_rank 4: expected 0 or more, without --freeze and --muon" in capsys.readouterr().err
    assert trained(recipe(lora_rank=4, model={"patch_stem": "convolution"}), tmp_path / "out") == 2
    assert "--lora_rank does not support a convolution stem" in capsys.readouterr().err


@pytest.mark.slow
def test_fewer_classes_than_fourteen_train_a_head_of_fourteen(
    recipe: Recipe, trained: Trained, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number in range(30):
        write_image(tmp_path / "own" / "Basophil" / f"{number}.png", number)
        write_image(tmp_path / "own" / "Monocyte" / f"{number}.png", 100 + number)
    own = BuildSettings((f"imagefolder={tmp_path / 'own'}",), tmp_path / "two", image_size=48, target_per_class=0)
    build(own)
    chosen = recipe(dataset=str(tmp_path / "two"), per_device_train_batch_size=8, max_steps=2, loss="class_balanced")
    assert trained(chosen, tmp_path / "run") == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert list(model.config.id2label.values()) == list(taxonomy.NAMES)


def test_the_hierarchical_and_maturation_losses_train_on_mixed_images(
    recipe: Recipe, trained: Trained, tmp_path: Path
) -> None:
    chosen = recipe(max_steps=4, mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing_factor=0.1)
    assert trained(chosen, tmp_path / "run", "--loss", "hierarchical", "--maturation_weight", 0.5) == 0
    settings = record(tmp_path / "run", "settings")["settings"]
    assert [settings[name] for name in ("loss", "parent_share", "maturation_weight")] == ["hierarchical", 0.1, 0.5]
    assert all(0 < line["loss"] < 10 for line in record(tmp_path / "run")["history"] if "loss" in line)


def test_a_run_that_is_older_than_an_option_goes_on_without_it(
    recipe: Recipe, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen, run = recipe(max_steps=2), tmp_path / "run"
    assert trained(chosen, run) == 0
    (run / "training.json").unlink()
    recorded = record(run, "settings")
    recorded["settings"].pop("maturation_weight")
    (run / "settings.json").write_text(json.dumps(recorded))
    assert trained(chosen, run, "--resume_from_checkpoint", "last", "--maturation_weight", 0.5) == 2
    assert "was started with maturation_weight 0.0, now it is 0.5" in capsys.readouterr().err
    assert trained(chosen, run, "--resume_from_checkpoint", "last") == 0


def test_a_folder_with_another_run_and_other_settings_on_resume_are_refused(
    run: Path, data_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--recipe", "cpu-small", "--dataset", str(data_set), "--output_dir", str(run)]
    assert run_training(given) == 2
    error = capsys.readouterr().err
    assert "holds another run" in error
    assert "--resume_from_checkpoint last" in error
    assert run_training([*given, "--resume_from_checkpoint", "last"]) == 2
    assert "was started with" in capsys.readouterr().err


def test_a_finished_run_is_not_changed(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    chosen = recipe(max_steps=2)
    assert trained(chosen, tmp_path / "run") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert trained(chosen, tmp_path / "run", "--resume_from_checkpoint", "last") == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_a_run_resumes_from_the_newest_complete_checkpoint(recipe: Recipe, trained: Trained, tmp_path: Path) -> None:
    saving = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    chosen, run = recipe(max_steps=12, save_total_limit=9, **saving), tmp_path / "run"
    assert trained(chosen, run) == 0
    (run / "training.json").unlink()
    (run / "checkpoint-12" / "trainer_state.json").unlink()  # which is written last
    assert trained(chosen, run, "--resume_from_checkpoint", "last") == 0
    assert record(run)["resumed_from"] == "checkpoint-10"


def test_training_reads_no_cell_of_test(recipe: Recipe, trained: Trained, data_set: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data_set, tmp_path / "cells"))
    for file in (folder / "data").rglob("test-*.parquet"):
        file.write_bytes(b"not to be read")
    assert trained(recipe(dataset=str(folder), max_steps=2, calibrate=True), tmp_path / "run") == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_a_corrupt_row_stops_the_training_with_its_name(
    workers: int, recipe: Recipe, trained: Trained, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data_set, tmp_path / "damaged")
    file = next((tmp_path / "damaged" / "data" / "originals").glob("train-tier100-*.parquet"))
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[0]["image"]["bytes"] = rows[0]["image"]["bytes"][:300]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    chosen = recipe(dataset=str(tmp_path / "damaged"), dataloader_num_workers=workers)
    assert trained(chosen, tmp_path / "run") == 2
    assert f"error: image {rows[0]['image_id']} cannot be decoded" in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    recipe: Recipe,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step_of = CellTrainer.training_step

    def with_nan(self: CellTrainer, *arguments: Any, **options: Any) -> torch.Tensor:
        loss = step_of(self, *arguments, **options)
        if self.state.global_step == 3:
            next(self.model.parameters()).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(CellTrainer, "training_step", with_nan)
    saving = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    assert trained(recipe(**saving, logging_steps=100), tmp_path / "run") == 2
    error = capsys.readouterr().err
    assert "error: the loss or its gradient is not finite at step 4" in error
    assert f"{tmp_path / 'run' / 'checkpoint-2'} is the last good checkpoint" in error
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]


def test_without_gpu_memory_the_error_names_the_options_to_lower(
    recipe: Recipe,
    trained: Trained,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def out_of_memory(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(CellTrainer, "training_step", out_of_memory)
    assert trained(recipe(), tmp_path / "run") == 2
    assert "out of memory: lower --per_device_train_batch_size" in capsys.readouterr().err


def test_a_folder_without_splits_is_refused(
    recipe: Recipe, trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert trained(recipe(dataset=str(tmp_path / "empty")), tmp_path / "run") == 2
    assert "has no data/originals/train-*.parquet" in capsys.readouterr().err


@pytest.mark.slow
def test_accelerate_launches_the_script(recipe: Recipe, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "scripts" / "train.py"
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", str(script)]
    given = ["--recipe", str(recipe(max_steps=2)), "--output_dir", str(tmp_path / "run")]
    result = subprocess.run([*launch, *given], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert record(tmp_path / "run")["steps"] == 2


@pytest.mark.parametrize("name", ["one_gpu", "ddp", "fsdp", "zero2", "two_nodes"])
def test_a_launch_config_is_one_that_accelerate_reads_and_opens_with_its_command(name: str) -> None:
    file = Path(__file__).parents[2] / "scripts" / "accelerate" / f"{name}.yaml"
    assert f"accelerate launch --config_file scripts/accelerate/{name}.yaml" in file.read_text()
    config = load_config_from_file(str(file))
    assert config.mixed_precision == "bf16"
    assert config.num_processes >= config.num_machines


def test_the_help_lists_every_setting_and_the_recipes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run_training(["--help"]) == 0
    help_text = capsys.readouterr().out
    assert all(word in help_text for word in ("--ema_decay", "--gradient_accumulation_steps", "cpu-small"))
    assert all(loss in help_text for loss in LOSSES)
    assert help_text.index("--cache_images") < help_text.index("--gradient_accumulation_steps")  # its own options first
