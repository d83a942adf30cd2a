"""The loop-back Hub behaves towards the real clients like the Hub, and no client reaches another machine."""

import json
import socket
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.hub.loopback import Hub

Run = Callable[..., Any]

FOLDER = r"""
import json
from pathlib import Path
from huggingface_hub import HfApi

api, folder = HfApi(), Path("folder")
(folder / "data").mkdir(parents=True, exist_ok=True)
(folder / "README.md").write_text("---\nlicense: mit\n---\nhello\n")
(folder / "data" / "weights.bin").write_bytes(bytes(range(256)) * 40)
"""


def test_a_folder_is_pushed_once_tagged_and_read_back(hub: Hub, run_clean: Run) -> None:
    hub.page_size = 2
    done = run_clean(
        FOLDER
        + r"""
api.create_repo("user/it")
first = api.upload_folder(repo_id="user/it", folder_path=folder, commit_message="one")
again = api.upload_folder(repo_id="user/it", folder_path=folder, commit_message="again", delete_patterns="*")
api.create_tag("user/it", tag="v1")
api.create_tag("user/it", tag="v1", exist_ok=True)
(folder / "data" / "weights.bin").write_bytes(b"new\0")
(folder / "more.txt").write_text("regular")
last = api.upload_folder(repo_id="user/it", folder_path=folder, commit_message="two", delete_patterns="*")
pulled = {tag: Path(api.hf_hub_download("user/it", "data/weights.bin", revision=tag)) for tag in ("main", "v1")}
print(json.dumps({
    "same": again.oid == first.oid != last.oid,
    "sizes": {tag: path.stat().st_size for tag, path in pulled.items()},
    "files": api.list_repo_files("user/it"),
    "snapshot": sorted(path.name for path in Path(api.snapshot_download("user/it", revision="v1")).rglob("*.*")),
    "commits": [commit.title for commit in api.list_repo_commits("user/it")],
    "tags": [tag.name for tag in api.list_repo_refs("user/it").tags],
    "tree": [item.path for item in api.list_repo_tree("user/it", recursive=True, expand=True)],
    "paths": [item.path for item in api.get_paths_info("user/it", ["data", "more.txt", "absent"])],
    "card": api.model_info("user/it").card_data.license,
    "name": api.whoami()["name"],
}))
"""
    )
    files = [".gitattributes", "README.md", "data/weights.bin", "more.txt"]
    assert json.loads(done.stdout) == {
        "same": True,
        "sizes": {"main": 4, "v1": 10240},
        "files": files,
        "snapshot": [".gitattributes", "README.md", "weights.bin"],
        "commits": ["two", "one", "initial commit"],
        "tags": ["v1"],
        "tree": [*files[:2], "data", *files[2:]],
        "paths": ["data", "more.txt"],
        "card": "mit",
        "name": "user",
    }
    assert [commit.files for commit in hub.commits("user/it")] == [files[:1], files[:3], files]
    assert hub.files("user/it")["data/weights.bin"] == b"new\0"
    assert hub.files("user/it", revision="v1")["data/weights.bin"] == bytes(range(256)) * 40
    assert hub.refs("user/it").tags == {"v1": hub.commits("user/it")[1].id}
    assert len(hub.lfs) == 2
    assert sum(request.method == "PUT" for request in hub.requests) == 2


def test_missing_and_forbidden_raise_the_errors_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    hub.put("user/it", {"a.txt": "a"})
    hub.create("user/secret", private=True)
    code = r"""
from huggingface_hub import HfApi
api = HfApi()
content = {"path_or_fileobj": b"b", "path_in_repo": "a.txt"}
calls = {
    "repo": lambda: api.model_info("user/absent"),
    "private": lambda: api.hf_hub_download("user/secret", ".gitattributes"),
    "entry": lambda: api.hf_hub_download("user/it", "absent.txt"),
    "revision": lambda: api.hf_hub_download("user/it", "a.txt", revision="v9"),
    "parent": lambda: api.upload_file(**content, repo_id="user/it", parent_commit="0" * 40),
    "create": lambda: api.create_repo("user/new"),
    "there": lambda: api.create_repo("user/it", exist_ok=True),
    "write": lambda: api.upload_file(**content, repo_id="user/it"),
    "delete": lambda: api.delete_file("absent.txt", "user/it"),
}
for name, call in calls.items():
    try:
        call()
        print(name, "-")
    except Exception as error:
        print(name, type(error).__name__, getattr(getattr(error, "response", None), "status_code", ""))
"""

    def outcomes(token: str | None) -> dict[str, str]:
        lines = hub.run_clean(code, home=tmp_path / str(token), token=token).stdout.splitlines()
        return {name: outcome for name, _, outcome in (line.partition(" ") for line in lines)}

    reads = {"entry": "RemoteEntryNotFoundError 404", "revision": "RevisionNotFoundError 404"}
    assert outcomes("hf_write") == reads | {
        "repo": "RepositoryNotFoundError 404",
        "private": "-",
        "parent": "HfHubHTTPError 412",
        "create": "-",
        "there": "-",
        "write": "-",
        "delete": "RemoteEntryNotFoundError 404",
    }
    forbidden = dict.fromkeys(("parent", "create", "write", "delete"), "HfHubHTTPError 403")
    read_only = reads | forbidden | {"repo": "RepositoryNotFoundError 404", "private": "-", "there": "-"}
    assert outcomes("hf_read") == read_only
    anonymous = outcomes(None)
    assert {anonymous[name] for name in ("repo", "private")} == {"RepositoryNotFoundError 401"}
    assert {anonymous[name] for name in ("parent", "create", "write", "delete")} == {"HfHubHTTPError 401"}
    assert set(outcomes("hf_wrong").values()) == {"HfHubHTTPError 401"}
    assert [commit.title for commit in hub.commits("user/it")][2:] == ["Upload a.txt with huggingface_hub"]


def test_a_commit_without_its_lfs_object_is_refused(hub: Hub) -> None:
    hub.create("user/it")
    lines = [
        {"key": "header", "value": {"summary": "x"}},
        {"key": "lfsFile", "value": {"path": "a.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}},
    ]
    body = "\n".join(map(json.dumps, lines))
    connection = HTTPConnection(hub.url.removeprefix("http://"))
    connection.request("POST", "/api/models/user/it/commit/main", body, {"Authorization": "Bearer hf_write"})
    assert connection.getresponse().status == 400
    assert len(hub.commits("user/it")) == 1


def test_a_call_that_the_hub_does_not_know_fails_the_test(hub: Hub, run_clean: Run) -> None:
    hub.create("user/it")
    done = run_clean("from huggingface_hub import HfApi\nHfApi().delete_repo('user/it')", check=False)
    assert "501" in done.stderr
    assert [line.partition(" /")[0] for line in hub.complaints()] == ["unknown call: DELETE"]
    hub.forgive()


def test_another_machine_is_refused_even_where_the_client_hides_it(hub: Hub, run_clean: Run) -> None:
    done = run_clean(
        r"""
import contextlib, socket, urllib.request
with contextlib.suppress(Exception):
    urllib.request.urlopen("http://huggingface.co")
with contextlib.suppress(Exception):
    socket.socket().connect_ex(("192.0.2.1", 80))
for host in ("localhost", socket.gethostname(), "127.0.0.1", None):
    socket.getaddrinfo(host, 80)
socket.create_connection(("example.org", 443))
""",
        check=False,
    )
    assert done.stderr.splitlines()[-1].endswith("refuses example.org: only this machine may be asked.")
    assert hub.refused_hosts() == ["huggingface.co", "192.0.2.1", "example.org"]
    assert len(hub.complaints()) == 3
    hub.forgive()


def test_this_process_too_asks_no_other_machine() -> None:
    with pytest.raises(RuntimeError, match="refuses example"):
        socket.create_connection(("example.org", 443))


def test_the_package_is_there_only_where_it_is_asked_for(run_clean: Run) -> None:
    code = "import importlib.util\nimport celluscan_hf.taxonomy"
    assert "No module named 'celluscan_hf'" in run_clean(code, check=False).stderr
    run_clean(code, package=True)
