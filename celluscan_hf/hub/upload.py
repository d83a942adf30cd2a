"""Upload a folder to a Hub repository in one commit, or none if nothing changed, and compare every file afterwards.

All files are sent before the one commit that makes them visible, so nobody sees a partial upload. An interrupted push
can be run again: files that the Hub already has are not sent twice, and the same content is not committed twice.
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
_KEPT = {".gitattributes"}  # written by the Hub: which files it stores as LFS
_BAD_CARD = "Invalid metadata"  # start of the message of huggingface_hub
_AGAIN = "run the same command again: files already sent are not sent twice"


@dataclass(frozen=True)
class Target:
    """The repository that a folder is uploaded to.

    - `repository`: `owner/name` on the Hub.
    - `kind`: model, dataset or space.
    - `revision`: a permanent tag for this content, or None.
    - `space_sdk`: SDK of a Space: static or gradio.
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
    """The commit with the content, and whether this push created it."""

    commit: str
    changed: bool


def push(folder: Path, target: Target, message: str) -> Pushed:
    """Make the repository hold exactly the files of a folder, and tag it where a revision is asked for.

    Raises:
        CelluScanError: The token cannot write there, the tag names other content, somebody else pushed
            meanwhile, or the Hub cannot be reached. The repository then shows all of the new content or none.
    """
    api = HfApi()
    with explain_failures(target):
        api.create_repo(
            target.repository,
            repo_type=target.kind,
            private=target.private,
            exist_ok=True,
            space_sdk=target.space_sdk,
        )
        _check_visibility(api, target)
        if tagged := _tagged_commit(api, target):
            return _check_tagged(api, folder, target, tagged)
        pushed = _commit(api, folder, target, message)
        differing = differences(api, folder, target, pushed.commit)
        if differing:
            raise CelluScanError(
                f"{target.repository} at {pushed.commit} differs from the folder ({differing[0]}); {_AGAIN}"
            )
        if target.revision:
            api.create_tag(target.repository, tag=target.revision, revision=pushed.commit, repo_type=target.kind)
        return pushed


def check_name(target: Target) -> None:
    """Raise a `CelluScanError` if the name or the revision is not valid on the Hub."""
    with explain_failures(target):
        validate_repo_id(target.repository)
    if "/" not in target.repository:
        raise CelluScanError(f"{target.repository} is not a valid Hub repository: expected owner/name")
    if target.revision is not None and not re.fullmatch(r"[\w][\w.-]*", target.revision):
        raise CelluScanError(f"--revision {target.revision}: expected letters, digits, dots and dashes, such as v1.0")


def check_token(target: Target) -> None:
    """Raise a `CelluScanError` if a token with write access is missing."""
    with explain_failures(target):
        try:
            account = HfApi().whoami()
        except LocalTokenNotFoundError as error:
            raise CelluScanError("no token with write access to the Hub: run hf auth login, or set HF_TOKEN") from error
        except HfHubHTTPError as error:
            if error.response.status_code != HTTPStatus.UNAUTHORIZED:
                raise
            raise CelluScanError(
                f"the Hub does not accept the token: create a new one at {_TOKENS}, then run hf auth login"
            ) from error
    if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise CelluScanError(
            f"the token is read-only: create one with write access at {_TOKENS}, then run hf auth login"
        )


def _check_visibility(api: HfApi, target: Target) -> None:
    if target.private and not api.repo_info(target.repository, repo_type=target.kind).private:
        raise CelluScanError(f"--private: {target.repository} exists and is public; choose another name")


def _tagged_commit(api: HfApi, target: Target) -> str | None:
    """Return the commit that already has the tag."""
    if target.revision is None:
        return None
    tags = api.list_repo_refs(target.repository, repo_type=target.kind).tags
    return next((tag.target_commit for tag in tags if tag.name == target.revision), None)


def _check_tagged(api: HfApi, folder: Path, target: Target, commit: str) -> Pushed:
    differing = differences(api, folder, target, commit)
    if differing:
        raise CelluScanError(
            f"{target.repository} has a revision {target.revision} with other content ({differing[0]}): published "
            "revisions never change, choose a new --revision"
        )
    return Pushed(commit, changed=False)


def _commit(api: HfApi, folder: Path, target: Target, message: str) -> Pushed:
    """Upload all files in one commit on top of the current head; fail if somebody pushes meanwhile."""
    head = api.repo_info(target.repository, repo_type=target.kind).sha
    files = dict(listing(folder))
    stale = {file.path for file in _remote(api, target, head)} - set(files) - _KEPT
    commit = api.create_commit(
        target.repository,
        [CommitOperationDelete(path) for path in sorted(stale)]
        + [CommitOperationAdd(path, file) for path, file in files.items()],
        commit_message=message,
        repo_type=target.kind,
        parent_commit=head,
    )
    return Pushed(commit.oid, changed=commit.oid != head)


def listing(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a folder with their paths in the repository, sorted."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield file.relative_to(folder).as_posix(), file


def differences(api: HfApi, folder: Path, target: Target, commit: str) -> list[str]:
    """List the differences between a commit and a folder, by size and hash of every file."""
    remote = {file.path: file for file in _remote(api, target, commit)}
    local = dict(listing(folder))
    lines = [f"{path} is missing" for path in local if path not in remote]
    lines += [f"{path} is not in the folder" for path in sorted(set(remote) - set(local) - _KEPT)]
    return lines + [f"{path} differs" for path in local if path in remote and not _same(local[path], remote[path])]


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
def explain_failures(target: Target) -> Iterator[None]:
    """Turn every failure of a push into one line that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise CelluScanError(f"{target.repository} is not a valid Hub repository: expected owner/name") from error
    except RevisionNotFoundError as error:
        raise CelluScanError(f"{target.repository} changed during the push; {_AGAIN}") from error
    except RepositoryNotFoundError as error:
        raise CelluScanError(
            f"{target.repository} cannot be written to with this token: check the name, or who owns it"
        ) from error
    except HfHubHTTPError as error:
        raise CelluScanError(_explain(error, target)) from error
    except (HTTPError, OSError, RuntimeError, JSONDecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CelluScanError(f"the push to {target.repository} was interrupted ({reason}); {_AGAIN}") from error
    except ValueError as error:
        if not str(error).startswith(_BAD_CARD):
            raise
        reason = " ".join(str(error).split())
        raise CelluScanError(f"the Hub rejects the card of {target.repository}: {reason}") from error


def _explain(error: HfHubHTTPError, target: Target) -> str:
    status = error.response.status_code
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return f"the token may not write to {target.repository}: grant it access at {_TOKENS}, or choose another name"
    if status == HTTPStatus.PRECONDITION_FAILED:
        return f"somebody else pushed to {target.repository} meanwhile; check it, then {_AGAIN}"
    reason = " ".join((error.server_message or str(error)).split())
    return f"the Hub rejected the push to {target.repository} ({status}: {reason}); {_AGAIN}"
