"""A loop-back Hub for each test, and clients in clean processes."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import yaml

from celluscan_hf.evaluation.job import EvaluationSettings, evaluate
from celluscan_hf.training.recipes import stages
from celluscan_hf.training.run import train
from tests.hub.loopback import Hub


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A new Hub; the test fails if a client made an unknown call or contacted another machine."""
    with Hub() as started:
        yield started
    assert not started.complaints(), "\n".join(started.complaints())


@pytest.fixture
def run_clean(hub: Hub, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """`hub.run_clean` in a home folder of the test."""
    return partial(hub.run_clean, home=tmp_path / "client")


@pytest.fixture
def connected(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process a client of the Hub with write access."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    places = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", places)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between a client's retries


@dataclass(frozen=True)
class Trained:
    """The folders of a training run and of the evaluation of its model on the test split."""

    run: Path
    evaluation: Path


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, data_set: Path) -> Trained:
    """A tiny plain ViT after two steps."""
    return train_and_evaluate(tmp_path_factory.mktemp("plain"), data_set, patch_stem="linear")


@pytest.fixture(scope="session")
def convolution(tmp_path_factory: pytest.TempPathFactory, data_set: Path) -> Trained:
    """A tiny hand-built ViT that the library's ViT does not support, and that looks at its pictures four times."""
    fields = {"patch_stem": "convolution", "views": 2, "crops": [1.0, 0.8]}
    return train_and_evaluate(tmp_path_factory.mktemp("convolution"), data_set, **fields)


def train_and_evaluate(folder: Path, data_set: Path, **fields: object) -> Trained:
    recipe = folder / "tiny.yaml"
    model = {"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    settings = {"start": "scratch", "model": model | {"intermediate_size": 64} | fields, "use_cpu": True}
    settings |= {"max_steps": 2, "dataloader_num_workers": 0, "disable_tqdm": True, "crop_pct": 0.8}
    recipe.write_text(yaml.safe_dump(settings))
    done = Trained(folder / "run", folder / "evaluation")
    train(str(recipe), stages(str(recipe), ["--dataset", str(data_set), "--output_dir", str(done.run)]))
    evaluate(EvaluationSettings(str(done.run), done.evaluation, str(data_set), device="cpu", resamples=20))
    return done
