"""A folder becomes the content of a Hub repository: one commit, or none where nothing changed, then all is compared.

All files are sent before the one commit that shows them, so nobody ever sees a part. A push that was cut goes on when
it is run again: what the Hub has is not sent twice, and what it shows already is not committed twice.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the library's HTTP client, which differs between its releases
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from ..errors import CelluScanError

_TOKENS = "https://huggingface.co/settings/tokens"
_KEPT = {".gitattributes"}  # the Hub's own: which files it stores apart
_BAD_CARD = "Invalid metadata"  # begins what the library says of it
_AGAIN = "run the same command again: what was sent is not sent twice"


@dataclass(frozen=True)
class Target:
    """Where a folder goes.

    - `repository`: `owner/name` on the Hub.
    - `kind`: model, dataset or space.
    - `revision`: a tag that names this content for good; None for none.
    - `space_sdk`: what a Space runs: static or gradio.
    """

    repository: str
    kind: str
    private: bool = False
    revision: str | None = None
    space_sdk: str | None = None

    @property
    def url(self) -> str:
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        return f"{HfApi().endpoint}/{prefix}{self.repository}"


@dataclass(frozen=True)
class Pushed:
    """The commit that shows the content, and whether this push made it."""

    commit: str
    changed: bool


def push(folder: Path, target: Target, message: str) -> Pushed:
    """Make the repository hold exactly the files of a folder, and tag it where a revision is asked for.

    Raises:
        CelluScanError: The token cannot write there, the tag names other content, somebody else pushed
            meanwhile, or the Hub cannot be reached. The repository then shows all of the new content or none.
    """
    api = HfApi()
    with failures_explained(target):
        api.create_repo(
            target.repository,
            repo_type=target.kind,
            private=target.private,
            exist_ok=True,
            space_sdk=target.space_sdk,
        )
        _check_visibility(api, target)
        if tagged := _tagged(api, target):
            return _already_there(api, folder, target, tagged)
        pushed = _commit(api, folder, target, message)
        differing = differences(api, folder, target, pushed.commit)
        if differing:
            raise CelluScanError(
                f"{target.repository} at {pushed.commit} does not hold what was sent ({differing[0]}); {_AGAIN}"
            )
        if target.revision:
            api.create_tag(target.repository, tag=target.revision, revision=pushed.commit, repo_type=target.kind)
        return pushed


def check_name(target: Target) -> None:
    """Raises a `CelluScanError` where the name or the revision cannot be one of the Hub."""
    with failures_explained(target):
        validate_repo_id(target.repository)
    if "/" not in target.repository:
        raise CelluScanError(f"{target.repository} is no name of a Hub repository: expected owner/name")
    if target.revision is not None and not re.fullmatch(r"[\w][\w.-]*", target.revision):
        raise CelluScanError(f"--revision {target.revision}: expected letters, digits, dots and dashes, such as v1.0")


def check_token(target: Target) -> None:
    """Raises a `CelluScanError` where there is no token, or one that cannot write."""
    with failures_explained(target):
        try:
            account = HfApi().whoami()
        except LocalTokenNotFoundError as error:
            raise CelluScanError("no token to write to the Hub with: run hf auth login, or set HF_TOKEN") from error
        except HfHubHTTPError as error:
            if error.response.status_code != HTTPStatus.UNAUTHORIZED:
                raise
            raise CelluScanError(
                f"the Hub does not accept the token: make another at {_TOKENS}, then hf auth login"
            ) from error
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise CelluScanError(f"the token is read-only: make one that may write at {_TOKENS}, then hf auth login")


def _check_visibility(api: HfApi, target: Target) -> None:
    if target.private and not api.repo_info(target.repository, repo_type=target.kind).private:
        raise CelluScanError(f"--private: {target.repository} exists and is public; choose another name")


def _tagged(api: HfApi, target: Target) -> str | None:
    """The commit that the wanted tag names already."""
    if target.revision is None:
        return None
    tags = api.list_repo_refs(target.repository, repo_type=target.kind).tags
    return next((tag.target_commit for tag in tags if tag.name == target.revision), None)


def _already_there(api: HfApi, folder: Path, target: Target, commit: str) -> Pushed:
    differing = differences(api, folder, target, commit)
    if differing:
        raise CelluScanError(
            f"{target.repository} has a revision {target.revision} with other content ({differing[0]}): a published "
            "revision stays as it is, choose a new --revision"
        )
    return Pushed(commit, changed=False)


def _commit(api: HfApi, folder: Path, target: Target, message: str) -> Pushed:
    """All files in one commit, on top of the state that was looked at."""
    head = api.repo_info(target.repository, repo_type=target.kind).sha
    files = dict(listing(folder))
    stale = {file.path for file in _remote(api, target, head)} - set(files) - _KEPT
    done = api.create_commit(
        target.repository,
        [CommitOperationDelete(path) for path in sorted(stale)]
        + [CommitOperationAdd(path, file) for path, file in files.items()],
        commit_message=message,
        repo_type=target.kind,
        parent_commit=head,
    )
    return Pushed(done.oid, changed=done.oid != head)


def listing(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files below a folder with their paths in the repository, sorted."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file


def differences(api: HfApi, folder: Path, target: Target, commit: str) -> list[str]:
    """In what a commit differs from a folder, by size and hash of every file; empty where it is the same."""
    there = {file.path: file for file in _remote(api, target, commit)}
    here = dict(listing(folder))
    found = [f"{path} is missing" for path in here if path not in there]
    found += [f"{path} is of an earlier push" for path in sorted(set(there) - set(here) - _KEPT)]
    return found + [f"{path} differs" for path in here if path in there and not _same(here[path], there[path])]


def _remote(api: HfApi, target: Target, commit: str | None) -> list[RepoFile]:
    entries = api.list_repo_tree(target.repository, recursive=True, revision=commit, repo_type=target.kind)
    return [entry for entry in entries if isinstance(entry, RepoFile)]


def _same(file: Path, remote: RepoFile) -> bool:
    size = file.stat().st_size
    if size != remote.size:
        return False
    with file.open("rb") as stream:
        if remote.lfs is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest() == remote.lfs.sha256
        return hashlib.sha1(b"blob %d\0" % size + stream.read()).hexdigest() == remote.blob_id  # as git names it


@contextmanager
def failures_explained(target: Target) -> Iterator[None]:
    """One line that says what to do, for every way a push can end early."""
    try:
        yield
    except HFValidationError as error:
        raise CelluScanError(f"{target.repository} is no name of a Hub repository: expected owner/name") from error
    except RevisionNotFoundError as error:
        raise CelluScanError(f"{target.repository} changed while it was looked at; {_AGAIN}") from error
    except RepositoryNotFoundError as error:
        raise CelluScanError(
            f"{target.repository} cannot be written to with this token: check the name, or who owns it"
        ) from error
    except HfHubHTTPError as error:
        raise CelluScanError(_explained(error, target)) from error
    except (HTTPError, OSError, RuntimeError, JSONDecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CelluScanError(f"the push to {target.repository} was cut ({reason}); {_AGAIN}") from error
    except ValueError as error:
        if not str(error).startswith(_BAD_CARD):
            raise
        reason = " ".join(str(error).split())
        raise CelluScanError(f"the Hub refuses the card of {target.repository}: {reason}") from error


def _explained(error: HfHubHTTPError, target: Target) -> str:
    status = error.response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"the token may not write to {target.repository}: give it that right at {_TOKENS}, or take another name"
    if status == HTTPStatus.PRECONDITION_FAILED:
        return f"somebody else pushed to {target.repository} meanwhile; look at it, then {_AGAIN}"
    reason = " ".join((error.server_message or str(error)).split())
    return f"the Hub refused the push to {target.repository} ({status}: {reason}); {_AGAIN}"
