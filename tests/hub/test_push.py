"""The scripts that publish, as a user runs them, and what everybody else then types."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.hub.conftest import Trained
from tests.hub.loopback import Hub

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(hub: Hub, tmp_path: Path) -> Script:
    """Runs a script of the project as a user with a token for the loop-back Hub."""

    def run(name: str, *arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        command = [SCRIPTS / name, *arguments]
        return hub.run_clean(command, home=tmp_path / "publisher", package=True, check=False, timeout=300, **options)

    return run


def test_a_data_set_is_published_and_loaded_as_the_readme_says(
    hub: Hub, script: Script, run_clean: Script, data_set: Path
) -> None:
    done = script("push_dataset.py", data_set, "lab/wbc", "--revision", "v1.0")
    assert done.returncode == 0, done.stderr
    assert "before: every config loads, streams, and decodes: default 392+28+56" in done.stdout
    assert "after: every config loads as a stream" in done.stdout
    found = run_clean(
        """
import json
from datasets import load_dataset
cells = load_dataset("lab/wbc")
originals = load_dataset("lab/wbc", "originals", revision="v1.0")
stream = next(iter(load_dataset("lab/wbc", split="train", streaming=True)))
print(json.dumps({
    "rows": {split: len(rows) for split, rows in cells.items()}, "originals": len(originals["train"]),
    "names": len(cells["train"].features["label"].names), "size": stream["image"].size,
    "same": stream["image_id"] == cells["train"][0]["image_id"],
}))
"""
    )
    assert json.loads(found.stdout.splitlines()[-1]) == {
        "rows": {"train": 392, "validation": 28, "test": 56},
        "originals": 196,
        "names": 14,
        "size": [48, 48],
        "same": True,
    }
    again = script("push_dataset.py", data_set, "lab/wbc", "--revision", "v1.0")
    assert "unchanged" in again.stdout
    assert len(hub.commits("lab/wbc", "dataset")) == 2


def test_both_variants_of_a_model_are_published_and_loaded_as_their_cards_say(
    hub: Hub, script: Script, run_clean: Script, plain: Trained
) -> None:
    done = script(
        "push_model.py", plain.run, "lab/vit", "--evaluation", plain.evaluation, "--handbuilt", "lab/vit-handbuilt"
    )
    assert done.returncode == 0, done.stderr
    (tag,) = hub.refs("lab/vit-handbuilt").tags
    image = plain.evaluation / json.loads((plain.evaluation / "examples.json").read_text())[0]["file"]
    found = run_clean(
        f"""
from transformers import AutoModelForImageClassification, pipeline
native = pipeline("image-classification", model="lab/vit")({str(image)!r}, top_k=14)
trusted = {{"trust_remote_code": True, "revision": {tag!r}}}
ours = pipeline("image-classification", model="lab/vit-handbuilt", **trusted)({str(image)!r}, top_k=14)
there = {{found["label"]: found["score"] for found in ours}}
assert all(abs(there[found["label"]] - found["score"]) < 1e-4 for found in native), (native, ours)
try:
    AutoModelForImageClassification.from_pretrained("lab/vit-handbuilt")
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise AssertionError("remote code ran without trust")
"""
    )
    assert found.returncode == 0
    assert not [path for path in hub.files("lab/vit") if path.endswith(".py")]
    assert f'revision="{tag}"' in hub.files("lab/vit-handbuilt")["README.md"].decode()
    assert [len(hub.commits(name)) for name in ("lab/vit", "lab/vit-handbuilt")] == [2, 2]


def test_the_page_is_published_with_the_package_it_runs_on(hub: Hub, script: Script, plain: Trained) -> None:
    assert script("push_model.py", plain.run, "lab/vit", "--evaluation", plain.evaluation).returncode == 0
    done = script("push_space.py", "lab/page", "--model", "lab/vit", "--dataset", "lab/wbc")
    assert done.returncode == 0, done.stderr
    assert "after: the app starts and answers" in done.stdout
    files = hub.files("lab/page", "space")
    assert {"app.py", "README.md", "requirements.txt", "celluscan_hf/space/page.css"} <= files.keys()
    assert f'"lab/vit", revision="{hub.commits("lab/vit")[-1].id}"'.encode() in files["app.py"]
    assert not [path for path in files if "__pycache__" in path]
    assert b"transformers" in files["requirements.txt"]


def test_a_page_for_a_model_that_is_not_published_is_refused(hub: Hub, script: Script) -> None:
    done = script("push_space.py", "lab/page", "--model", "lab/nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("error: lab/nothing is no model on the Hub that you can read: publish it first")
    assert ("space", "lab/page") not in hub.repositories


def test_the_metric_is_published_and_loaded(hub: Hub, script: Script, run_clean: Script) -> None:
    done = script("push_metric.py", "lab/wbc_metrics")
    assert done.returncode == 0, done.stderr
    assert "the accuracy of the seed's matrix, 0.8893" in done.stdout
    found = run_clean(
        """
import evaluate
metric = evaluate.load("lab/wbc_metrics")
print(metric.compute(predictions=[0, 1, 1], references=[0, 1, 2], label_names=["a", "b", "c"])["accuracy"])
"""
    )
    assert float(found.stdout.split()[-1]) == pytest.approx(2 / 3)


def test_a_dry_run_shows_files_and_card_and_asks_nobody(hub: Hub, script: Script, plain: Trained) -> None:
    done = script("push_model.py", plain.run, "lab/vit", "--evaluation", plain.evaluation, "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    assert "model.safetensors" in done.stdout
    assert "Not a medical device" in done.stdout
    assert not hub.requests


def test_a_closed_licence_stops_the_push_and_recipe_only_publishes_no_image(
    hub: Hub, script: Script, data_set: Path, tmp_path: Path
) -> None:
    built = Path(shutil.copytree(data_set, tmp_path / "wbc"))
    sources = json.loads((built / "curation/sources.json").read_text())
    sources["synthetic"]["license"] = "unknown"
    (built / "curation/sources.json").write_text(json.dumps(sources))
    done = script("push_dataset.py", built, "lab/wbc")
    assert done.returncode == 2
    assert done.stderr.startswith("error: the licence does not let the images of synthetic (unknown) be published")
    assert ("dataset", "lab/wbc") not in hub.repositories
    done = script("push_dataset.py", built, "lab/wbc", "--recipe-only")
    assert done.returncode == 0, done.stderr
    paths = hub.files("lab/wbc", "dataset")
    assert "curation/rows.csv" in paths
    assert not [path for path in paths if path.endswith((".parquet", ".jpg"))]


def test_nothing_is_uploaded_where_a_row_is_missing(hub: Hub, script: Script, data_set: Path, tmp_path: Path) -> None:
    built = Path(shutil.copytree(data_set, tmp_path / "wbc"))
    card = (built / "README.md").read_text()
    (built / "README.md").write_text(card.replace("num_examples: 28", "num_examples: 29"))
    done = script("push_dataset.py", built, "lab/wbc")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert ("dataset", "lab/wbc") not in hub.repositories


def test_a_model_without_any_image_to_show_is_looked_at_with_a_drawn_cell(
    script: Script, plain: Trained, tmp_path: Path
) -> None:
    evaluation = Path(shutil.copytree(plain.evaluation, tmp_path / "evaluation"))
    (evaluation / "examples.json").write_text("[]")
    done = script("push_model.py", plain.run, "lab/vit", "--evaluation", evaluation, "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    assert "ViTForImageClassification loads" in done.stdout


def test_without_a_token_nothing_is_begun(hub: Hub, script: Script, data_set: Path) -> None:
    done = script("push_dataset.py", data_set, "lab/wbc", token=None)
    assert done.returncode == 2
    assert done.stderr == "error: no token to write to the Hub with: run hf auth login, or set HF_TOKEN\n"
    assert not hub.repositories
