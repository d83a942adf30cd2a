"""The notebook is committed without outputs and runs from top to bottom offline."""

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from celluscan_hf.dataset.settings import cores

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOK = PROJECT / "scripts" / "walkthrough.ipynb"
GUARD = PROJECT / "tests" / "hub" / "guard"
IMAGES = {  # number of images that each notebook cell shows
    "classes": 1,
    "decisions": 1,
    "shape": 1,
    "balance": 1,
    "variants": 1,
    "patches": 1,
    "similar": 1,
    "curves": 1,
    "evaluate": 1,
    "mistakes": 1,
    "predict": 1,
    "explain": 2,
}
MINUTES = 5


@pytest.fixture(scope="module")
def committed() -> Any:
    return nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT)


def test_the_notebook_is_valid_and_committed_without_outputs(committed: Any) -> None:
    nbformat.validate(committed)
    assert (committed.nbformat, committed.nbformat_minor) >= (4, 5)
    assert committed.metadata.kernelspec.name == "python3"
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.id for cell in code if cell.outputs or cell.execution_count is not None] == []


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(committed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = tmp_path / "refused.txt"
    threads = max(1, cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
    environment = {
        "PYTHONPATH": str(GUARD),
        "CELLUSCAN_REFUSED": str(refused),
        "OMP_NUM_THREADS": str(threads),
        **{name: str(tmp_path / "jupyter") for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR")},
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    folder = tmp_path / "anywhere"  # with the package installed, the notebook writes to out/ in its own folder
    folder.mkdir()

    resources = {"metadata": {"path": str(folder)}}
    run = NotebookClient(committed, timeout=60 * MINUTES, kernel_name="python3", resources=resources).execute()

    outputs = {cell.id: cell.outputs for cell in run.cells if cell.cell_type == "code"}
    assert {name: count for name, cell in outputs.items() if (count := images(cell))} == IMAGES
    assert "RANDOM weights in place of the published ones" in text(outputs["pretrained"])
    assert "largest difference to torchvision" in text(outputs["equal"])
    assert "85,809,422" in str(outputs["weights"])
    assert "macro-F1" in text(outputs["train"])
    assert not any("text/html" in output.get("data", {}) for output in outputs["train"])  # not the library's own table
    assert {path.name for path in folder.iterdir()} == {"out"}
    assert {"cells", "tidied", "run", "evaluation"} <= {path.name for path in (folder / "out/walkthrough").iterdir()}
    assert not refused.exists(), f"requested {refused.read_text()}"


def images(outputs: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


def text(outputs: list[Any]) -> str:
    return "".join(output.get("text", "") for output in outputs)
