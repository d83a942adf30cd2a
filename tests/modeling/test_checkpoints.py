"""Weights from folders, files, torchvision and the Hub; errors say what was expected and what to do."""

import json
import shutil
import urllib.error
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.version import Version
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from torchvision.models import vit_b_16
from transformers import ViTImageProcessor, ViTModel

from celluscan_hf.modeling import checkpoints
from celluscan_hf.modeling.checkpoints import read_checkpoint, start_model
from celluscan_hf.modeling.exporting import to_timm, to_torchvision, to_transformers
from celluscan_hf.modeling.key_mapping import HALF, IMAGENET_MEAN, IMAGENET_STD, WeightsError

from .conftest import TINY, tiny_model

NEEDS_TIMM = pytest.mark.skipif(find_spec("timm") is None, reason="the extra timm is not installed")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD_HUB = pytest.mark.xfail(
    Version(version("huggingface_hub")) < Version("2"), strict=True, reason="it wants a listing"
)
LABELS = {0: "a", 1: "b", 2: "c"}


@pytest.fixture
def native(tmp_path) -> Path:
    """A folder with the library's own ViT."""
    to_transformers(tiny_model()).save_pretrained(tmp_path / "native")
    return tmp_path / "native"


def same_weights(checkpoint: Any, model: Any) -> None:
    assert_close(checkpoint.build().state_dict(), model.state_dict(), rtol=0, atol=0)


def refusal(source: str | Path, **options: Any) -> str:
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(source, **options)
    return str(caught.value)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "20KB"}], ids=["one file", "shards"])
def test_a_folder_of_transformers_is_read(shards, tmp_path):
    ours = tiny_model(layer_norm_eps=1e-2, hidden_dropout_prob=0.3)
    to_transformers(ours).save_pretrained(tmp_path, **shards)
    assert (tmp_path / "model.safetensors.index.json").is_file() == bool(shards)
    checkpoint = read_checkpoint(tmp_path)
    same_weights(checkpoint, ours)
    assert checkpoint.config.layer_norm_eps == 1e-2
    assert checkpoint.config.hidden_dropout_prob == 0.3
    assert checkpoint.config.num_attention_heads == 4
    assert checkpoint.config.id2label == ours.config.id2label


def test_a_folder_without_a_head_has_none_and_brings_no_labels(tmp_path):
    ViTModel(to_transformers(tiny_model(num_labels=3)).config).save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert not [name for name in checkpoint.weights if name.startswith("classifier.")]
    assert checkpoint.ignored_keys == ("pooler.dense.weight", "pooler.dense.bias")
    assert checkpoint.config.num_labels == 14


def test_mean_and_std_of_a_folder_are_read(native):
    ViTImageProcessor(image_mean=[0.7, 0.6, 0.5], image_std=[0.1, 0.2, 0.3]).save_pretrained(native)
    checkpoint = read_checkpoint(native)
    assert (checkpoint.image_mean, checkpoint.image_std) == ((0.7, 0.6, 0.5), (0.1, 0.2, 0.3))


def test_a_folder_of_transformers_without_a_processor_uses_a_half_and_logs_it(native, caplog):
    assert (read_checkpoint(native).image_mean, read_checkpoint(native).image_std) == (HALF, HALF)
    assert "preprocessor_config.json is missing" in caplog.text


@NEEDS_TIMM
def test_a_folder_of_timm_is_read(tmp_path):
    from timm.models import save_for_hf

    ours = tiny_model(pooling="mean")
    described = {"label_names": list("abcdefghijklmn"), "pretrained_cfg": {"mean": (0.7, 0.6, 0.5)}}
    save_for_hf(to_timm(ours), str(tmp_path), model_config=described, safe_serialization=True)
    checkpoint = read_checkpoint(tmp_path)
    same_weights(checkpoint, ours)
    assert (checkpoint.config.pooling, checkpoint.config.num_attention_heads) == ("mean", 4)
    assert checkpoint.image_mean == (0.7, 0.6, 0.5)
    assert checkpoint.config.id2label == dict(enumerate("abcdefghijklmn"))
    edit(tmp_path / "config.json", global_pool="max")
    assert "max" in refusal(tmp_path)


@pytest.mark.parametrize("part", ["whole", "vit"])
def test_our_folder_is_read_with_a_head_or_without(part, tmp_path):
    ours = tiny_model(pooling="mean", patch_stem="convolution")
    (ours if part == "whole" else ours.vit).save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path)
    assert_close(checkpoint.build().vit.state_dict(), ours.vit.state_dict(), rtol=0, atol=0)
    assert ("classifier.linear.weight" in checkpoint.weights) == (part == "whole")
    assert (checkpoint.image_mean, checkpoint.image_std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_file_of_plain_tensors_is_read(name, tmp_path):
    weights = to_torchvision(tiny_model()).state_dict()
    save_file(weights, tmp_path / name) if name.endswith("safetensors") else torch.save(weights, tmp_path / name)
    checkpoint = read_checkpoint(tmp_path / name, num_attention_heads=4)
    same_weights(checkpoint, tiny_model())
    assert (checkpoint.image_mean, checkpoint.image_std) == (IMAGENET_MEAN, IMAGENET_STD)


@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors"])
def test_a_processor_beside_a_file_is_read_and_logged(name, tmp_path, caplog):
    weights = to_torchvision(tiny_model()).state_dict()
    save_file(weights, tmp_path / name) if name.endswith("safetensors") else torch.save(weights, tmp_path / name)
    ViTImageProcessor(image_mean=[0.7, 0.6, 0.5], image_std=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    checkpoint = read_checkpoint(tmp_path / name, num_attention_heads=4)
    assert (checkpoint.image_mean, checkpoint.image_std) == ((0.7, 0.6, 0.5), (0.1, 0.2, 0.3))
    assert f"image mean and std are read from {tmp_path / 'preprocessor_config.json'}" in caplog.text


@pytest.mark.parametrize("shards", [1, 2])
def test_a_folder_with_files_of_torch_save_is_read(shards, native):
    weights = load_file(native / "model.safetensors")
    (native / "model.safetensors").unlink()
    names = ["pytorch_model.bin"] if shards == 1 else [f"pytorch_model-0000{index}-of-00002.bin" for index in (1, 2)]
    places = {name: names[index % shards] for index, name in enumerate(weights)}
    for name in names:
        torch.save({key: weights[key] for key, place in places.items() if place == name}, native / name)
    if shards == 2:
        (native / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    same_weights(read_checkpoint(native), tiny_model())


def test_a_folder_without_weights_of_a_known_name_says_what_it_has(native):
    (native / "model.safetensors").rename(native / "last.ckpt")
    error = refusal(native)
    assert "expected one of model.safetensors, " in error
    assert "got: config.json, last.ckpt" in error
    (native / "model.safetensors.index.json").write_text("{}")
    assert "model.safetensors.index.json: expected weight_map" in refusal(native)


def test_a_cut_file_is_refused(native):
    content = (native / "model.safetensors").read_bytes()
    (native / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "not a complete safetensors file" in refusal(native)


def test_a_missing_shard_is_named(tmp_path):
    to_transformers(tiny_model()).save_pretrained(tmp_path, max_shard_size="20KB")
    shard = next(tmp_path.glob("model-00002-*"))
    shard.unlink()
    assert shard.name in refusal(tmp_path)


def test_a_missing_broken_or_foreign_config_is_named(native):
    edit(native / "config.json", model_type="swin")
    assert "got 'swin'" in refusal(native)
    for content in ("{", "[]", "\udcff"):
        (native / "config.json").write_text(content, errors="surrogateescape")
        assert str(native / "config.json") in refusal(native)
    (native / "config.json").unlink()
    assert str(native / "config.json") in refusal(native)


@pytest.mark.parametrize(
    "described",
    [{"image_mean": None}, {"image_mean": [128, 128, 128]}, {"image_std": [0, 1, 1]}, {"do_rescale": False}],
    ids=str,
)
def test_an_invalid_normalisation_is_named(described, native):
    valid = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    (native / "preprocessor_config.json").write_text(json.dumps(valid | described))
    assert next(iter(described)) in refusal(native)


def test_without_normalising_mean_is_zero_and_std_one(native):
    (native / "preprocessor_config.json").write_text(json.dumps({"do_normalize": False, "image_mean": [0.5] * 3}))
    checkpoint = read_checkpoint(native)
    assert (checkpoint.image_mean, checkpoint.image_std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("start", ["scratch", "folder"])
def test_a_field_that_does_not_exist_is_named(start, native):
    with pytest.raises(WeightsError, match=r"no field drop_path; it has .*drop_path_rate"):
        start_model(str(native) if start == "folder" else start, LABELS, drop_path=0.3)


def test_our_own_bare_file_asks_for_the_folder(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert "give its folder" in refusal(tmp_path / "model.safetensors")


def test_a_tensor_too_few_or_too_many_in_our_folder_is_named(tmp_path):
    ours = tiny_model()
    ours.save_pretrained(tmp_path)
    weights = ours.state_dict()
    save_file(weights | {"vit.gate": torch.zeros(1)}, tmp_path / "model.safetensors")
    assert "vit.gate" in refusal(tmp_path)
    del weights["vit.layers.1.mlp.fc2.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    assert "vit.layers.1.mlp.fc2.bias" in refusal(tmp_path)


@pytest.fixture
def published() -> dict[str, torch.Tensor]:
    """What torchvision would fetch for vit_b_16: its shapes by the names of its files; one number fills each tensor."""
    with torch.device("meta"):
        weights = {name: tensor.shape for name, tensor in vit_b_16().state_dict().items()}
    for old, new in {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}.items():
        weights = {name.replace(old, new): shape for name, shape in weights.items()}
    return {name: torch.full((), 0.01).expand(shape) for name, shape in weights.items()}


@pytest.fixture
def download(monkeypatch, tmp_path) -> Callable[[Any], list[str]]:
    """Stands in for the network: every download gives this file, or raises. The URLs that were asked for."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    requested: list[str] = []

    def stand_in(answer: Any) -> list[str]:
        def fetch(url: str, target: str, *arguments: Any, **options: Any) -> None:
            requested.append(url)
            if isinstance(answer, Exception):
                raise answer
            torch.save(answer, target)

        monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
        return requested

    return stand_in


def test_weights_of_torchvision_come_through_its_own_loader(published, download):
    requested = download(published)
    checkpoint = read_checkpoint("torchvision:vit_b_16")
    assert requested == ["https://download.pytorch.org/models/vit_b_16-c867db91.pth"]
    assert (checkpoint.image_mean, checkpoint.image_std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert (checkpoint.config.num_attention_heads, checkpoint.config.layer_norm_eps) == (12, 1e-6)
    assert checkpoint.config.id2label[0] == "tench"
    assert len(checkpoint.config.id2label) == 1000
    assert checkpoint.weights["vit.layers.11.mlp.fc2.weight"].shape == (768, 3072)


def test_without_network_the_address_and_the_path_of_the_file_are_named(download, tmp_path):
    download(urllib.error.URLError("no route to host"))
    error = refusal("torchvision:vit_b_16")
    assert "no route to host" in error
    assert "download https://download.pytorch.org/models/vit_b_16-c867db91.pth" in error
    assert f"put it at {tmp_path / 'hub' / 'checkpoints' / 'vit_b_16-c867db91.pth'}" in error


def test_a_cut_download_of_torchvision_is_named(download, tmp_path):
    download(urllib.error.URLError("unused"))
    cached = tmp_path / "hub" / "checkpoints" / "vit_b_16-c867db91.pth"
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cut")
    assert cached.name in refusal("torchvision:vit_b_16")


def test_an_unknown_name_of_torchvision_lists_the_known_ones():
    assert "vit_b_16, vit_b_32, vit_h_14, vit_l_16, vit_l_32" in refusal("torchvision:vit_b_8")


def test_a_hub_repository_that_is_not_cached_names_the_files_to_download(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    error = refusal("someone/vit")
    for part in ("config.json", "model.safetensors", "preprocessor_config.json", "huggingface.co/someone/vit"):
        assert part in error


@pytest.mark.parametrize("revision", ["v2", pytest.param(COMMIT, marks=OLD_HUB)])
def test_a_hub_repository_in_the_cache_is_read_offline(revision, native, monkeypatch, tmp_path):
    repository = tmp_path / "cache" / "models--someone--vit"
    shutil.copytree(native, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    same_weights(read_checkpoint("someone/vit", revision=revision), tiny_model())


def test_a_revision_is_requested_from_the_hub_and_no_pickle_is_downloaded(native, monkeypatch):
    requested: dict[str, Any] = {}

    def fetch(repository: str, **options: Any) -> str:
        requested.update(options, repository=repository)
        return str(native)

    monkeypatch.setattr(checkpoints, "snapshot_download", fetch)
    same_weights(read_checkpoint("someone/vit", revision="v2"), tiny_model())
    assert (requested["repository"], requested["revision"]) == ("someone/vit", "v2")
    assert not [pattern for pattern in requested["allow_patterns"] if not pattern.endswith((".json", ".safetensors"))]


def test_a_source_that_does_not_exist_is_refused():
    for source in ("nothing", "", "some/where/else", "some where/else", "no/file.safetensors"):
        refusal(source)


def test_from_scratch_a_model_has_the_requested_sizes_and_labels():
    model = start_model("scratch", LABELS, **TINY, hidden_dropout_prob=0.3)
    assert model.config.id2label == LABELS
    assert (model.config.hidden_size, model.config.hidden_dropout_prob) == (32, 0.3)
    assert model.num_parameters() < 30_000


def test_a_start_from_weights_takes_the_fields_of_the_training(native):
    model = start_model(str(native), LABELS, hidden_dropout_prob=0.3, drop_path_rate=0.1)
    assert (model.config.hidden_dropout_prob, model.config.drop_path_rate) == (0.3, 0.1)
    assert model.vit.embeddings.dropout.p == 0.3
    assert model.vit.layers[1].drop_path.probability == 0.1
    assert model.config.id2label == LABELS
    assert_close(model.vit.state_dict(), tiny_model().vit.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("field", "tensor"),
    [
        ({"hidden_size": 64}, "cls_token"),
        ({"num_hidden_layers": 3}, "layers.2"),
        ({"patch_stem": "convolution"}, "projection"),
    ],
    ids=str,
)
def test_a_field_that_needs_another_shape_is_refused(field, tensor, native):
    with pytest.raises(WeightsError, match=tensor):
        start_model(str(native), LABELS, **field)
