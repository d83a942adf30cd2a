"""The README's examples for programs run unchanged."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import celluscan_hf
from celluscan_hf.space.page import record
from celluscan_hf.space.recogniser import MAX_BYTES, Result

README = (Path(celluscan_hf.__file__).parent / "space" / "README.md").read_text("utf-8")


def block(language: str, containing: str) -> str:
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", README, re.S) if containing in text)


def test_three_requests_are_enough(served: str, cell_files: dict[str, Path], tmp_path: Path) -> None:
    if not all(map(shutil.which, ("bash", "curl", "jq"))):
        pytest.skip("bash, curl or jq is missing")
    shutil.copy(cell_files["Basophil"], tmp_path / "cell.png")
    script = block("bash", "curl").replace("http://127.0.0.1:7860", served.rstrip("/"))
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    event, data = done.stdout.strip().splitlines()
    assert event == "event: complete"
    (answer,) = json.loads(data.removeprefix("data: "))
    assert answer["file"] == "cell.png"
    assert len(answer["top"]) == 14


def test_the_client_needs_no_more_than_three_lines(
    served: str, cell_files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(cell_files["Basophil"], tmp_path / "cell.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    *before, request = block("python", "gradio_client").replace("http://127.0.0.1:7860", served).strip().splitlines()
    exec("\n".join([*before, f"answer = {request}"]), names)
    assert names["answer"]["file"] == "cell.png"


def test_every_field_is_described() -> None:
    table = README.split("| field | what |")[1].split("\n\n")[0]
    described = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(described) == sorted(record(Result("cell.png", problem="broken")))


def test_a_file_over_the_limit_is_refused_by_the_server(served: str) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="large.png"\r\n\r\n'
    request = urllib.request.Request(
        f"{served.rstrip('/')}/gradio_api/upload",
        head + b"0" * (MAX_BYTES + 1) + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 413


def test_every_file_of_the_package_is_in_its_table() -> None:
    folder = Path(celluscan_hf.__file__).parent / "space"
    named = set(re.findall(r"\]\(([\w.]+)\)", README))
    assert {file.name for file in folder.iterdir() if file.is_file()} - {"__init__.py", "README.md"} == named
