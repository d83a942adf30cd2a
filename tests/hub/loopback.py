"""A small Hugging Face Hub on 127.0.0.1 for tests with the real clients, with faults on demand.

`Hub` is a context manager. Tests read its content (`files`, `commits`, `refs`, `lfs`) and its requests (`requests`,
`unknown`), set faults (`fault`, `die_at`, `revive`), and run clients in separate processes (`run_clean`), which know no
other Hub and reach no other machine.
"""

import enum
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs

from tests.hub.calls import Answer, Call, as_json, respond
from tests.hub.repositories import Commit, Refs, Repository, Store

GUARD = Path(__file__).with_name("guard")


class Fault(enum.Enum):
    """Faults of a request."""

    SERVER_ERROR = "answered 500, not processed"
    RATE_LIMIT = "answered 429 with Retry-After, not processed"
    CUT_BEFORE = "the connection is cut before the request is processed"
    CUT_AFTER = "the request is processed, and the connection cut before the answer"
    CUT_UPLOAD = "the connection is cut after half of the body, and nothing is kept"
    SLOW = "processed and answered, late"


@dataclass
class Rule:
    """A fault for requests number `at` to `at + times - 1` (all later ones for None) of those that match."""

    fault: Fault
    at: int = 1
    times: int | None = 1
    matching: tuple[str, str] | None = None
    seconds: float = 1.0
    count: int = 0

    def strikes(self, method: str, path: str) -> bool:
        """Count a request that matches; return whether the fault applies to it."""
        if self.matching and not (re.fullmatch(self.matching[0], method) and re.search(self.matching[1], path)):
            return False
        self.count += 1
        return self.count >= self.at and (self.times is None or self.count < self.at + self.times)


@dataclass
class Request:
    """One line of the log; `status` is None where no answer was sent, `time` in seconds of `time.monotonic`."""

    method: str
    path: str
    query: str = ""
    status: int | None = None
    fault: Fault | None = None
    range: str | None = None
    time: float = field(default_factory=time.monotonic)


class Handler(BaseHTTPRequestHandler):
    """Read a request, let the Hub answer it, and inject connection faults."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Server"

    def serve(self) -> None:
        hub = self.server.hub
        request, rule = hub.arrived(self.command, self.path, self.headers.get("Range"))
        if rule and rule.fault in (Fault.CUT_BEFORE, Fault.CUT_UPLOAD):
            if rule.fault is Fault.CUT_UPLOAD:
                self.read_body(half=True)
            return self.cut()
        body = self.read_body()
        if body is None:
            return self.cut()
        if rule and rule.fault is Fault.SLOW:
            time.sleep(rule.seconds)
        if rule and rule.fault is Fault.SERVER_ERROR:
            answer = as_json({"error": "Internal Server Error"}, 500)
        elif rule and rule.fault is Fault.RATE_LIMIT:
            answer = as_json({"error": "Too Many Requests"}, 429, **{"Retry-After": f"{rule.seconds:.0f}"})
        else:
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = hub.answer(Call(self.command, request.path, parse_qs(request.query), headers, body))
        if rule and rule.fault is Fault.CUT_AFTER:
            return self.cut()
        request.status = answer.status
        return self.send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = serve

    def read_body(self, half: bool = False) -> bytes | None:
        """Return the body; None if it is incomplete."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            return self.read_chunks(half)
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length // 2 if half else length)
        return body if len(body) == length else None

    def read_chunks(self, half: bool) -> bytes | None:
        chunks = []
        while line := self.rfile.readline():
            size = int(line.split(b";")[0], 16)
            chunks.append(self.rfile.read(size // 2 if half else size))
            if half or len(chunks[-1]) < size:
                return None
            self.rfile.readline()
            if not size:
                return b"".join(chunks)
        return None

    def cut(self) -> None:
        """Reset the connection, like a broken network."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def log_message(self, *arguments: object) -> None:
        """Log nothing: the requests are in `Hub.requests`."""


class Server(ThreadingHTTPServer):
    """The server of a Hub; it ignores clients that disconnect."""

    daemon_threads = True
    request_queue_size = 64
    hub: "Hub"

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exception()
        if not isinstance(error, ConnectionError):
            self.hub.broken.append(repr(error))


class Hub:
    """The loop-back Hub: a server inside its context, repositories in memory, a log, and faults.

    `user` and `organisations` are the namespaces that the token `hf_write` may write to; `hf_read` only reads.
    `page_size` is the number of entries on a page of a list.
    """

    def __init__(self, user: str = "user", organisations: Sequence[str] = ("lab",), page_size: int = 1000) -> None:
        self.user, self.organisations, self.page_size = user, tuple(organisations), page_size
        self.store = Store()
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.announced: set[tuple[str, str]] = set()
        self.requests: list[Request] = []
        self.unknown: list[str] = []
        self.broken: list[str] = []
        self.rules: list[Rule] = []
        self.refusals: Path | None = None
        self._lock = threading.RLock()

    def __enter__(self) -> "Hub":
        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # Content

    @property
    def lfs(self) -> dict[str, bytes]:
        """The LFS objects that were uploaded, by their sha256, committed or not."""
        return dict(self.store.lfs)

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """A repository; KeyError where there is none."""
        return self.repositories[repo_type, repo_id]

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """Return the content of every file at a revision, by its path."""
        return self.repository(repo_id, repo_type).files(revision)

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """Return the commits of a revision, oldest first, starting with the initial one."""
        return self.repository(repo_id, repo_type).history(revision)[::-1]

    def refs(self, repo_id: str, repo_type: str = "model") -> Refs:
        return self.repository(repo_id, repo_type).refs

    # Preparation by a test

    def create(self, repo_id: str, repo_type: str = "model", private: bool = False, sdk: str = "static") -> Repository:
        """Create a repository without a client."""
        self.repositories[repo_type, repo_id] = Repository(self.store, repo_type, repo_id, private, sdk)
        return self.repositories[repo_type, repo_id]

    def put(self, repo_id: str, files: Mapping[str, bytes | str], repo_type: str = "model", title: str = "x") -> Commit:
        """Commit regular files without a client; create the repository if it is missing."""
        repository = self.repositories.get((repo_type, repo_id)) or self.create(repo_id, repo_type)
        contents = {path: file.encode() if isinstance(file, str) else file for path, file in files.items()}
        values = [{"path": path, "content": b64encode(content).decode()} for path, content in contents.items()]
        with self._lock:
            return repository.commit([("file", value) for value in values], title)

    # Faults

    def fault(
        self,
        fault: Fault,
        *,
        at: int = 1,
        times: int | None = 1,
        matching: tuple[str, str] | None = None,
        seconds: float = 1.0,
    ) -> None:
        """Make requests fail: the `at`-th from now and `times - 1` after it (None: all after it).

        `matching` is a method and a pattern that is searched for in the path; then only requests that match count.
        `seconds` is what Retry-After says, whole ones, or how late a slow answer is.
        """
        with self._lock:
            self.rules.append(Rule(fault, at, times, matching, seconds))

    def die_at(self, n: int, processed: bool = False) -> None:
        """Cut every connection from the n-th request from now on, until `revive`.

        With `processed`, the n-th request is still processed, and only its answer is lost.
        """
        if processed:
            self.fault(Fault.CUT_AFTER, at=n)
        self.fault(Fault.CUT_BEFORE, at=n + processed, times=None)

    def revive(self) -> None:
        """Remove all faults."""
        with self._lock:
            self.rules.clear()

    # What the server calls

    def arrived(self, method: str, target: str, part: str | None) -> tuple[Request, Rule | None]:
        """Log a request; return it and the fault that applies to it."""
        path, _, query = target.partition("?")
        with self._lock:
            striking = [rule for rule in self.rules if rule.strikes(method, path)]
            rule = striking[0] if striking else None
            self.requests.append(Request(method, path, query, fault=rule.fault if rule else None, range=part))
            return self.requests[-1], rule

    def answer(self, call: Call) -> Answer:
        with self._lock:
            try:
                return respond(self, call)
            except Exception as error:
                self.broken.append(f"{call.method} {call.path}: {error!r}")
                return as_json({"error": repr(error)}, 500)

    # Clients

    def complaints(self) -> list[str]:
        """List unknown calls, errors of the server, and refused hosts."""
        lines = [f"unknown call: {call}" for call in self.unknown] + [
            f"the server broke: {line}" for line in self.broken
        ]
        return lines + [f"a client asked for {host}" for host in self.refused_hosts()]

    def refused_hosts(self) -> list[str]:
        """List the other machines that clients tried to reach, even if they swallowed the error."""
        return self.refusals.read_text().splitlines() if self.refusals and self.refusals.exists() else []

    def forgive(self) -> None:
        """Clear all complaints, for a test that provoked them."""
        self.unknown.clear()
        self.broken.clear()
        if self.refusals:
            self.refusals.unlink(missing_ok=True)

    def environment(
        self, home: Path, token: str | None = "hf_write", package: bool = False, short_waits: bool = False
    ) -> dict[str, str]:
        """Return the full environment of a client: this Hub, caches below `home`, the network guard.

        `package` leaves celluscan_hf importable; `short_waits` shortens the waits between a client's retries.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.refusals = self.refusals or home / "refused_hosts.txt"
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
        folders = {"HF_HOME": "huggingface", "XDG_CACHE_HOME": "cache", "TORCH_HOME": "torch", "MPLCONFIGDIR": "mpl"}
        switches = {
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "OMP_NUM_THREADS": "1",
            "CELLUSCAN_BLOCKED": "0" if package else "1",
            "CELLUSCAN_SHORT_WAITS": "1" if short_waits else "0",
        }
        own = {"HOME": str(home), "LANG": "C.UTF-8", "PYTHONPATH": str(GUARD), "HF_ENDPOINT": self.url}
        own |= {name: str(home / folder) for name, folder in folders.items()}
        own |= {"HF_TOKEN": token} if token else {}
        return kept | switches | own | {"CELLUSCAN_REFUSED": str(self.refusals)}

    def run_clean(
        self,
        code: str | Sequence[object],
        *,
        home: Path,
        token: str | None = "hf_write",
        package: bool = False,
        short_waits: bool = False,
        check: bool = True,
        timeout: float = 120,
    ) -> "subprocess.CompletedProcess[str]":
        """Run Python as a client in `home`: code, or the arguments after `python`; with `check` it must succeed."""
        arguments = ["-c", code] if isinstance(code, str) else [str(argument) for argument in code]
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(home, token, package, short_waits),
            cwd=home,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done
