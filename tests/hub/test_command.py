"""The publishing commands in this process; `test_push` runs them with the checks in clean processes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from celluscan_hf.cli import main
from celluscan_hf.hub import publish
from celluscan_hf.hub.data_folder import VERSIONS
from tests.hub.conftest import Trained
from tests.hub.loopback import Hub

Push = Callable[..., int]


@pytest.fixture(params=["dataset", "model", "metric"])
def push(
    request: pytest.FixtureRequest, connected: None, data_set: Path, plain: Trained, monkeypatch: pytest.MonkeyPatch
) -> Push:
    """One of the commands with its required arguments."""
    arguments = {
        "dataset": [data_set, "lab/wbc"],
        "model": [plain.run, "lab/vit", "--handbuilt", "lab/vit-handbuilt", "--evaluation", plain.evaluation],
        "metric": ["lab/wbc_metrics"],
    }[request.param]
    monkeypatch.setattr(publish, f"verify_{request.param}", lambda *_: "not verified")
    return lambda *options: main(["push", request.param, *map(str, arguments), *options])


def test_private_reaches_every_repository(hub: Hub, push: Push) -> None:
    assert push("--private") == 0
    assert hub.repositories
    assert all(repository.private for repository in hub.repositories.values())


def test_a_second_run_commits_nothing(hub: Hub, push: Push, capsys: pytest.CaptureFixture[str]) -> None:
    assert push() == push() == 0
    assert "unchanged" in capsys.readouterr().out
    assert {len(hub.commits(name, kind)) for kind, name in hub.repositories} == {2}


def test_the_list_of_versions_is_that_of_the_hub_with_one_more(hub: Hub, connected: None, data_set: Path) -> None:
    for revision in ("v1.0", "v1.1"):
        assert main(["push", "dataset", str(data_set), "lab/wbc", "--recipe-only", "--revision", revision]) == 0

    def listed(revision: str) -> list[str]:
        return [entry["revision"] for entry in json.loads(hub.files("lab/wbc", "dataset", revision)[VERSIONS])]

    assert [listed("v1.0"), listed("v1.1")] == [["v1.0"], ["v1.0", "v1.1"]]


def test_a_closed_licence_stops_the_push_and_recipe_only_publishes_no_image(
    hub: Hub, connected: None, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = Path(shutil.copytree(data_set, tmp_path / "wbc"))
    sources = json.loads((built / "curation/sources.json").read_text())
    sources["synthetic"]["license"] = "unknown"
    (built / "curation/sources.json").write_text(json.dumps(sources))
    assert main(["push", "dataset", str(built), "lab/wbc"]) == 2
    assert "the licence does not allow publishing the images of synthetic (unknown)" in capsys.readouterr().err
    assert not hub.repositories
    assert main(["push", "dataset", str(built), "lab/wbc", "--recipe-only"]) == 0
    paths = hub.files("lab/wbc", "dataset")
    assert "curation/rows.csv" in paths
    assert not [path for path in paths if path.endswith((".parquet", ".jpg"))]


def test_nothing_is_uploaded_if_a_row_is_missing(
    hub: Hub, connected: None, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    built = Path(shutil.copytree(data_set, tmp_path / "wbc"))
    card = (built / "README.md").read_text()
    (built / "README.md").write_text(card.replace("num_examples: 28", "num_examples: 29"))
    assert main(["push", "dataset", str(built), "lab/wbc"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert not hub.repositories


def test_without_a_token_nothing_is_started(
    hub: Hub, connected: None, data_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert main(["push", "dataset", str(data_set), "lab/wbc"]) == 2
    assert "no token with write access to the Hub: run hf auth login, or set HF_TOKEN" in capsys.readouterr().err
    assert not hub.repositories


def test_a_page_for_a_model_that_is_not_published_is_refused(
    hub: Hub, connected: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", "space", "lab/page", "--model-revision", "v1"]) == 2
    assert "needs --model" in capsys.readouterr().err
    assert main(["push", "space", "lab/page", "--model", "lab/nothing"]) == 2
    assert "lab/nothing is not a model on the Hub that you can read: publish it first" in capsys.readouterr().err
    assert not hub.repositories


def test_a_page_whose_model_cannot_be_looked_up_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main(["push", "space", "lab/page", "--model", "lab/vit", "--dry-run"]) == 2
    error = capsys.readouterr().err
    assert "the Hub could not be reached to look up the model lab/vit" in error
    assert "push to" not in error
