"""The calls that the loop-back Hub answers, one function each.

Paths, fields, headers and messages are those that `huggingface_hub`, `datasets`, `transformers` and `evaluate` read;
https://huggingface.co/.well-known/openapi.md describes most of them.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode

from tests.hub.cards import described, validate_card
from tests.hub.repositories import Commit, HubError, Repository, is_ignored

if TYPE_CHECKING:
    from tests.hub.loopback import Hub

TOKENS = {"hf_write": "write", "hf_read": "read"}
REPO = r"(?P<repo_id>[^/]+(?:/[^/]+)?)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"
SITE = rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}"
REVISION = r"(?P<revision>[^/]+)"
NEEDS_WRITE = "Forbidden: you must use a write token to upload to a repository."
NEEDS_PULL_REQUEST = "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request"


@dataclass(frozen=True)
class Call:
    """A request: the path as sent, without the query; header names in lower case."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes

    @property
    def role(self) -> str | None:
        """ "write", "read", None without a token. Raises HubError for a token that the Hub does not know."""
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def flag(self, name: str) -> bool:
        return self.query.get(name, ["false"])[0].lower() in {"1", "true"}


@dataclass
class Answer:
    """A response."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def as_json(content: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})


ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = []


def route(method: str, pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function for matching requests; the groups of the pattern are its arguments."""

    def add(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return add


def respond(hub: "Hub", call: Call) -> Answer:
    """Answer a request; an unknown one is logged in `hub.unknown` and answered with 501."""
    try:
        call.role  # noqa: B018  a wrong token is refused everywhere
        for method, pattern, function in ROUTES:
            if method == ("GET" if call.method == "HEAD" else call.method) and (match := pattern.fullmatch(call.path)):
                groups = {name: unquote(value) if value else value for name, value in match.groupdict().items()}
                return function(hub, call, **groups)
        raise HubError(501, "The loop-back Hub does not know this call")
    except HubError as error:
        if error.status == 501:
            hub.unknown.append(f"{call.method} {call.path}: {error.message}")
        headers = {"X-Error-Message": error.message.splitlines()[0]}
        headers |= {"X-Error-Code": error.code} if error.code else {}
        headers |= {"X-Repo-Commit": error.commit} if error.commit else {}
        return as_json({"error": error.message}, error.status, **headers)


def readable(hub: "Hub", call: Call, kind: str | None, repo_id: str) -> Repository:
    """Return the repository if it exists and the token may read it."""
    repository = hub.repositories.get(((kind or "models").removesuffix("s"), repo_id))
    if repository and (call.role or not repository.private):
        return repository
    if call.role is None:
        raise HubError(401, "Invalid username or password.", "RepoNotFound")
    raise HubError(404, "Repository not found", "RepoNotFound")


def check_writer(hub: "Hub", call: Call, namespace: str, refusal: str) -> None:
    if call.role is None:
        raise HubError(401, "Invalid username or password.")
    if call.role != "write" or namespace not in (hub.user, *hub.organisations):
        raise HubError(403, refusal)


def writable(hub: "Hub", call: Call, kind: str | None, repo_id: str, refusal: str) -> Repository:
    repository = readable(hub, call, kind, repo_id)
    check_writer(hub, call, repo_id.partition("/")[0], refusal)
    return repository


def timestamp(date: datetime) -> str:
    return f"{date:%Y-%m-%dT%H:%M:%S}.{date.microsecond // 1000:03d}Z"


def last_commit(commit: Commit) -> dict[str, Any]:
    return {"id": commit.id, "title": commit.title, "date": timestamp(commit.date)}


def paginated(hub: "Hub", call: Call, items: list[dict[str, Any]]) -> Answer:
    """Return one page of a list, with a Link to the next."""
    start = int(call.query.get("cursor", ["0"])[0])
    end = start + hub.page_size
    if end >= len(items):
        return as_json(items[start:])
    query = urlencode({**call.query, "cursor": [end]}, doseq=True)
    return as_json(items[start:end], Link=f'<{hub.url}{call.path}?{query}>; rel="next"')


@route("GET", "/api/agent-harnesses")
def agent_harnesses(hub: "Hub", call: Call) -> Answer:
    """Answer the daily lookup of agent harnesses with an empty list."""
    return as_json({"standardEnvVars": [], "harnesses": {}})


@route("GET", "/api/whoami-v2")
def whoami(hub: "Hub", call: Call) -> Answer:
    if call.role is None:
        raise HubError(401, "Invalid username or password.")
    organisations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in hub.organisations]
    token = {"accessToken": {"displayName": "test", "role": call.role}}
    account = {"type": "user", "id": "0", "name": hub.user, "fullname": hub.user, "orgs": organisations}
    return as_json(account | {"auth": {"type": "access_token", **token}})


@route("POST", "/api/repos/create")
def create(hub: "Hub", call: Call) -> Answer:
    wanted = call.json
    kind, namespace = wanted.get("type") or "model", wanted.get("organization") or hub.user
    check_writer(
        hub, call, namespace, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
    )
    repo_id, private = f"{namespace}/{wanted['name']}", wanted.get("visibility") == "private"
    existing = hub.repositories.get((kind, repo_id))
    repository = existing or hub.create(repo_id, kind, private=private, sdk=wanted.get("sdk", ""))
    content = {"url": f"{hub.url}/{repository.path}", "name": repo_id}
    if existing:
        return as_json(content | {"error": f"You already created this {kind} repo"}, 409)
    return as_json(content)


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: "Hub", call: Call) -> Answer:
    errors, warnings = validate_card(call.json["content"], call.json.get("repoType", "model"))
    lists = {"errors": errors, "warnings": warnings}
    messages = {name: [{"message": message} for message in lines] for name, lines in lists.items()}
    return as_json(messages, 400 if errors else 200)


@route("POST", f"{API}/preupload/{REVISION}")
def preupload(hub: "Hub", call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    repository = writable(hub, call, kind, repo_id, "Forbidden: Authorization error.")
    refuse_pull_request(call)
    commit = repository.at(revision)
    there = commit.tree.get(".gitignore")
    ignored = call.json.get("gitIgnore") or (repository.store.read(there).decode() if there else "")
    files = []
    for file in call.json["files"]:
        path, entry = file["path"], commit.tree.get(file["path"])
        mode = repository.upload_mode(commit, path, file["size"], base64.b64decode(file["sample"]))
        answer = {"path": path, "uploadMode": mode, "shouldIgnore": is_ignored(path, ignored)}
        files.append(answer | ({"oid": entry.etag} if entry else {}))
    return as_json({"files": files, "commitOid": commit.id})


def refuse_pull_request(call: Call) -> None:
    if call.flag("create_pr"):
        raise HubError(501, "The loop-back Hub does not support pull requests")


@route("POST", rf"{SITE}\.git/info/lfs/objects/batch")
def lfs_batch(hub: "Hub", call: Call, kind: str | None, repo_id: str) -> Answer:
    """Return upload addresses for missing objects; the others get no action."""
    repository = writable(hub, call, kind, repo_id, NEEDS_WRITE)
    objects = []
    for wanted in call.json["objects"]:
        oid, actions = wanted["oid"], {}
        if oid not in repository.lfs:
            hub.announced.add((repository.path, oid))
            base = f"{hub.url}/{repository.path}.git/info/lfs"
            verify = {"href": f"{base}/verify", "header": {}}
            actions = {"actions": {"upload": {"href": f"{base}/storage/{oid}"}, "verify": verify}}
        objects.append({"oid": oid, "size": wanted["size"], "authenticated": True, **actions})
    return as_json({"transfer": "basic", "objects": objects})


@route("PUT", rf"{SITE}\.git/info/lfs/storage/(?P<oid>[0-9a-f]{{64}})")
def lfs_upload(hub: "Hub", call: Call, kind: str | None, repo_id: str, oid: str) -> Answer:
    """Store an announced object; like the Hub's storage, its address is the permission."""
    path = f"{kind}/{repo_id}" if kind else repo_id
    if (path, oid) not in hub.announced:
        raise HubError(403, "Forbidden: this object was not announced")
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise HubError(400, "The content has another sha256")
    hub.store.lfs[oid] = call.body
    hub.repositories[((kind or "models").removesuffix("s"), repo_id)].lfs.add(oid)
    return Answer(200, headers={"ETag": f'"{oid}"'})


@route("POST", rf"{SITE}\.git/info/lfs/verify")
def lfs_verify(hub: "Hub", call: Call, kind: str | None, repo_id: str) -> Answer:
    repository, wanted = writable(hub, call, kind, repo_id, NEEDS_WRITE), call.json
    if wanted["oid"] not in repository.lfs or len(hub.store.lfs[wanted["oid"]]) != wanted["size"]:
        raise HubError(404, "The object is not there, or has another size")
    return as_json({"success": True})


@route("POST", f"{API}/commit/{REVISION}")
def commit(hub: "Hub", call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    refuse_pull_request(call)
    repository = writable(hub, call, kind, repo_id, NEEDS_PULL_REQUEST)
    header, *lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    about = header["value"]
    commit = repository.commit(
        [(line["key"], line["value"]) for line in lines],
        about["summary"],
        about.get("description", ""),
        revision,
        about.get("parentCommit"),
    )
    return as_json(
        {"success": True, "commitOid": commit.id, "commitUrl": f"{hub.url}/{repository.path}/commit/{commit.id}"}
    )


@route("POST", f"{API}/tag/{REVISION}")
def add_tag(hub: "Hub", call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    writable(hub, call, kind, repo_id, NEEDS_WRITE).add_ref("tag", call.json["tag"], revision)
    return as_json({})


@route("GET", f"{API}/refs")
def refs(hub: "Hub", call: Call, kind: str, repo_id: str) -> Answer:
    refs = readable(hub, call, kind, repo_id).refs
    named = {"branches": ("heads", refs.branches), "tags": ("tags", refs.tags)}
    answer = {
        part: [{"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in items.items()]
        for part, (folder, items) in named.items()
    }
    return as_json(answer | {"converts": [], "pullRequests": []})


@route("GET", f"{API}/commits/{REVISION}")
def commits(hub: "Hub", call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    history = readable(hub, call, kind, repo_id).history(revision)
    answer = [last_commit(commit) | {"message": commit.message, "authors": [{"user": hub.user}]} for commit in history]
    return paginated(hub, call, answer)


@route("GET", f"{API}(?:/revision/{REVISION})?")
def info(hub: "Hub", call: Call, kind: str, repo_id: str, revision: str | None) -> Answer:
    """Describe a repository at a revision with its files, and with their sizes for `blobs`."""
    repository = readable(hub, call, kind, repo_id)
    commit = repository.at(revision or "main")
    siblings = []
    for path in commit.files:
        answer = commit.tree[path].described(path)
        sizes = {"size": answer["size"], "blobId": answer["oid"]} if call.flag("blobs") else {}
        if sizes and "lfs" in answer:
            sizes["lfs"] = {"sha256": answer["lfs"]["oid"], **answer["lfs"]}
        siblings.append({"rfilename": path, **sizes})
    first = repository.history(commit.id)[-1]
    about = {
        "_id": first.id[:24],
        "id": repo_id,
        "author": repo_id.partition("/")[0],
        "sha": commit.id,
        "createdAt": timestamp(first.date),
        "lastModified": timestamp(commit.date),
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "siblings": siblings,
        "usedStorage": sum(entry.size for entry in commit.tree.values()),
    }
    return as_json(about | described(repository.files(commit.id), repository.type))


@route("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.+))?")
def tree(hub: "Hub", call: Call, kind: str, repo_id: str, revision: str, path: str | None) -> Answer:
    repository = readable(hub, call, kind, repo_id)
    commit = repository.at(revision)
    items = repository.listing(commit, path or "", call.flag("recursive"))
    return paginated(hub, call, [expanded(item, commit) for item in items] if call.flag("expand") else items)


def expanded(item: dict[str, Any], commit: Commit) -> dict[str, Any]:
    safe = {"status": "safe", "avScan": None, "pickleImportScan": None} if item["type"] == "file" else None
    return item | {"lastCommit": last_commit(commit), "securityFileStatus": safe}


@route("POST", f"{API}/paths-info/{REVISION}")
def paths_info(hub: "Hub", call: Call, kind: str, repo_id: str, revision: str) -> Answer:
    """Describe the existing files and folders among the given paths."""
    repository = readable(hub, call, kind, repo_id)
    commit = repository.at(revision)
    sent = call.json if "json" in call.headers.get("content-type", "") else parse_qs(call.body.decode())
    entries = []
    for path in (path.rstrip("/") for path in sent.get("paths", [])):
        if path in commit.tree:
            entries.append(commit.tree[path].described(path))
        elif any(name.startswith(f"{path}/") for name in commit.tree):
            entries.append(repository.folder(commit, path))
    wanted = str(sent.get("expand", "")).lower()
    return as_json([expanded(item, commit) for item in entries] if "true" in wanted else entries)


@route("GET", f"{SITE}/resolve/{REVISION}/(?P<path>.+)")
def resolve(hub: "Hub", call: Call, kind: str | None, repo_id: str, revision: str, path: str) -> Answer:
    """Return a file, or the requested Range of it."""
    repository = readable(hub, call, kind, repo_id)
    commit = repository.at(revision)
    entry = repository.entry(commit, path)
    content, headers = repository.store.read(entry), {"X-Repo-Commit": commit.id, "ETag": f'"{entry.etag}"'}
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if entry.sha256:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    part = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("range", ""))
    if call.method == "HEAD" or not part:
        return Answer(200, content, headers)
    first, last = part.groups()
    start = int(first) if first else max(entry.size - int(last), 0)
    end = min(int(last) + 1 if first and last else entry.size, entry.size)
    if start >= end:
        return Answer(416, headers=headers | {"Content-Range": f"bytes */{entry.size}"})
    return Answer(206, content[start:end], headers | {"Content-Range": f"bytes {start}-{end - 1}/{entry.size}"})


@route("GET", "/(?:info|parquet|size|splits|is-valid)")
def viewer(hub: "Hub", call: Call) -> Answer:
    """The dataset viewer, which `datasets` looks up under a host name of its own: no data yet."""
    raise HubError(404, "The dataset viewer has no answer for this dataset.")
