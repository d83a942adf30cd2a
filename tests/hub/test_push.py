"""The publishing scripts, run as a user runs them, and the code in the cards."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from celluscan_hf.hub.model_folder import TrainedModel, Variant, assemble
from celluscan_hf.hub.upload import listing
from tests.hub.conftest import Trained
from tests.hub.loopback import Hub

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
Script = Callable[..., "subprocess.CompletedProcess[str]"]
pytestmark = pytest.mark.slow


@pytest.fixture
def script(hub: Hub, tmp_path: Path) -> Script:
    """Run a script of the project as a user with a token for the loop-back Hub."""

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
    loaded = run_clean(
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
    assert json.loads(loaded.stdout.splitlines()[-1]) == {
        "rows": {"train": 392, "validation": 28, "test": 56},
        "originals": 196,
        "names": 14,
        "size": [48, 48],
        "same": True,
    }


def test_both_variants_of_a_model_are_published_and_loaded_as_their_cards_say(
    hub: Hub, script: Script, run_clean: Script, plain: Trained
) -> None:
    done = script(
        "push_model.py", plain.run, "lab/vit", "--evaluation", plain.evaluation, "--handbuilt", "lab/vit-handbuilt"
    )
    assert done.returncode == 0, done.stderr
    (tag,) = hub.refs("lab/vit-handbuilt").tags
    image = plain.evaluation / json.loads((plain.evaluation / "examples.json").read_text())[0]["file"]
    run_clean(
        f"""
from transformers import AutoModelForImageClassification, pipeline
native = pipeline("image-classification", model="lab/vit")({str(image)!r}, top_k=14)
trusted = {{"trust_remote_code": True, "revision": {tag!r}}}
ours = pipeline("image-classification", model="lab/vit-handbuilt", **trusted)({str(image)!r}, top_k=14)
scores = {{row["label"]: row["score"] for row in ours}}
assert all(abs(scores[row["label"]] - row["score"]) < 1e-4 for row in native), (native, ours)
try:
    AutoModelForImageClassification.from_pretrained("lab/vit-handbuilt")
except ValueError as error:
    assert "trust_remote_code" in str(error)
else:
    raise AssertionError("remote code ran without trust")
"""
    )
    assert not [path for path in hub.files("lab/vit") if path.endswith(".py")]
    assert f'revision="{tag}"' in hub.files("lab/vit-handbuilt")["README.md"].decode()
    assert [len(hub.commits(name)) for name in ("lab/vit", "lab/vit-handbuilt")] == [2, 2]


def test_the_page_is_published_with_the_package_it_runs_on(
    hub: Hub, script: Script, plain: Trained, tmp_path: Path
) -> None:
    variant = Variant("lab/vit", False, None, "lab/wbc", None)
    assemble(TrainedModel(plain.run, plain.evaluation), variant, tmp_path / "model")
    hub.put("lab/vit", {path: file.read_bytes() for path, file in listing(tmp_path / "model")})
    done = script("push_space.py", "lab/page", "--model", "lab/vit")
    assert done.returncode == 0, done.stderr
    assert "after: the app starts and answers" in done.stdout
    files = hub.files("lab/page", "space")
    assert {"app.py", "README.md", "requirements.txt", "celluscan_hf/space/page.css"} <= files.keys()
    assert f'"lab/vit", revision="{hub.commits("lab/vit")[-1].id}"'.encode() in files["app.py"]
    assert not [path for path in files if "__pycache__" in path or path.startswith("celluscan_hf/models/wbc-small")]
    assert b"transformers" in files["requirements.txt"]
    assert all(b"lab/wbc" in files[name] for name in ("app.py", "README.md"))  # as the model's card says


def test_without_a_model_the_page_has_that_of_the_package(hub: Hub, script: Script) -> None:
    done = script("push_space.py", "lab/page")
    assert done.returncode == 0, done.stderr
    assert "after: the app starts and answers" in done.stdout
    files = hub.files("lab/page", "space")
    assert "celluscan_hf/models/wbc-small/model.safetensors" in files
    assert b"page = page_of(dataset=None)" in files["app.py"]
    assert b"`wbc-small`" in files["README.md"]


def test_the_metric_is_published_and_loaded(script: Script) -> None:
    done = script("push_metric.py", "lab/wbc_metrics")
    assert done.returncode == 0, done.stderr
    assert "after: evaluate.load gives the accuracy of the original project's confusion matrix, 0.8893" in done.stdout


def test_a_dry_run_without_example_images_shows_files_and_card_and_asks_nobody(
    hub: Hub, script: Script, plain: Trained, tmp_path: Path
) -> None:
    evaluation = Path(shutil.copytree(plain.evaluation, tmp_path / "evaluation"))
    (evaluation / "examples.json").write_text("[]")
    done = script("push_model.py", plain.run, "lab/vit", "--evaluation", evaluation, "--dry-run", token=None)
    assert done.returncode == 0, done.stderr
    assert "ViTForImageClassification loads" in done.stdout
    assert "model.safetensors" in done.stdout
    assert "Not a medical device" in done.stdout
    assert not hub.requests
