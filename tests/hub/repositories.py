"""Repositories of the loop-back Hub, in memory: blobs by their content, commits, branches and tags.

The behaviour follows https://huggingface.co/docs/hub/repositories and `huggingface_hub`.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from typing import Any

from tests.hub.cards import validate_card

REGULAR_LIMIT = 10_000_000  # bytes; larger files are LFS files whatever their name
_LFS_PATTERNS = """*.7z *.arrow *.bin *.bz2 *.ckpt *.ftz *.gz *.h5 *.joblib *.lfs.* *.mlmodel *.model *.msgpack *.npy
*.npz *.onnx *.ot *.parquet *.pb *.pickle *.pkl *.pt *.pth *.rar *.safetensors saved_model/**/* *.tar.* *.tar *.tflite
*.tgz *.wasm *.xz *.zip *.zst *tfevents*"""
_DATASET_PATTERNS = """*.lz4 *.mds *.pcm *.sam *.raw *.aac *.flac *.mp3 *.ogg *.wav *.bmp *.gif *.png *.tiff *.jpg
*.jpeg *.webp *.mp4 *.webm"""
LFS_PATTERNS, DATASET_PATTERNS = _LFS_PATTERNS.split(), _DATASET_PATTERNS.split()


class HubError(Exception):
    """An error response: status, message and, if the Hub sends one, X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit = status, message, code, commit


@dataclass(frozen=True)
class Entry:
    """A file of a tree: git hash of its blob (for LFS, of its pointer), size, and sha256 for LFS."""

    oid: str
    size: int
    sha256: str | None = None

    @property
    def etag(self) -> str:
        return self.sha256 or self.oid

    def described(self, path: str) -> dict[str, Any]:
        fields = {"type": "file", "oid": self.oid, "size": self.size, "path": path}
        if self.sha256:
            fields["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(pointer(self.sha256, self.size))}
        return fields


@dataclass(frozen=True)
class Commit:
    """One commit: its tree and its parent."""

    id: str
    parent: str | None
    title: str
    message: str
    date: datetime
    tree: Mapping[str, Entry]

    @property
    def files(self) -> list[str]:
        return sorted(self.tree)


@dataclass
class Store:
    """Contents of all repositories: regular files by git hash, LFS objects by sha256."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    def add_regular(self, content: bytes) -> Entry:
        oid = git_oid(content)
        self.blobs[oid] = content
        return Entry(oid, len(content))

    def read(self, entry: Entry) -> bytes:
        return self.lfs[entry.sha256] if entry.sha256 else self.blobs[entry.oid]


@dataclass(frozen=True)
class Refs:
    """Branches and tags of a repository with their commits."""

    branches: dict[str, str]
    tags: dict[str, str]


def git_oid(content: bytes) -> str:
    """Return the git hash of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(sha256: str, size: int) -> bytes:
    """Return the pointer file of an LFS object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def lfs_entry(sha256: str, size: int) -> Entry:
    return Entry(git_oid(pointer(sha256, size)), size, sha256)


def matches(path: str, pattern: str) -> bool:
    """Match a pattern of .gitattributes or .gitignore; without a slash it applies to the last part."""
    pattern = pattern.rstrip("/")
    if "/" in pattern:
        return fnmatch(path, pattern.lstrip("/"))
    return fnmatch(path.rpartition("/")[2], pattern)


def is_ignored(path: str, gitignore: str) -> bool:
    """Whether .gitignore excludes the path or a folder above it."""
    parts = path.split("/")
    parents = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
    rules = [line.strip() for line in gitignore.splitlines() if line.strip() and not line.startswith("#")]
    return any(matches(parent, rule) for rule in rules for parent in parents)


class Repository:
    """One repository; `lfs` names the objects that were uploaded to it."""

    def __init__(self, store: Store, repo_type: str, repo_id: str, private: bool = False, sdk: str = "") -> None:
        self.store, self.type, self.id, self.private = store, repo_type, repo_id, private
        self.commits: dict[str, Commit] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.lfs: set[str] = set()
        patterns = LFS_PATTERNS + (DATASET_PATTERNS if repo_type == "dataset" else [])
        rules = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns)
        tree = {".gitattributes": store.add_regular(rules.encode())}
        if repo_type == "space":
            readme = f"---\ntitle: {repo_id.rpartition('/')[2]}\nsdk: {sdk}\npinned: false\n---\n"
            tree["README.md"] = store.add_regular(readme.encode())
        self._add(tree, "initial commit", "", None)
        self.branches["main"] = next(iter(self.commits))

    @property
    def path(self) -> str:
        """Its path on the site."""
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    @property
    def refs(self) -> Refs:
        return Refs(dict(self.branches), dict(self.tags))

    def _add(self, tree: Mapping[str, Entry], title: str, message: str, parent: str | None) -> Commit:
        date = datetime.now(UTC)
        content = [self.id, str(len(self.commits)), title, message, parent, date.isoformat(), sorted(tree.items())]
        commit = Commit(hashlib.sha1(repr(content).encode()).hexdigest(), parent, title, message, date, dict(tree))
        self.commits[commit.id] = commit
        return commit

    def at(self, revision: str) -> Commit:
        """Return the commit of a branch, a tag, a ref or a (shortened) commit hash."""
        name = revision.removeprefix("refs/heads/").removeprefix("refs/tags/")
        named = self.branches.get(name) or self.tags.get(name)
        commits = [named] if named else [oid for oid in self.commits if len(name) >= 7 and oid.startswith(name)]
        if len(commits) != 1:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[commits[0]]

    def entry(self, commit: Commit, path: str) -> Entry:
        if path not in commit.tree:
            raise HubError(404, "Entry not found", "EntryNotFound", commit.id)
        return commit.tree[path]

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: self.store.read(entry) for path, entry in self.at(revision).tree.items()}

    def history(self, revision: str) -> list[Commit]:
        """Return the commits of a revision, newest first."""
        commits = [self.at(revision)]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def listing(self, commit: Commit, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Describe the files and folders in a folder ("" for the root), sorted by path."""
        prefix = f"{folder}/" if folder else ""
        inside = [path for path in commit.tree if path.startswith(prefix)]
        if folder and not inside:
            raise HubError(404, f"{folder} does not exist on {commit.id}", "EntryNotFound", commit.id)
        items: dict[str, dict[str, Any]] = {}
        for path in inside:
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                name = prefix + "/".join(parts[:depth])
                items[name] = self.folder(commit, name)
            if recursive or len(parts) == 1:
                items[path] = commit.tree[path].described(path)
        return [items[path] for path in sorted(items)]

    def folder(self, commit: Commit, path: str) -> dict[str, Any]:
        content = sorted((name, entry.oid) for name, entry in commit.tree.items() if name.startswith(f"{path}/"))
        return {"type": "directory", "oid": hashlib.sha1(repr(content).encode()).hexdigest(), "size": 0, "path": path}

    def upload_mode(self, commit: Commit, path: str, size: int, sample: bytes) -> str:
        """ "lfs" or "regular": by .gitattributes, where the last rule wins, else by size and for bytes of NUL."""
        rules = self.store.read(commit.tree[".gitattributes"]).decode() if ".gitattributes" in commit.tree else ""
        mode = "lfs" if size > REGULAR_LIMIT or b"\0" in sample else "regular"
        for pattern, *attributes in (line.split() for line in rules.splitlines() if line.strip()):
            if matches(path, pattern):
                if "filter=lfs" in attributes:
                    mode = "lfs"
                elif "-filter" in attributes or "!filter" in attributes:
                    mode = "regular"
        return mode

    def commit(
        self,
        operations: Iterable[tuple[str, dict[str, Any]]],
        title: str,
        message: str = "",
        branch: str = "main",
        parent: str | None = None,
    ) -> Commit:
        """Apply all operations, or none, as one commit on a branch, even if nothing changes.

        `parent`, if given, must be the branch's newest commit.
        """
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = self.commits[self.branches[branch]]
        if parent and parent != head.id:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(head.tree)
        for key, value in operations:
            self._apply(tree, key, value)
        commit = self._add(tree, title, message, head.id)
        self.branches[branch] = commit.id
        return commit

    def _apply(self, tree: dict[str, Entry], key: str, value: dict[str, Any]) -> None:
        path = value["path"].rstrip("/")
        if key == "file":
            content = base64.b64decode(value["content"])
            if path == "README.md" and (errors := validate_card(content.decode(), self.type)[0]):
                raise HubError(400, "\n".join(errors))
            tree[path] = self.store.add_regular(content)
        elif key == "lfsFile":
            if value["oid"] not in self.lfs:
                raise HubError(400, f"An LFS pointer pointed to a file that does not exist. Offending file: {path}")
            tree[path] = lfs_entry(value["oid"], len(self.store.lfs[value["oid"]]))
        elif key == "deletedFile":
            if path not in tree:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del tree[path]
        elif key == "deletedFolder":
            inside = [name for name in tree if name.startswith(f"{path}/")]
            if not inside:
                raise HubError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
            for name in inside:
                del tree[name]
        else:
            raise HubError(501, f"The loop-back Hub does not support the operation {key!r}")

    def add_ref(self, kind: str, name: str, revision: str) -> None:
        """Add a "tag" or a "branch" at a revision."""
        refs = self.tags if kind == "tag" else self.branches
        if name in refs:
            raise HubError(409, f"{kind.capitalize()} reference exists already.")
        refs[name] = self.at(revision).id
