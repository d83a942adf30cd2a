"""The commands of README.md: the quickstart runs, made small; of all others the options are understood."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.commands.launch import launch_command_parser

from celluscan_hf import cli
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.training import recipes

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text("utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SMALLER = {"adapt": ["--method", "head"]}
WORK = {  # what each command hands its options to
    "build": "celluscan_hf.dataset.command.build_dataset",
    "train": "celluscan_hf.training.command.train_stages",
    "evaluate": "celluscan_hf.evaluation.command.run_evaluation",
    "predict": "celluscan_hf.inference.predict.predict",
    "explain": "celluscan_hf.inference.explain.explain",
    "convert": "celluscan_hf.modeling.checkpoints.read_checkpoint",
    "demo": "celluscan_hf.space.demo.run",
    "adapt": "celluscan_hf.adaptation.adapt.adapt",
}


class Understood(Exception):
    """Raised in place of the work."""


def commands() -> Iterator[str]:
    """The command lines of all bash blocks, without comments."""
    for language, text in BLOCK.findall(README):
        for line in re.sub(r"\s*\\\n\s*", " ", text).splitlines() if language == "bash" else ():
            if command := re.sub(r"(^|\s+)#.*", "", line).strip():
                yield command


COMMANDS = list(commands())
OURS = [line for line in COMMANDS if line.startswith("celluscan ")]


def test_every_command_is_known() -> None:
    assert [
        line for line in COMMANDS if not line.startswith(("celluscan ", "accelerate launch ", "pip install "))
    ] == []


@pytest.mark.parametrize("line", OURS)
def test_the_options_of_a_command_are_understood(line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Understood

    monkeypatch.chdir(tmp_path)
    _, name, *arguments = shlex.split(line)
    monkeypatch.setattr(WORK[name], stop)
    with pytest.raises(Understood):
        cli.main([name, *arguments])


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("accelerate launch")])
def test_a_launched_training_is_understood(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    launched = launch_command_parser().parse_args(shlex.split(line)[2:])
    assert launched.training_script == "scripts/train.py"
    option, recipe, *others = launched.training_script_args
    assert option == "--recipe"
    assert [stage.dataset for stage in recipes.stages(recipe, others)] == ["out/wbc"]


def test_the_extras_it_names_are_those_of_the_project() -> None:
    described = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(re.findall(r"\"\.\[(\w+)\]", README)) <= set(described["optional-dependencies"])


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 160
    assert len(re.sub(r"<!-- table.*?<!-- end -->", "", README, flags=re.S).split()) <= 1300


@pytest.mark.slow
def test_the_quickstart_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start, end = README.index("## Quickstart"), README.index("## Models")
    monkeypatch.chdir(tmp_path)
    for name in ("Basophil", "Monocyte"):
        for number in range(6):
            file = tmp_path / "cells" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_cell(name, np.random.default_rng(number), 200).save(file)
    file.rename(tmp_path / "cell.jpg")
    for language, text in BLOCK.findall(README[start:end]):
        if language == "python":
            exec(compile(text, "README.md", "exec"), {})
            assert "'score'" in capsys.readouterr().out
            continue
        for line in text.splitlines():
            name, *arguments = shlex.split(line, comments=True)[1:]
            if name != "demo":  # serves until it is stopped
                assert cli.main([name, *arguments, *SMALLER.get(name, [])]) == 0, line
    assert (tmp_path / "cell-attention.png").is_file()
