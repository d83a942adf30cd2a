"""A checkpoint is loaded as a trained classifier, or one line says what is wrong with it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import (
    BertConfig,
    BertModel,
    LlavaImageProcessor,
    PreTrainedModel,
    ViTForImageClassification,
    ViTImageProcessor,
)

from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
from celluscan_hf.modeling.processor import build_image_processor

Build = Callable[..., PreTrainedModel]


def change_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def check_error(folder: Path | str, message: str) -> None:
    with pytest.raises(CelluScanError, match=message) as caught:
        load_classifier(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_loads_the_hand_built_model_without_trusting_remote_code(checkpoint: Path) -> None:
    model, processor = load_classifier(checkpoint)
    assert type(model) is CelluScanForImageClassification
    assert not model.training
    assert list(processor.image_mean) == [0.8, 0.7, 0.75]


def test_loads_a_native_vit(tmp_path: Path, build_model: Build, processor: LlavaImageProcessor) -> None:
    build_model("native").save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert type(load_classifier(tmp_path)[0]) is ViTForImageClassification


@pytest.mark.parametrize("path", ["a/b/c", "./missing"])
def test_a_missing_folder(path: str) -> None:
    check_error(path, "does not exist")


def test_a_name_that_is_neither_here_nor_can_be_asked_for() -> None:
    check_error("out/run", "is not a folder here, and the Hub could not be reached")


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    check_error(file, "is a file; expected a checkpoint folder")


def test_a_folder_without_config(tmp_path: Path) -> None:
    check_error(tmp_path, "has no config.json")


def test_a_configuration_that_is_not_json(checkpoint: Path) -> None:
    for file in ("preprocessor_config.json", "config.json"):
        for content in (b"{", b"\xff\xfe\x00"):
            (checkpoint / file).write_bytes(content)
            check_error(checkpoint, "not valid JSON|is damaged")


def test_a_config_with_a_value_of_the_wrong_type(checkpoint: Path) -> None:
    change_config(checkpoint, hidden_size="wide")
    check_error(checkpoint, "is damaged: .*hidden_size")


def test_no_image_processor(checkpoint: Path) -> None:
    (checkpoint / "preprocessor_config.json").unlink()
    check_error(checkpoint, "has no preprocessor_config.json")


def test_not_an_image_classification_model(tmp_path: Path) -> None:
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    ).save_pretrained(tmp_path)
    check_error(tmp_path, "is not an image classification model")


def test_an_unknown_model_type(checkpoint: Path) -> None:
    change_config(checkpoint, model_type="from_the_future", auto_map={})
    check_error(checkpoint, "does not know")


@pytest.mark.parametrize("kind", ["linear", "native"])
def test_a_model_without_its_classifier_is_not_loaded_with_a_random_one(
    kind: str, tmp_path: Path, build_model: Build, processor: LlavaImageProcessor
) -> None:
    build_model(kind).base_model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    check_error(tmp_path, "is not a trained classifier: it lacks classifier")


def test_damaged_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"nonsense" * 9)
    check_error(checkpoint, "is damaged")


def test_a_pickle_is_not_read(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    check_error(checkpoint, "has no model.safetensors")


def test_weights_that_do_not_fit_the_config(checkpoint: Path) -> None:
    change_config(checkpoint, intermediate_size=128)
    check_error(checkpoint, "weights of other sizes")


@pytest.mark.parametrize(
    ("size", "channels", "message"),
    [
        (48, 3, "makes images of 3 x 48 x 48, its model expects 3 x 32 x 32"),
        (32, 1, "makes images of 3 x 32 x 32, its model expects 1 x 32 x 32"),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "native"])
def test_a_processor_whose_images_the_model_does_not_accept(
    kind: str, size: int, channels: int, message: str, tmp_path: Path, build_model: Build
) -> None:
    build_model(kind, num_channels=channels).save_pretrained(tmp_path)
    build_image_processor(size, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15)).save_pretrained(tmp_path)
    check_error(tmp_path, message)


def test_a_processor_with_a_centre_crop(checkpoint: Path) -> None:
    build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15), resized=50).save_pretrained(checkpoint)
    load_classifier(checkpoint)


def test_a_native_vit_for_oblong_images(tmp_path: Path, build_model: Build) -> None:
    build_model("native", image_size=[16, 64]).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 16, "width": 64}).save_pretrained(tmp_path)
    load_classifier(tmp_path)


def make_foreign(folder: Path) -> None:
    """The checkpoint of somebody else's model: same code, but of a kind that is registered nowhere."""
    change_config(folder, model_type="foreign_vit")
    code = folder / "configuration_celluscan.py"
    code.write_text(code.read_text().replace('"celluscan_vit"', '"foreign_vit"'))


def test_remote_code_is_not_run_unless_trusted(checkpoint: Path) -> None:
    make_foreign(checkpoint)
    witness = checkpoint / "witness"
    with (checkpoint / "configuration_celluscan.py").open("a") as code:
        code.write(f"\nopen({str(witness)!r}, 'w')\n")
    check_error(checkpoint, "--trust-remote-code")
    assert not witness.exists()


def test_remote_code_is_run_when_trusted(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    make_foreign(checkpoint)
    model, _ = load_classifier(checkpoint, trust_remote_code=True)
    assert model.config.model_type == "foreign_vit"


def test_a_bug_is_not_taken_for_a_bad_checkpoint(checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="nonsense"):
        load_classifier(checkpoint, attn_implementation="nonsense")
