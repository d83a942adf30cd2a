import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from celluscan_hf.cli import main
from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import READERS
from celluscan_hf.space.demo import examples, page_of, synthetic_examples


@pytest.mark.slow
def test_the_command_serves_the_page(checkpoint: Path) -> None:
    code = "import sys; from celluscan_hf.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-u", "-c", code, "demo", "--model", str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        address = next(line.split()[-1] for line in served.stdout if "http://" in line)
        with urllib.request.urlopen(f"{address}/config") as answer:
            assert "CelluScan" in answer.read().decode()
        served.terminate()


def test_a_model_that_does_not_exist_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--model", str(tmp_path / "nothing")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_without_gradio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "celluscan_hf.space.demo", raising=False)
    monkeypatch.delitem(sys.modules, "celluscan_hf.space.page", raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--model", "any"]) == 2
    assert 'pip install "celluscan_hf[demo]"' in capsys.readouterr().err


def test_examples_are_those_of_an_evaluation(tmp_path: Path) -> None:
    (tmp_path / "examples.json").write_text(json.dumps([{"file": "examples/BA.jpg", "class": "Basophil"}]))
    assert examples(tmp_path) == [(tmp_path / "examples/BA.jpg", "Basophil")]
    with pytest.raises(CelluScanError, match=r"has no examples\.json"):
        examples(tmp_path / "elsewhere")


def test_without_an_evaluation_they_are_synthetic_and_say_so(checkpoint: Path) -> None:
    config = json.dumps(page_of(str(checkpoint)).config)
    assert "Eosinophil (synthetic)" in config
    assert all(file.is_file() for file, _ in synthetic_examples())


def test_the_page_names_the_authors_of_the_images_and_their_licences(checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    (model / "settings.json").write_text(json.dumps({"data": {"sources": ["pbc", "bcisc"]}}))
    page = json.dumps(page_of(str(model), dataset="lab/wbc").config)
    assert "Trained on images of" in page
    for words in (READERS["pbc"].info.url, "(CC-BY-4.0)", "(Apache-2.0)", "datasets/lab/wbc"):
        assert words in page


@pytest.mark.parametrize(("sources", "warned"), [(["synthetic"], True), (["pbc", "synthetic"], False)])
def test_a_model_trained_on_synthetic_cells_only_gets_a_warning(
    sources: list[str], warned: bool, checkpoint: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    (model / "settings.json").write_text(json.dumps({"data": {"sources": sources}}))
    assert ("trained on synthetic cells only" in json.dumps(page_of(str(model)).config)) == warned
