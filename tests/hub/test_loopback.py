"""The loop-back Hub does to the real clients what the Hub does."""

import io
import json
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
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


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


# What clients push, list and pull


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


def test_names_sizes_and_bytes_decide_what_is_an_lfs_file(hub: Hub, run_clean: Run) -> None:
    hub.put("user/it", {".gitattributes": "*.bin filter=lfs\nplain.bin -filter\n", ".gitignore": "*.tmp\nout/\n"})
    run_clean(
        r"""
from huggingface_hub import CommitOperationAdd, HfApi
files = {"a.bin": b"text", "plain.bin": b"text", "b.dat": b"\0", "long.txt": b"x" * 10_000_001, "empty.bin": b"",
         "c.txt": b"text", "d.tmp": b"text", "out/e.txt": b"text"}
operations = [CommitOperationAdd(path, content) for path, content in files.items()]
HfApi().create_commit("user/it", operations, commit_message="all")
"""
    )
    tree = hub.commits("user/it")[-1].tree
    assert {path for path, entry in tree.items() if entry.sha256} == {"a.bin", "b.dat", "long.txt"}
    assert {"plain.bin", "empty.bin", "c.txt"} < set(tree)
    assert not {"d.tmp", "out/e.txt"} & set(tree)
    assert hub.files("user/it")["long.txt"] == b"x" * 10_000_001


def test_files_and_folders_are_deleted_and_copied_and_branches_come_and_go(hub: Hub, run_clean: Run) -> None:
    hub.put("user/it", {"a/one.txt": "1", "a/two.txt": "2", "b.txt": "3"}, "dataset")
    done = run_clean(
        r"""
from huggingface_hub import CommitOperationCopy, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError
api, kind = HfApi(), {"repo_type": "dataset"}
api.create_branch("user/it", branch="old", **kind)
api.create_branch("user/it", branch="gone", **kind)
api.delete_branch("user/it", branch="gone", **kind)
try:
    api.create_branch("user/it", branch="old", **kind)
except HfHubHTTPError as error:
    print(error.response.status_code)
api.create_tag("user/it", tag="gone", **kind)
api.delete_tag("user/it", tag="gone", **kind)
operations = [CommitOperationDelete("a/"), CommitOperationCopy("b.txt", "c.txt")]
api.create_commit("user/it", operations, commit_message="moved", **kind)
"""
    )
    assert done.stdout.split() == ["409"]
    assert hub.commits("user/it", "dataset")[-1].files == [".gitattributes", "b.txt", "c.txt"]
    assert hub.files("user/it", "dataset")["c.txt"] == b"3"
    assert "a/one.txt" in hub.files("user/it", "dataset", "old")
    assert (list(hub.refs("user/it", "dataset").branches), hub.refs("user/it", "dataset").tags) == (["main", "old"], {})


@pytest.mark.parametrize(
    ("readme", "repo_type", "said"),
    [
        ("---\nlicense: mit\n---\n", "model", None),
        ("---\ntitle: x\n---\n", "model", '"license" is required'),
        ("---\nlicense: mine\n---\n", "dataset", '"license" must be one of'),
        ("---\nlicense: [mit\n---\n", "model", "YAML metadata error"),
        ("---\n- mit\n---\n", "model", "must be an object"),
        ("---\nlicense: mit\npipeline_tag: cells\n---\n", "model", '"pipeline_tag" must be one of'),
        ("---\nlicense: mit\nsize_categories: [10K]\n---\n", "dataset", '"size_categories" must be one of'),
        ("---\nlicense: mit\nmodel-index: [{name: x, results: [{}]}]\n---\n", "model", "results[0].task.type"),
        ("---\ntitle: x\n---\n", "space", '"sdk" is required'),
    ],
)
def test_the_metadata_of_a_card_is_checked(hub: Hub, readme: str, repo_type: str, said: str | None) -> None:
    body = json.dumps({"content": readme, "repoType": repo_type}).encode()
    connection = HTTPConnection(hub.url.removeprefix("http://"))
    connection.request("POST", "/api/validate-yaml", body)
    answer = connection.getresponse()
    told = json.loads(answer.read())
    assert answer.status == (400 if said else 200)
    assert not said or any(said in error["message"] for error in told["errors"])


# datasets, transformers, evaluate

DATASET_CARD = """---
license: cc-by-4.0
task_categories: [image-classification]
size_categories: [n<1K]
configs:
- config_name: all
  default: true
  data_files:
  - {split: train, path: data/train-*.parquet}
  - {split: test, path: data/test-*.parquet}
- config_name: small
  data_files:
  - {split: train, path: data/test-*.parquet}
---
"""


def test_datasets_loads_configs_and_streams_by_ranges(hub: Hub, run_clean: Run) -> None:
    files = {
        "data/train-0.parquet": parquet(n=[*range(40)], x=["y" * 9000] * 40),
        "data/test-0.parquet": parquet(n=[7]),
    }
    hub.put("user/cells", {"README.md": DATASET_CARD, **files}, "dataset")
    done = run_clean(
        r"""
import json
from datasets import load_dataset
streamed = load_dataset("user/cells", split="train", streaming=True)
numbers = [row["n"] for row in streamed]
print(json.dumps([numbers, load_dataset("user/cells", "small")["train"]["n"][:], load_dataset("user/cells").num_rows]))
"""
    )
    assert json.loads(done.stdout) == [[*range(40)], [7], {"train": 40, "test": 1}]
    ranges = [request.status for request in hub.requests if request.range and "train-0" in request.path]
    assert ranges and set(ranges) == {206}


def test_transformers_builds_a_model_and_a_pipeline(hub: Hub, run_clean: Run) -> None:
    done = run_clean(
        r"""
from huggingface_hub import HfApi
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig, ViTForImageClassification, ViTImageProcessor
from transformers import pipeline
sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32)
saved = ViTForImageClassification(ViTConfig(**sizes, patch_size=16, num_labels=3))
saved.save_pretrained("vit")
ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained("vit")
HfApi().create_repo("user/vit", private=True)
HfApi().upload_folder(repo_id="user/vit", folder_path="vit")
loaded = AutoModelForImageClassification.from_pretrained("user/vit")
assert all((one == two).all() for one, two in zip(saved.parameters(), loaded.parameters(), strict=True))
print(len(pipeline(model="user/vit")(Image.new("RGB", (40, 40)))))
"""
    )
    assert done.stdout.split() == ["3"]
    assert hub.repository("user/vit").private
    assert hub.commits("user/vit")[-1].tree["model.safetensors"].sha256 in hub.lfs


METRIC = """
import datasets
import evaluate
from .agreement import same


class Metric(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("int64") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="d", citation="c", inputs_description="i", features=features)

    def _compute(self, predictions, references):
        return {"same": same(predictions, references)}
"""
AGREEMENT = "def same(one, two):\n    return sum(a == b for a, b in zip(one, two))\n"


def test_evaluate_loads_a_metric_from_a_space(hub: Hub, run_clean: Run) -> None:
    hub.put("user/metric", {"metric.py": METRIC, "agreement.py": AGREEMENT}, "space")
    done = run_clean(
        "import evaluate\nprint(evaluate.load('user/metric').compute(predictions=[1, 2, 3], references=[1, 2, 4]))"
    )
    assert done.stdout.strip() == "{'same': 2}"


# Refusals


def test_what_is_not_there_or_not_allowed_raises_what_the_hub_raises(hub: Hub, tmp_path: Path) -> None:
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
        told = hub.run_clean(code, home=tmp_path / str(token), token=token).stdout
        return {name: said for name, _, said in (line.partition(" ") for line in told.splitlines())}

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


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [("0-3", 206, b"0123"), ("6-", 206, b"6789"), ("-2", 206, b"89"), ("8-99", 206, b"89"), ("10-", 416, b"")],
)
def test_a_range_of_a_file_is_served(hub: Hub, asked: str, status: int, content: bytes) -> None:
    hub.put("user/it", {"a.txt": "0123456789"})
    connection = HTTPConnection(hub.url.removeprefix("http://"))
    connection.request("GET", "/user/it/resolve/main/a.txt", headers={"Range": f"bytes={asked}"})
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (status, content)
    assert answer.headers["X-Repo-Commit"] == hub.commits("user/it")[-1].id


def test_a_call_that_the_hub_does_not_know_fails_the_test(hub: Hub, run_clean: Run) -> None:
    hub.create("user/it")
    done = run_clean("from huggingface_hub import HfApi\nHfApi().delete_repo('user/it')", check=False)
    assert "501" in done.stderr
    assert [line.partition(" /")[0] for line in hub.complaints()] == ["unknown call: DELETE"]
    hub.forgive()
