import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.training import recipes

GIVEN = ["--dataset", "out/wbc", "--output_dir", "out/run"]


def test_the_recipes_of_the_design_are_there() -> None:
    cpu = ["bundled", "cpu-best", "cpu-robust", "cpu-small", "finetune-small"]
    gpu = ["finetune", "lora", "original-probe", "original-scratch", "probe", "scratch"]
    assert recipes.names() == sorted(cpu + gpu)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_opens_with_its_command_and_what_to_expect_and_can_be_read(name: str) -> None:
    lines = (Path(recipes.__file__).parent / "recipes" / f"{name}.yaml").read_text().splitlines()
    assert re.search(rf"(celluscan train|scripts/train\.py) --recipe {name} --dataset \S+ --output_dir \S+$", lines[0])
    comments = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    assert "xpected" in comments
    for settings in recipes.stages(name, GIVEN):
        assert settings.dataset == "out/wbc"
        assert settings.load_best_model_at_end is not name.startswith("original-")  # which took the last checkpoint
        assert (settings.metric_for_best_model, settings.greater_is_better) == ("macro_f1", True)
        assert (settings.loss, settings.maturation_weight) == ("cross_entropy", 0)


def test_the_stages_of_the_seed_are_those_it_ran() -> None:
    stages = recipes.stages("original-probe", GIVEN)
    assert [(stage.dataset_config, stage.num_train_epochs) for stage in stages] == [
        ("subset_5", 5),
        ("subset_20", 7),
        ("default", 7),
        ("default", 5),
    ]
    assert [(stage.learning_rate, stage.weight_decay) for stage in stages] == [(1e-3, 0.0)] * 2 + [(3e-4, 0.01)] * 2
    assert all(stage.freeze and stage.per_device_train_batch_size == 32 for stage in stages)


def test_the_command_line_goes_before_stage_and_recipe() -> None:
    stages = recipes.stages("original-probe", [*GIVEN, "--learning_rate", "0.5", "--model", '{"pooling": "mean"}'])
    assert [stage.learning_rate for stage in stages] == [0.5] * 4
    assert stages[0].model_fields == {"hidden_dropout_prob": 0.0, "pooling": "mean"}


def test_model_fields_that_are_not_a_json_object_are_refused() -> None:
    for text in ("{", "3"):
        with pytest.raises(CelluScanError, match="expected a JSON object of CelluScanConfig fields"):
            recipes.stages("finetune", [*GIVEN, "--model", text])


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(CelluScanError, match=r"no recipe 'finetun'; there are: bundled, .*scratch"):
        recipes.load("finetun")


def test_a_renamed_recipe_is_refused_with_its_new_name() -> None:
    with pytest.raises(CelluScanError, match="the recipe seed-probe was renamed to original-probe"):
        recipes.load("seed-probe")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("learning_rat: 1", "learning_rat is not a setting"),
        ("- 1", "expected a mapping of settings, got list"),
        ("a: [", "is not YAML"),
        ("stages: 3", "stages must be a list"),
    ],
)
def test_an_invalid_recipe_file_is_refused(content: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(content)
    with pytest.raises(CelluScanError, match=words):
        recipes.load(str(file))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ema_decay": 1.5}, "--ema_decay 1.5: expected 0.0 to"),
        ({"parent_share": 1.1}, "--parent_share 1.1: expected 0.0 to 1.0"),
        ({"maturation_weight": -1}, "--maturation_weight -1: expected 0.0 to 10.0"),
        ({"loss": "hierarchic"}, "--loss hierarchic: expected one of .*, hierarchical"),
        ({"cache_images": True, "dataloader_num_workers": 2}, "--dataloader_num_workers"),
        ({"streaming": True, "sampler": "balanced"}, "--streaming reads images in order"),
        ({"dataloader_drop_last": True}, "leave cells out of validation"),
        ({"train_sampling_strategy": "sequential"}, "use --sampler instead"),
        ({"dataset": ""}, "no --dataset given"),
    ],
)
def test_invalid_settings_are_refused(options: dict[str, Any], words: str, recipe: Callable[..., Path]) -> None:
    with pytest.raises(CelluScanError, match=words):
        recipes.stages(str(recipe(**options)), ["--output_dir", "out/run"])


def test_a_mistyped_option_is_named_with_the_nearest() -> None:
    with pytest.raises(CelluScanError, match="there is no option --learnin_rate; did you mean --learning_rate"):
        recipes.stages("cpu-small", ["--dataset", "x", "--output_dir", "y", "--learnin_rate", "1e-3"])
