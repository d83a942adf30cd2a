"""The command `celluscan`: quick help, exit statuses, one line for each error, tracebacks for bugs."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import celluscan_hf
from celluscan_hf.cli import COMMANDS, main
from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor
from celluscan_hf.processes import ALONE

PROJECT = Path(__file__).resolve().parents[1]
NOT_A_COMMAND = {"bundle_model", "augmentations", "overview", "screenshots", "tables"}
EXPLAIN = "celluscan_hf.inference.explain.explain"


@pytest.fixture(autouse=True)
def _as_noisy_as_before() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if bars:
        logging.enable_progress_bar()


@pytest.fixture
def cell(tmp_path: Path, write_image: Callable[..., Path]) -> str:
    return str(write_image(tmp_path / "some.cell.png", 1))


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    config = CelluScanConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
    )
    CelluScanForImageClassification(config).save_pretrained(folder)
    build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def explain_calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the drawing was asked to do, instead of doing it."""
    calls: list[dict[str, Any]] = []

    def note(image: Path, model: str, output: Path, layer: int, **options: Any) -> Path:
        calls.append({"image": image, "model": model, "output": output, "layer": layer, **options})
        return output

    monkeypatch.setattr(EXPLAIN, note)
    return calls


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a failed run says."""
    capsys.readouterr()
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom celluscan_hf.cli import main\n"
        "assert main(['--help']) == 0\n"
        "print({'torch', 'transformers', 'numpy', 'matplotlib'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "export-onnx" in printed
    assert "predict" in printed
    assert printed.endswith("set()\n")


@pytest.mark.parametrize("command", ["audit leak", "convert", "push model", "predict", "calibrate"])
def test_help_of_a_command_imports_no_library_of_models(command: str) -> None:
    script = (
        "import sys\nfrom celluscan_hf.cli import main\n"
        f"try:\n    main([*{command.split()!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules))"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.startswith(f"usage: celluscan {command} ")
    assert printed.endswith("set()\n")


def test_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "celluscan_hf.cli", "--version"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == f"celluscan {celluscan_hf.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain"],
        ["predict", "--model", "m"],
        ["predict", "cell.png", "--views", "3"],
        ["predict", "cell.png", "--model", "m", "--csv", "--json"],
    ],
)
def test_a_command_that_is_not_understood(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: celluscan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [([], "celluscan --help lists them"), (["bild"], "did you mean build?"), (["push", "data"], "push dataset")],
)
def test_an_unknown_command_is_one_line(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hint in fails(capsys, *arguments)


@pytest.mark.parametrize("more", [[], ["--help"], ["out/run", "--source", "imagefolder=cells", "--output", "out/mine"]])
def test_a_replaced_command_names_its_successor(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    successor = "celluscan adapt MODEL --source … --method calibration --output …"
    assert fails(capsys, "recalibrate", *more) == f"error: celluscan recalibrate was replaced by {successor}\n"


@pytest.mark.parametrize(("arguments", "status"), [(["push"], 2), (["push", "--dry-run"], 2), (["push", "--help"], 0)])
def test_push_alone_lists_what_can_be_pushed(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == status
    printed = capsys.readouterr()
    help_text = printed.err if status else printed.out
    assert help_text.startswith("usage: celluscan push dataset|model|space|metric ")
    assert [line.split()[1] for line in help_text.splitlines() if line.startswith("  push ")] == [
        "dataset",
        "model",
        "space",
        "metric",
    ]
    assert "\n  train " not in help_text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        assert main([*name.split(), "--help"]) == 0
    except SystemExit as end:
        assert end.code == 0
    assert capsys.readouterr().out.startswith(f"usage: celluscan {name} ")


@pytest.mark.parametrize("script", sorted((PROJECT / "scripts").glob("*.py")), ids=lambda script: script.stem)
def test_a_script_is_a_command(script: Path) -> None:
    called = re.search(r'run_script\("(.+)"\)', script.read_text("utf-8"))
    assert script.stem in NOT_A_COMMAND or (called and called[1] in COMMANDS)


@pytest.mark.slow
def test_a_script_named_as_a_library_does_not_hide_it(tmp_path: Path) -> None:
    code = "import sys, runpy\nsys.argv = [sys.argv[1], '--help']\nsys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
    code += "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit:\n    pass\n"
    code += "import evaluate\nprint('site-packages' in evaluate.__file__)"
    command = [sys.executable, "-c", code, str(PROJECT / "scripts" / "evaluate.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.endswith("True\n"), done.stderr


def test_explain_draws_into_the_current_folder(
    cell: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["explain", cell, "--model", model]) == 0
    assert capsys.readouterr() == ("some.cell-attention.png\n", "")
    with Image.open(tmp_path / "some.cell-attention.png") as drawn:
        assert drawn.format == "PNG"


def test_explain_trusts_remote_code_only_when_told(explain_calls: list[dict[str, Any]]) -> None:
    assert main(["explain", "cell.png", "--model", "some/model"]) == 0
    assert main(["explain", "cell.png", "--model", "some/model", "--trust-remote-code"]) == 0
    assert [call["trust_remote_code"] for call in explain_calls] == [False, True]


def test_explain_hands_on_what_was_asked(explain_calls: list[dict[str, Any]]) -> None:
    assert main(["explain", "a/cell.png", "--model", "m", "--output", "b/drawn.png", "--layer", "3"]) == 0
    assert main(["explain", "a/cell.png", "--model", "m"]) == 0
    assert [(call["output"], call["layer"]) for call in explain_calls] == [
        (Path("b/drawn.png"), 3),
        (Path("cell-attention.png"), -1),
    ]


def test_a_missing_image(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no such image" in fails(capsys, "explain", "missing.jpg", "--model", model)


@pytest.mark.parametrize("name", ["./missing", "missing", "out/a/missing"])
def test_a_missing_model_is_not_looked_up_on_the_hub(
    name: str, cell: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.AutoModelForImageClassification.from_pretrained", None)
    assert f"{name} does not exist; expected a checkpoint" in fails(capsys, "explain", cell, "--model", name)


def test_a_layer_that_does_not_exist(cell: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "layer 7 does not exist" in fails(capsys, "explain", cell, "--model", model, "--layer", "7")


@pytest.mark.slow
def test_export_onnx_says_how_close_it_is(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    capsys.readouterr()
    assert main(["export-onnx", model, str(tmp_path / "exported")]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'exported' / 'model.onnx'}: 0.1 MB\nlargest difference of a logit")
    assert err == ""


def test_export_onnx_does_not_overwrite(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    assert "is not empty" in fails(capsys, "export-onnx", model, model)


def test_export_onnx_trusts_remote_code_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from celluscan_hf.inference.onnx import OnnxExport

    trusted = []

    def note(model: str, folder: Path, *, views: int | None, trust_remote_code: bool) -> OnnxExport:
        trusted.append((views, trust_remote_code))
        return OnnxExport(folder / "model.onnx", 1, 0.0)

    monkeypatch.setattr("celluscan_hf.inference.onnx.export_onnx", note)
    assert main(["export-onnx", "some/model", "out"]) == 0
    assert main(["export-onnx", "some/model", "--views", "8", "out", "--trust-remote-code"]) == 0
    assert trusted == [(None, False), (8, True)]


def test_predict_prints_rows_and_then_how_many(cell: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["predict", cell, "--model", model]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("image,label,score,")
    assert out.splitlines()[1].startswith(f"{cell},")
    assert err.startswith("1 image, 0 could not be used, ")
    assert err.endswith(" images/s\n")
    assert err.count("\n") == 1


def test_predict_hands_on_what_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        "celluscan_hf.inference.predict.predict", lambda *named, **options: calls.append((*named, *options.values()))
    )
    several = ["predict", "a.png", "b", "--model", "m", "--json", "--output", "o.jsonl", "--top-k", "5"]
    assert main([*several, "--batch-size", "8", "--device", "cpu", "--views", "2", "--trust-remote-code"]) == 0
    assert main(["predict", "a.png", "--model", "m", "--csv"]) == 0
    assert main(["predict", "a.png"]) == 0
    assert calls == [
        (["a.png", "b"], "m", Path("o.jsonl"), "json", 5, 8, "cpu", 0.9, 2, True, [], ALONE),
        (["a.png"], "m", None, "csv", 3, 64, None, 0.9, None, False, [], ALONE),
        (["a.png"], celluscan_hf.default_model(), None, None, 3, 64, None, 0.9, None, False, [], ALONE),
    ]


def test_predict_fails_where_no_image_can_be_used(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "junk.png").write_bytes(b"junk")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "junk.png"), "--model", model]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 2
    assert err.startswith("error: no image could be used, of 1; the first, ")
    assert err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 300])  # less and more than is gathered before it is printed
def test_a_closed_pipe_ends_it_quietly(rows: int, cell: str, model: str, tmp_path: Path) -> None:
    for copy in range(rows):
        (tmp_path / "cells" / f"{copy}.png").parent.mkdir(exist_ok=True)
        (tmp_path / "cells" / f"{copy}.png").symlink_to(cell)
    command = [sys.executable, "-m", "celluscan_hf.cli", "predict", str(tmp_path / "cells"), "--model", model]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert process.wait() == 0


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> list[str]:
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(EXPLAIN, fail)
    return ["explain", "cell.png", "--model", "m"]


def test_what_the_system_refuses_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = raising(monkeypatch, PermissionError(13, "Permission denied", "/out.png"))
    assert fails(capsys, *command) == "error: Permission denied: /out.png\n"


@pytest.mark.parametrize("bug", [ValueError("a bug"), OSError("a bug"), RuntimeError("a bug")])
def test_a_bug_keeps_its_traceback(bug: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(type(bug), match="a bug"):
        main(raising(monkeypatch, bug))


def test_stopped_by_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(raising(monkeypatch, KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "\nstopped; run the same command again\n"


def test_calibrate_and_adapt_say_what_they_did(
    calibrated: Path, data_set: Path, tmp_path: Path, write_image: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(calibrated, tmp_path / "run")
    assert main(["calibrate", str(run), "--dataset", str(data_set)]) == 0
    assert "28 validation cells: accuracy" in capsys.readouterr().out
    for seed in range(8):
        write_image(tmp_path / "cells" / ("BA", "LY")[seed % 2] / f"{seed}.png", seed)
    more = ["--source", f"imagefolder={tmp_path / 'cells'}", "--output", str(tmp_path / "mine")]
    assert main(["adapt", str(run), "--method", "calibration", *more]) == 0
    out = capsys.readouterr().out
    assert out.startswith("8 cells of 8 groups: Basophil 4, Lymphocyte 4\neach cell is a group of its own")
    assert "\nadapted: the calibration\n" in out
    assert main(["adapt", str(run), "--method", "calibration", *more]) == 2
    assert "already exists" in capsys.readouterr().err
