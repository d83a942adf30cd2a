"""A dataset on the Hub as a source of a build, downloaded by the real client."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import Selection, open_source

from .loopback import Hub

PROJECT = Path(__file__).resolve().parents[2]
CARD = """---
license: mit
configs:
- config_name: small
  default: true
  data_files:
  - split: train
    path: small/train-*
- config_name: large
  data_files: large/*.parquet
---
# Cells
"""


@pytest.fixture
def cells(tmp_path, write_image):
    """Return the bytes of a parquet file of `count` cells."""

    def make(count, first=0):
        images = [write_image(tmp_path / "drawn" / f"{n}.png", n).read_bytes() for n in range(first, first + count)]
        features = Features(image=Image(), label=ClassLabel(names=["basophil", "monocyte"]), patient=Value("string"))
        rows = {
            "image": [{"bytes": data, "path": f"{first + n}.png"} for n, data in enumerate(images)],
            "label": [n % 2 for n in range(count)],
            "patient": [f"p{n}" for n in range(count)],
        }
        Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "cells.parquet")
        return (tmp_path / "cells.parquet").read_bytes()

    return make


@pytest.fixture
def published(hub: Hub, cells) -> Hub:
    hub.put("lab/cells", {
        "README.md": CARD, "small/train-00000-of-00001.parquet": cells(4), "large/all.parquet": cells(6, first=50),
        "other.bin": b"x",
    }, "dataset")  # fmt: skip
    return hub


def opened(value, tmp_path, **selection):
    selections = {"hf_dataset": Selection(**selection)}
    return open_source(f"hf_dataset={value}", tmp_path / "scratch", 0, selections=selections)


@pytest.mark.usefixtures("connected")
def test_the_default_config_alone_is_fetched(published, tmp_path):
    source = opened("lab/cells", tmp_path)
    records = list(source.records())
    assert [record.image_id for record in records] == [f"hf_dataset/train/{n}.png" for n in range(4)]
    assert source.read(records[3]) == (tmp_path / "drawn" / "3.png").read_bytes()
    assert (source.license, source.info.url) == ("MIT", "https://huggingface.co/datasets/lab/cells")
    fetched = {request.path.rpartition("/")[2] for request in published.requests if "/resolve/" in request.path}
    assert fetched == {"README.md", "train-00000-of-00001.parquet"}


@pytest.mark.usefixtures("connected", "published")
def test_another_config_is_fetched_on_request(tmp_path):
    assert len(list(opened("lab/cells", tmp_path, config="large").records())) == 6
    with pytest.raises(CelluScanError, match="source hf_dataset: lab/cells has the configs small, large"):
        opened("lab/cells", tmp_path, config="huge")


@pytest.mark.usefixtures("connected")
def test_a_revision_keeps_its_content(published, cells, tmp_path):
    before = published.commits("lab/cells", "dataset")[-1]
    published.put("lab/cells", {"small/train-00000-of-00001.parquet": cells(2)}, "dataset")
    assert len(list(opened(f"lab/cells@{before.id}", tmp_path).records())) == 4
    assert len(list(opened("lab/cells", tmp_path).records())) == 2


@pytest.mark.usefixtures("connected")
def test_a_data_set_of_another_format_is_answered_with_the_converted_one(hub, tmp_path):
    hub.put("lab/images", {"README.md": "# Cells", "Basophil/1.png": b"x"}, "dataset")
    with pytest.raises(CelluScanError, match=r"lab/images holds no parquet files; try lab/images@refs/convert/parquet"):
        opened("lab/images", tmp_path)


@pytest.mark.usefixtures("connected", "hub")
def test_a_name_that_the_hub_does_not_know_is_one_line(tmp_path):
    with pytest.raises(CelluScanError, match="lab/none does not exist here, and is not a dataset on the Hub") as error:
        opened("lab/none", tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("published")
def test_the_command_builds_from_a_name(run_clean, tmp_path):
    options = ["--group-column=patient", "--dataset-config=lab=large", "--image-size=48", "--target-per-class=0"]
    arguments = ["--source=hf_dataset:lab=lab/cells", f"--output={tmp_path / 'wbc'}", "--num-proc=1", *options]
    code = f"""
import runpy, sys
sys.path.insert(0, {str(PROJECT)!r})
sys.argv = {["build_dataset.py", *arguments]!r}
runpy.run_path({str(PROJECT / "scripts" / "build_dataset.py")!r}, run_name="__main__")
"""
    done = run_clean(code, package=True)
    assert "6 files or boxes seen = 6 rows + 0 dropped" in done.stdout
    assert "the column patient" in done.stdout
