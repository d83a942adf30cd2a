"""Every command of README.md is run: here, in its order on drawn cells, or by the test that a table names."""

import json
import logging
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from PIL import Image
from torchvision.models import VisionTransformer
from transformers import AutoModelForImageClassification
from transformers.utils import logging as transformers_log

from celluscan_hf import cli, taxonomy
from celluscan_hf.hub import command as hub_command
from celluscan_hf.sources import READERS
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.sources.licenses import redistributable
from celluscan_hf.training import recipes

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
BENCHMARK = "python scripts/benchmark.py"

CHAIN = {  # what is run here, and the arguments that make it small
    "python scripts/build_dataset.py": "--image-size 48 --target-per-class 12 --num-proc 1",
    "python scripts/convert_weights.py": "",
    "python scripts/train.py": "--num_train_epochs 6 --per_device_train_batch_size 8 --learning_rate 0.004 "
    """--model '{"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}' """
    "--ema_decay 0 --disable_tqdm true",
    "python scripts/evaluate.py": "--resamples 20",
    "celluscan explain": "",
    "celluscan export-onnx": "",
    "celluscan predict": "",
    "celluscan calibrate": "",
}
ELSEWHERE = {  # who runs the others: a file, and the test or the line in it
    'pip install -e ".[demo]"': ("scripts/test.sh", '--editable ".[test]"'),
    "accelerate launch": ("tests/training/test_run.py", "test_accelerate_launches_the_script"),
    "accelerate launch --config_file": (
        "tests/training/test_run.py",
        "test_a_launch_config_is_one_that_accelerate_reads_and_opens_with_its_command",
    ),
    "celluscan recalibrate": ("tests/test_cli.py", "test_calibrate_and_recalibrate_say_what_they_did"),
    "python scripts/audit.py leak": (
        "tests/audits/test_leak.py",
        "test_the_command_trains_both_and_writes_figures_and_picture",
    ),
    "python scripts/audit.py losses": (
        "tests/audits/test_losses.py",
        "test_the_command_trains_each_loss_and_compares_it_with_the_flat_one",
    ),
    "python scripts/audit.py labels": (
        "tests/audits/test_labels.py",
        "test_the_command_judges_every_cell_by_a_model_of_other_groups",
    ),
    "python scripts/audit.py left-out": (
        "tests/audits/test_left_out.py",
        "test_the_command_judges_both_parts_and_asks_for_no_class_that_was_not_learned",
    ),
    "python scripts/evaluate.py --leave-one-source-out": (
        "tests/audits/test_left_out.py",
        "test_the_script_of_evaluations_leaves_each_source_out",
    ),
    "python scripts/audit.py shortcut": ("tests/audits/test_shortcut.py", "test_the_command_tells_of_data_and_model"),
    "celluscan demo": ("tests/space/test_demo.py", "test_the_command_serves_the_page"),
    "python scripts/push_dataset.py": (
        "tests/hub/test_push.py",
        "test_a_data_set_is_published_and_loaded_as_the_readme_says",
    ),
    "python scripts/push_model.py": (
        "tests/hub/test_push.py",
        "test_both_variants_of_a_model_are_published_and_loaded_as_their_cards_say",
    ),
    "python scripts/push_metric.py": ("tests/hub/test_push.py", "test_the_metric_is_published_and_loaded"),
    "python scripts/push_space.py": (
        "tests/hub/test_push.py",
        "test_the_page_is_published_with_the_package_it_runs_on",
    ),
}
NOT_RUN = {
    "scripts/quickstart.sh": "installs some GB, then takes minutes",
    "source .venv/bin/activate": "changes the shell it is typed in",
    "hf auth login": "asks for a token",
    f"{BENCHMARK} training": "needs a GPU",
}
LOCAL = {  # what would be fetched, or is made by the quickstart, and what stands here for it
    "torchvision:vit_b_16": "vit_b_16.pth",
    "out/quickstart/": "out/",
}
TREES = {  # files as each source lays them out, {} is a number; their class
    "PBC_dataset_normal_DIB/basophil/BA_{}.jpg": "Basophil",
    "PBC_dataset_normal_DIB/eosinophil/EO_{}.jpg": "Eosinophil",
    "PBC_dataset_normal_DIB/platelet/PLATELET_{}.jpg": "Platelet",
    "AML-Cytomorphology_LMU/MYO/MYO_{}.tiff": "Myeloblast",
    "AML-Cytomorphology_LMU/PMO/PMO_{}.tiff": "Promyelocyte",
    "Raabin-WBC/Train/Basophil/95-8-5-{}_176_1.jpg": "Basophil",
    "Raabin-WBC/TestA/Eosinophil/96-8-5-{}_176_1.jpg": "Eosinophil",
    "cells/Basophil/{}.png": "Basophil",
    "cells/platelets/{}.png": "Platelet",
    "cells/SNE/{}.png": "Segmented Neutrophil",
    "more/{}.png": "Monocyte",
    "slides/{}.tif": "Myelocyte",
}
EACH = 12  # files of each
BCCD = """<annotation><size><width>640</width><height>480</height></size>
<object><name>WBC</name><bndbox><xmin>200</xmin><ymin>150</ymin><xmax>350</xmax><ymax>300</ymax></bndbox></object>
</annotation>"""
EVALUATION = ("metrics.json", "predictions.parquet", "confusion_matrix.png", "report.md")
PROMISED = [
    *(f"out/celluscan/wbc/{name}" for name in ("README.md", "curation/dropped.csv")),
    *(f"out/mine/{name}" for name in ("README.md", "data")),
    *(f"out/run/{name}" for name in ("settings.json", "training.json", "curves.png", "checkpoint-*", "config.json")),
    *(f"out/{evaluation}/{name}" for evaluation in ("evaluation", "raabin") for name in EVALUATION),
    "out/evaluation/examples/*",  # none in out/raabin: the licence does not let its cells be passed on
    *(f"out/{name}" for name in ("celluscan/wbc.log", "mine.log", "cell.png", "vit/*.py", "vit-onnx/model.onnx")),
    "cell-attention.png",
]


class Step(NamedTuple):
    """A command of a bash block on one line, or a python block, and the folder to be in."""

    language: str
    text: str
    folder: str


def steps() -> list[Step]:
    """All of them in the order of README.md, what needs the quickstart last."""
    found = []
    for block in BLOCK.finditer(README):
        language, text = block.groups()
        before = README[: block.start()].rstrip().rpartition("\n\n")[2]
        told = re.search(r"after `cd (\w+)`", before)
        lines = commands(text) if language == "bash" else [text] * (language == "python")
        found += [Step(language, line, told[1] if told else ".") for line in lines]
    return sorted(found, key=lambda step: step.language == "python" and "out/quickstart" in step.text)


def commands(block: str) -> list[str]:
    """The commands of a bash block, their continued lines joined, without comments."""
    lines = re.sub(r"\s*\\\n\s*", " ", block).splitlines()
    return [bare for line in lines if (bare := re.sub(r"(^|\s+)#.*", "", line).strip())]


STEPS = steps()
COMMANDS = [step.text for step in STEPS if step.language == "bash"]
BENCHMARKS = [line for line in COMMANDS if line.startswith(BENCHMARK)]


def starting(*prefix: str) -> list[str]:
    return [line for line in COMMANDS if line.startswith(prefix)]


def test_commands_are_found_without_their_comments() -> None:
    block = "# what follows\na --b 'c d'  # why\n\ne f \\\n   --g h  # \\\n"
    assert commands(block) == ["a --b 'c d'", "e f --g h"]


def test_every_command_is_run_here_or_by_whom_a_table_names() -> None:
    known = (*CHAIN, *ELSEWHERE, *NOT_RUN, BENCHMARK)
    assert [line for line in COMMANDS if not line.startswith(known)] == []


def test_every_code_block_says_its_language_or_shows_a_tree() -> None:
    assert set(re.findall(r"^```.*$", README, re.M)[::2]) == {"```", "```bash", "```python"}


@pytest.mark.parametrize("prefix", [*CHAIN, *ELSEWHERE, *NOT_RUN])
def test_a_row_of_the_tables_is_of_a_command_that_is_there(prefix: str) -> None:
    assert starting(prefix)


@pytest.mark.parametrize(("file", "name"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_who_runs_it_is_there(file: str, name: str) -> None:
    assert (f"def {name}(" if file.endswith(".py") else name) in (PROJECT / file).read_text("utf-8")


@pytest.mark.parametrize("line", [line for line in BENCHMARKS if not line.startswith(tuple(NOT_RUN))])
def test_a_benchmark_was_run(line: str) -> None:
    what = " ".join(line.split()[:3])
    recorded = [json.loads(file.read_text("utf-8"))["command"] for file in (PROJECT / "results").glob("*.json")]
    assert [found for found in recorded if f"{found} ".startswith(f"{what} ")], f"no file of results/ is of {what}"


@pytest.mark.parametrize("line", BENCHMARKS)
def test_a_benchmark_understands_its_options(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", shlex.split(line)[1:])
    script = runpy.run_path(str(PROJECT / "scripts" / "benchmark.py"))
    assert script["parse_arguments"]().what == line.split()[2]


def test_a_benchmark_that_takes_quartiles_refuses_one_round(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "model", "--rounds", "1"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(PROJECT / "scripts" / "benchmark.py"))["parse_arguments"]()
    assert "--rounds: expected at least 2, got 1" in capsys.readouterr().err


@pytest.mark.parametrize("line", starting("python scripts/push_"))
def test_a_command_that_publishes_understands_its_options(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_command, "_run", lambda publish, arguments: vars(arguments))
    _, script, *arguments = shlex.split(line)
    understood = getattr(hub_command, Path(script).stem)(arguments)
    assert {value for value in arguments if not value.startswith("--")} <= set(map(str, understood.values()))


def test_the_data_set_it_publishes_may_be_passed_on() -> None:
    (line,) = starting("python scripts/push_dataset.py")
    built = next(other for other in COMMANDS if f" --output {shlex.split(line)[2]}" in other)
    sources = re.findall(r"--source (\w+)=", built)
    closed = [key for key in sources if not redistributable(READERS[key].info.license)]
    assert "--recipe-only" in line or not closed


@pytest.mark.parametrize("line", starting("celluscan demo"))
def test_the_page_understands_its_options(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(cli, "_demo", asked.append)
    assert cli.main(shlex.split(line)[1:]) == 0
    assert (asked[0].model, asked[0].evaluation) == ("out/run", Path("out/evaluation"))


@pytest.mark.parametrize("line", starting("accelerate launch"))
def test_a_launched_training_understands_its_options(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    launched = launch_command_parser().parse_args(shlex.split(line)[2:])
    assert launched.config_file is None or Path(launched.config_file).is_file()
    assert launched.training_script == "scripts/train.py"
    option, recipe, *others = launched.training_script_args
    assert (option, recipe) == ("--recipe", "finetune")
    assert [stage.dataset for stage in recipes.stages(recipe, others)] == ["out/celluscan/wbc"]


def test_the_extras_it_names_are_those_of_the_project() -> None:
    described = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(re.findall(r"\.\[(\w+)\]", README)) <= set(described["optional-dependencies"])


@pytest.fixture
def as_noisy_as_before() -> Iterator[None]:
    """Commands set up the log of their process; afterwards it is as it was."""
    log = logging.getLogger()
    handlers, level, verbosity = log.handlers.copy(), log.level, transformers_log.get_verbosity()
    yield
    for handler in set(log.handlers) - set(handlers):
        handler.close()
    log.handlers[:] = handlers
    log.setLevel(level)
    transformers_log.set_verbosity(verbosity)
    transformers_log.enable_progress_bar()
    datasets.enable_progress_bars()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a project with tiny sources and no `out`."""
    for name in ("scripts", "celluscan_hf"):
        (tmp_path / name).symlink_to(PROJECT / name)
    lay_out_sources(tmp_path)
    return tmp_path


def lay_out_sources(folder: Path) -> None:
    """What README.md takes from elsewhere: data sets, images of one's own, published weights."""
    rng = np.random.default_rng(0)
    files = {tree.format(number): name for tree, name in TREES.items() for number in range(1, EACH + 1)}
    for path, name in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        draw_cell(name, rng, 64).save(folder / path)
    groups = [f"{path.removeprefix('cells/')},{path[-5]}" for path in files if path.startswith("cells/")]
    (folder / "cells" / "metadata.csv").write_text("\n".join(["file_name,group_id", *groups]))
    lay_out_bccd(folder / "BCCD", draw_cell("Monocyte", rng, 150))
    torch.manual_seed(0)
    vit = VisionTransformer(32, 8, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=64, num_classes=10)
    torch.save(vit.state_dict(), folder / "vit_b_16.pth")


def lay_out_bccd(folder: Path, cell: Image.Image) -> None:
    """One field with one white cell."""
    field = Image.new("RGB", (640, 480), (235, 225, 220))
    field.paste(cell, (200, 150))
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    field.save(folder / "JPEGImages" / "BloodImage_00001.jpg")
    (folder / "Annotations" / "BloodImage_00001.xml").write_text(BCCD)
    (folder / "labels.csv").write_text(",Image,Category\n,1,MONOCYTE\n")


@pytest.mark.slow
def test_all_others_run_in_the_order_of_the_page(
    root: Path, as_noisy_as_before: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = {}
    for step in STEPS:
        monkeypatch.chdir(root / step.folder)
        if step.language == "python":
            exec(compile(local(step.text), "a block of README.md", "exec"), {})
        elif step.text.startswith(tuple(CHAIN)) and not step.text.startswith(tuple(ELSEWHERE)):
            if "--resume_from_checkpoint" in step.text:
                stop(root / "out" / "run")
            run(step.text, monkeypatch, capsys)
        printed[step.text] = capsys.readouterr().out
    monkeypatch.chdir(root)
    check_files(root)
    check_printed(printed)


def local(text: str) -> str:
    for name, path in LOCAL.items():
        text = text.replace(name, path)
    return text


def run(line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one command in this process, made small; it must end with 0."""
    smaller = next(arguments for prefix, arguments in CHAIN.items() if line.startswith(prefix))
    program, *arguments = shlex.split(f"{local(line)} {smaller}")
    ended = cli.main(arguments) if program == "celluscan" else run_script(arguments, monkeypatch)
    assert not ended, f"{line}: exit status {ended}\n{capsys.readouterr().err}"


def run_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "argv", words)
    try:
        runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


def stop(folder: Path) -> None:
    """Leave of a finished training what is there when it is stopped after its first epoch."""
    (folder / "training.json").unlink()
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    (newest / "trainer_state.json").unlink()  # written last: a checkpoint without it is not whole


def check_files(root: Path) -> None:
    assert [name for name in PROMISED if not list(root.glob(name))] == []
    assert json.loads((root / "out/run/training.json").read_text())["resumed_from"]
    assert json.loads((root / "out/evaluation/metrics.json").read_text())["n"] > 0
    assert not list(root.glob("out/vit-native/*.py"))
    model = AutoModelForImageClassification.from_pretrained(root / "out" / "vit-native")
    assert list(model.config.id2label.values()) == list(taxonomy.NAMES)
    for name in ("cell-attention.png", "out/run/curves.png", "out/evaluation/confusion_matrix.png"):
        with Image.open(root / name) as picture:
            assert picture.format == "PNG"


def check_printed(printed: dict[str, str]) -> None:
    def of(part: str) -> str:
        return next(text for line, text in printed.items() if part in line)

    header, *rows = of("celluscan predict").strip().splitlines()
    assert header.startswith("image,label,score,")
    assert len(rows) == 1 + EACH + EACH
    assert all(row.split(",")[1] in taxonomy.NAMES for row in rows)
    assert all(repr(name) in of('load_dataset("celluscan/wbc")') for name in taxonomy.NAMES)
    assert "'score'" in of('pipeline("image-classification", model="out/quickstart/run")')
    assert "largest difference of a logit" in of("export-onnx")
