"""The commands that publish, run twice in this process; looking at folders in clean ones is left to `test_push`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from celluscan_hf.hub import command
from celluscan_hf.hub.data_folder import VERSIONS
from tests.hub.conftest import Trained
from tests.hub.loopback import Hub

Push = Callable[..., int]


@pytest.fixture(params=["dataset", "model", "metric"])
def push(
    request: pytest.FixtureRequest, connected: None, data_set: Path, plain: Trained, monkeypatch: pytest.MonkeyPatch
) -> Push:
    """One of the commands, with the arguments it must have."""
    given = {
        "dataset": [data_set, "lab/wbc"],
        "model": [plain.run, "lab/vit", "--handbuilt", "lab/vit-handbuilt", "--evaluation", plain.evaluation],
        "metric": ["lab/wbc_metrics"],
    }[request.param]
    monkeypatch.setattr(command, f"verify_{request.param}", lambda *given: "not looked at")
    run = getattr(command, f"push_{request.param}")
    return lambda *options: run([*map(str, given), *options])


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
        assert command.push_dataset([str(data_set), "lab/wbc", "--recipe-only", "--revision", revision]) == 0

    def listed(revision: str) -> list[str]:
        return [entry["revision"] for entry in json.loads(hub.files("lab/wbc", "dataset", revision)[VERSIONS])]

    assert [listed("v1.0"), listed("v1.1")] == [["v1.0"], ["v1.0", "v1.1"]]
