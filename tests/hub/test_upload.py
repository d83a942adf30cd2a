"""State of the Hub after a push, whatever fails on the way."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.hub.upload import Target, check_name, check_token, push
from tests.hub.loopback import Fault, Hub

REPOSITORY = "user/cells"
FILES = {
    "README.md": "---\nlicense: mit\nsdk: static\n---\n# Cells\n",
    "curation/audit.json": "{}",
    "data/a.parquet": b"one" * 999,
}
OLD = FILES | {"curation/old.csv": "gone", "data/a.parquet": b"old" * 99}
CALLS = 25  # more than a push makes
pytestmark = pytest.mark.usefixtures("connected")


@pytest.fixture
def folder(tmp_path: Path, write_files: Callable[..., Path]) -> Path:
    return write_files(tmp_path / "folder", FILES)


def target(kind: str = "dataset", revision: str | None = None, private: bool = False) -> Target:
    return Target(REPOSITORY, kind, private, revision, "static" if kind == "space" else None)


def content(hub: Hub, revision: str = "main") -> dict[str, bytes]:
    files = hub.files(REPOSITORY, "dataset", revision)
    return {path: file for path, file in files.items() if path != ".gitattributes"}


def as_bytes(files: dict[str, bytes | str]) -> dict[str, bytes]:
    return {path: file.encode() if isinstance(file, str) else file for path, file in files.items()}


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_a_folder_becomes_one_commit_of_a_repository(hub: Hub, folder: Path, kind: str) -> None:
    before = push(folder, target(kind), "Publish")
    assert before.changed
    commits = hub.commits(REPOSITORY, kind)
    assert [commit.id for commit in commits[1:]] == [before.commit]
    kept = {path: file for path, file in hub.files(REPOSITORY, kind).items() if path != ".gitattributes"}
    assert kept == as_bytes(FILES)


def test_the_same_content_twice_makes_no_second_commit(hub: Hub, folder: Path) -> None:
    first = push(folder, target(), "Publish")
    again = push(folder, target(), "Publish")
    assert not again.changed
    assert again.commit == first.commit
    assert len(hub.commits(REPOSITORY, "dataset")) == 2


def test_what_is_no_longer_in_the_folder_goes_in_the_same_commit(hub: Hub, folder: Path) -> None:
    hub.put(REPOSITORY, OLD, "dataset")
    push(folder, target(), "Publish")
    assert content(hub) == as_bytes(FILES)
    assert len(hub.commits(REPOSITORY, "dataset")) == 3


def test_a_revision_still_gives_the_old_content(hub: Hub, folder: Path) -> None:
    push(folder, target(revision="v1.0"), "Publish")
    (folder / "data/a.parquet").write_bytes(b"two")
    push(folder, target(revision="v1.1"), "Publish")
    assert content(hub, "v1.0") == as_bytes(FILES)
    assert content(hub, "v1.1")["data/a.parquet"] == content(hub)["data/a.parquet"] == b"two"


def test_a_revision_is_never_moved(hub: Hub, folder: Path) -> None:
    push(folder, target(revision="v1.0"), "Publish")
    (folder / "data/a.parquet").write_bytes(b"two")
    with pytest.raises(
        CelluScanError, match=r"revision v1\.0 with other content \(data/a\.parquet differs\).*new --rev"
    ):
        push(folder, target(revision="v1.0"), "Publish")
    assert content(hub) == content(hub, "v1.0") == as_bytes(FILES)


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("curation/audit.json", b"[]", "curation/audit.json differs"),
        ("data/a.parquet", b"two" * 999, "data/a.parquet differs"),
        ("new.csv", b"", "new.csv is missing"),
        ("data/a.parquet", None, "data/a.parquet is not in the folder"),
    ],
    ids=["byte", "byte of a large file", "file more", "file less"],
)
def test_a_revision_differs_by_any_byte_and_any_file(
    hub: Hub, folder: Path, path: str, content: bytes | None, message: str
) -> None:
    push(folder, target(revision="v1.0"), "Publish")
    if content is None:
        (folder / path).unlink()
    else:
        (folder / path).write_bytes(content)
    with pytest.raises(CelluScanError, match=message):
        push(folder, target(revision="v1.0"), "Publish")


def test_a_tag_names_what_was_sent_also_where_somebody_pushed_meanwhile(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import HfApi

    tag = HfApi.create_tag

    def late(self: HfApi, *given: object, **options: object) -> object:
        hub.put(REPOSITORY, {"README.md": "theirs"}, "dataset")
        return tag(self, *given, **options)

    monkeypatch.setattr(HfApi, "create_tag", late)
    push(folder, target(revision="v1.0"), "Publish")
    assert content(hub, "v1.0") == as_bytes(FILES)


def test_a_revision_that_holds_this_content_already_is_left_as_it_is(hub: Hub, folder: Path) -> None:
    first = push(folder, target(revision="v1.0"), "Publish")
    hub.put(REPOSITORY, {"README.md": "later"}, "dataset")
    again = push(folder, target(revision="v1.0"), "Publish")
    assert again.commit == first.commit
    assert not again.changed
    assert content(hub)["README.md"] == b"later"


@pytest.mark.parametrize(("new", "processed"), [(True, True), (False, False)])
def test_a_push_cut_at_any_call_and_run_again_ends_like_an_unbroken_one(
    folder: Path, new: bool, processed: bool
) -> None:
    wanted, unbroken = as_bytes(FILES), False
    for call in range(1, CALLS):
        with Hub() as hub, pytest.MonkeyPatch.context() as patch:
            patch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
            if not new:
                hub.put(REPOSITORY, OLD, "dataset")
            commits = 2 if new else 3
            hub.die_at(call, processed)
            try:
                push(folder, target(revision="v1.0"), "Publish")
                unbroken = True
            except CelluScanError as error:
                assert "run the same command again" in str(error)
                assert "hf_write" not in str(error)
                visible = content(hub) if ("dataset", REPOSITORY) in hub.repositories else {}
                assert visible in ({}, as_bytes(OLD), wanted)  # never a part of the new content
            hub.revive()
            push(folder, target(revision="v1.0"), "Publish")
            assert content(hub) == content(hub, "v1.0") == wanted
            assert len(hub.commits(REPOSITORY, "dataset")) == commits
            assert not hub.complaints()
        if unbroken:
            return
    pytest.fail(f"a push makes more than {CALLS} calls")


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.RATE_LIMIT, Fault.CUT_UPLOAD])
def test_a_transient_fault_is_retried_or_fixed_by_a_second_run(hub: Hub, folder: Path, fault: Fault) -> None:
    hub.fault(fault, matching=("PUT|POST", "lfs|/commit/"), seconds=1)
    try:
        push(folder, target(), "Publish")
    except CelluScanError as error:
        assert "run the same command again" in str(error)
        push(folder, target(), "Publish")
    assert content(hub) == as_bytes(FILES)
    assert len(hub.commits(REPOSITORY, "dataset")) == 2


def test_somebody_elses_push_meanwhile_is_not_overwritten(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(folder, target(), "Publish")
    from huggingface_hub import HfApi

    commit = HfApi.create_commit

    def late(self: HfApi, *given: object, **options: object) -> object:
        hub.put(REPOSITORY, {"README.md": "theirs"}, "dataset")
        return commit(self, *given, **options)

    monkeypatch.setattr(HfApi, "create_commit", late)
    (folder / "README.md").write_text("ours")
    with pytest.raises(CelluScanError, match="somebody else pushed to user/cells meanwhile"):
        push(folder, target(), "Publish")
    assert content(hub)["README.md"] == b"theirs"


def test_a_file_that_arrived_damaged_is_reported(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celluscan_hf.hub.upload._same", lambda file, remote: not remote.path.endswith(".parquet"))
    with pytest.raises(CelluScanError, match=r"differs from the folder \(data/a\.parquet differs\)"):
        push(folder, target(revision="v1.0"), "Publish")
    assert not hub.refs(REPOSITORY, "dataset").tags


def test_a_card_that_the_hub_rejects_is_reported_before_anything_is_sent(hub: Hub, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: none-that-is-known\n---\n")
    with pytest.raises(CelluScanError, match=r"rejects the card of user/cells: Invalid metadata.*license"):
        push(folder, target(), "Publish")
    assert not hub.lfs
    assert not content(hub)


def test_no_token_is_one_line_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CelluScanError, match="no token with write access to the Hub: run hf auth login"):
        check_token(target())


@pytest.mark.parametrize(("token", "message"), [("hf_read", "the token is read-only"), ("hf_odd", "does not accept")])
def test_a_token_that_cannot_write_is_one_line_without_the_token(
    monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(CelluScanError, match=message) as raised:
        check_token(target())
    assert token not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_that_is_not_ours_is_refused_in_one_line(hub: Hub, folder: Path) -> None:
    with pytest.raises(CelluScanError, match="the token may not write to stranger/cells"):
        push(folder, Target("stranger/cells", "model"), "Publish")


@pytest.mark.parametrize("name", ["cells/a/b", "user/ce lls"])
def test_a_name_that_is_none_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(CelluScanError, match="expected owner/name"):
        push(folder, Target(name, "model"), "Publish")
    with pytest.raises(CelluScanError, match="expected owner/name"):
        check_name(Target(name, "model"))


def test_a_name_without_an_owner_and_a_revision_with_a_space_are_refused_at_once() -> None:
    with pytest.raises(CelluScanError, match=r"cells is not a valid .*expected owner/name"):
        check_name(Target("cells", "model"))
    with pytest.raises(CelluScanError, match=r"--revision v 1: expected letters"):
        check_name(target(revision="v 1"))
    check_name(target(revision="v1.0"))


def test_private_is_private_and_a_public_one_is_not_taken_for_it(hub: Hub, folder: Path) -> None:
    push(folder, target(private=True), "Publish")
    assert hub.repository(REPOSITORY, "dataset").private
    hub.create("user/open", "dataset")
    with pytest.raises(CelluScanError, match="--private: user/open exists and is public"):
        push(folder, Target("user/open", "dataset", private=True), "Publish")


def test_no_token_is_left_in_any_file(hub: Hub, folder: Path, tmp_path: Path) -> None:
    push(folder, target(), "Publish")
    stored = [file for root in (tmp_path, Path(os.environ["HF_HOME"])) for file in root.rglob("*") if file.is_file()]
    assert not [file for file in stored if b"hf_write" in file.read_bytes()]
