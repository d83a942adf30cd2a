"""The faults of the loop-back Hub are those it names, and its clients know no other machine."""

import json
import socket
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.hub.loopback import Fault, Hub

Run = Callable[..., Any]

PUSH = r"""
from pathlib import Path
from huggingface_hub import HfApi

api, folder = HfApi(), Path("folder")
folder.mkdir(exist_ok=True)
(folder / "README.md").write_text("---\nlicense: mit\n---\nhello\n")
(folder / "weights.bin").write_bytes(bytes(range(256)) * 40)
api.create_repo("user/it", exist_ok=True)
api.upload_folder(repo_id="user/it", folder_path=folder)
"""
COMMIT = ("POST", "/commit/main$")
UPLOAD = ("PUT", "/storage/")


def titles(hub: Hub) -> list[str]:
    return [commit.title for commit in hub.commits("user/it")]


def test_an_error_500_is_retried_where_the_client_retries(hub: Hub, run_clean: Run) -> None:
    hub.fault(Fault.SERVER_ERROR, times=2, matching=("POST", "/preupload/"))
    run_clean(PUSH, short_waits=True)
    assert [request.status for request in hub.requests if "/preupload/" in request.path] == [500, 500, 200]
    assert len(titles(hub)) == 2


def test_an_error_500_of_a_commit_leaves_none(hub: Hub, run_clean: Run) -> None:
    hub.fault(Fault.SERVER_ERROR, matching=COMMIT)
    assert "500 Internal Server Error" in run_clean(PUSH, check=False).stderr
    assert len(titles(hub)) == 1
    run_clean(PUSH)
    assert len(titles(hub)) == 2


def test_a_rate_limit_is_waited_for(hub: Hub, run_clean: Run) -> None:
    hub.fault(Fault.RATE_LIMIT, at=2, seconds=1, matching=("GET|POST", "/(preupload|lfs/objects)/"))
    run_clean(PUSH)
    limited, again = [request for request in hub.requests if request.path.endswith("/objects/batch")]
    assert (limited.status, again.status) == (429, 200)
    assert again.time - limited.time >= 1


def test_a_cut_in_an_upload_keeps_nothing(hub: Hub, run_clean: Run) -> None:
    hub.fault(Fault.CUT_UPLOAD, times=None, matching=UPLOAD)
    assert run_clean(PUSH, check=False, short_waits=True).returncode == 1
    assert (titles(hub), hub.lfs) == (["initial commit"], {})
    assert {request.status for request in hub.requests if request.method == "PUT"} == {None}
    hub.revive()
    hub.fault(Fault.CUT_UPLOAD, matching=UPLOAD)
    run_clean(PUSH, short_waits=True)
    assert (len(titles(hub)), len(hub.lfs)) == (2, 1)


@pytest.mark.parametrize(("fault", "commits"), [(Fault.CUT_BEFORE, 1), (Fault.CUT_AFTER, 2)])
def test_a_commit_that_was_cut_is_there_or_not_and_pushed_once(
    hub: Hub, run_clean: Run, fault: Fault, commits: int
) -> None:
    hub.fault(fault, matching=COMMIT)
    cut = run_clean(PUSH, check=False)
    assert cut.returncode == 1
    assert "httpx2." in cut.stderr.splitlines()[-1]
    assert len(titles(hub)) == commits
    run_clean(PUSH)
    assert len(titles(hub)) == 2


@pytest.mark.parametrize("processed", [False, True])
def test_a_hub_that_dies_stays_dead_until_it_is_revived(hub: Hub, run_clean: Run, processed: bool) -> None:
    run_clean(PUSH.replace("user/it", "user/undisturbed"))
    steps = len(hub.requests)
    hub.die_at(steps, processed)
    run_clean(PUSH, check=False, short_waits=True)
    assert len(titles(hub)) == 1 + processed
    with pytest.raises(ConnectionError):
        urllib.request.urlopen(f"{hub.url}/api/models/user/it")
    assert {request.status for request in hub.requests[2 * steps - 1 :]} == {None}
    hub.revive()
    run_clean(PUSH)
    assert len(titles(hub)) == 2


def test_a_client_that_goes_away_in_a_commit_leaves_none(hub: Hub) -> None:
    hub.create("user/it")
    lines = [{"key": "header", "value": {"summary": "x"}}, {"key": "file", "value": {"path": "a", "content": ""}}]
    body = "\n".join(map(json.dumps, lines))
    head = "POST /api/models/user/it/commit/main HTTP/1.1\r\nAuthorization: Bearer hf_write\r\n"
    head += f"Content-Length: {len(body)}"
    with socket.create_connection(("127.0.0.1", int(hub.url.rpartition(":")[2]))) as client:
        client.sendall(f"{head}\r\n\r\n{body[:-30]}".encode())
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError):
            client.recv(1)
    assert titles(hub) == ["initial commit"]


def test_a_body_in_chunks_is_read(hub: Hub) -> None:
    hub.create("user/it")
    connection = HTTPConnection(hub.url.removeprefix("http://"))
    parts = (b'{"tag":', b'"v1"}')
    connection.request("POST", "/api/models/user/it/tag/main", iter(parts), {"Authorization": "Bearer hf_write"})
    assert connection.getresponse().status == 200
    assert list(hub.refs("user/it").tags) == ["v1"]


def test_a_slow_answer_is_late(hub: Hub) -> None:
    hub.create("user/it")
    hub.fault(Fault.SLOW, seconds=0.3, matching=("GET", "/refs$"))
    start = time.monotonic()
    assert urllib.request.urlopen(f"{hub.url}/api/models/user/it/refs").status == 200
    assert time.monotonic() - start >= 0.3


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


def test_the_environment_names_this_hub_and_no_other_cache(client_environment: dict[str, str], hub: Hub) -> None:
    home = client_environment["HOME"]
    assert client_environment["HF_ENDPOINT"] == hub.url
    assert client_environment["HF_HOME"].startswith(home)
    assert "HF_HUB_OFFLINE" not in client_environment
    assert "HF_TOKEN" not in hub.environment(Path(home), token=None)
