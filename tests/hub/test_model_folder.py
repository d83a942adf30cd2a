"""The folder of a model repository: its files, its pinned revision, and no path of this machine."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from celluscan_hf import modeling
from celluscan_hf.adaptation.adapt import adapt
from celluscan_hf.adaptation.settings import AdaptationSettings
from celluscan_hf.errors import CelluScanError
from celluscan_hf.evaluation.job import EvaluationSettings, evaluate
from celluscan_hf.hub.model_folder import RESULTS, TrainedModel, Variant, assemble, public
from celluscan_hf.hub.upload import listing
from tests.hub.conftest import Trained

CODE = {path.name for path in Path(modeling.__file__).parent.glob("*_celluscan.py")}

NATIVE = Variant("lab/vit", False, "lab/vit-handbuilt", "lab/cells", None)
HAND_BUILT = Variant("lab/vit-handbuilt", True, "lab/vit", "lab/cells", None)


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def copy(plain: Trained, tmp_path: Path) -> TrainedModel:
    """A run and its evaluation, to change."""
    run, evaluation = tmp_path / "run", tmp_path / "evaluation"
    shutil.copytree(plain.run, run)
    shutil.copytree(plain.evaluation, evaluation)
    return TrainedModel(run, evaluation)


def test_the_native_folder_holds_all_that_a_repository_should_and_no_code(plain: Trained, tmp_path: Path) -> None:
    assert assemble(TrainedModel(plain.run, plain.evaluation), NATIVE, tmp_path / "folder") is None
    paths = {path for path, _ in listing(tmp_path / "folder")}
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "metrics.json", RESULTS}
    wanted |= {"reliability.json", "reliability.safetensors", "calibration.png"}
    assert wanted | {"confusion_matrix.png", "settings.json", "training.json", "curves.png"} <= paths
    assert not [path for path in paths if path.endswith((".py", ".bin", ".pt", ".pkl"))]
    assert json.loads((tmp_path / "folder/config.json").read_text())["model_type"] == "vit"


def test_the_hand_built_folder_has_its_python_files_and_pins_its_content(plain: Trained, tmp_path: Path) -> None:
    trained = TrainedModel(plain.run, plain.evaluation)
    tag = assemble(trained, HAND_BUILT, tmp_path / "folder")
    assert {path for path, _ in listing(tmp_path / "folder") if path.endswith(".py")} == {
        path.name for path in Path(modeling.__file__).parent.glob("*_celluscan.py")
    }
    assert f'revision="{tag}"' in (tmp_path / "folder/README.md").read_text()
    assert assemble(trained, HAND_BUILT, tmp_path / "again") == tag


def test_the_folder_of_the_package_has_neither_code_nor_images_of_cells(plain: Trained, tmp_path: Path) -> None:
    variant = Variant("wbc-small", True, None, None, None, packaged=True)
    assert assemble(TrainedModel(plain.run, plain.evaluation), variant, tmp_path / "folder") is None
    paths = {path for path, _ in listing(tmp_path / "folder")}
    assert {"model.safetensors", "reliability.json", "README.md", "metrics.json", "settings.json"} <= paths
    assert not [path for path in paths if path.endswith(".py") or "/" in path or path == "examples.json"]
    card = (tmp_path / "folder" / "README.md").read_text()
    assert "model=default_model()" in card
    assert "celluscan evaluate --dataset" in card
    assert "trust_remote_code=True" not in card
    assert "huggingface.co/wbc-small" not in card
    assert "examples/" not in card


def test_an_evaluation_with_other_views_is_not_published(copy: TrainedModel) -> None:
    metrics = json.loads((copy.evaluation / "metrics.json").read_text())
    edit(copy.evaluation / "metrics.json", model=metrics["model"] | {"views": 8})
    with pytest.raises(CelluScanError, match="evaluates the model with 8 views, its config has 1"):
        TrainedModel(copy.run, copy.evaluation)


def test_a_given_revision_is_pinned_instead(plain: Trained, tmp_path: Path) -> None:
    variant = Variant("lab/vit-handbuilt", True, None, "lab/cells", "v1.0")
    assert assemble(TrainedModel(plain.run, plain.evaluation), variant, tmp_path / "folder") == "v1.0"
    assert 'revision="v1.0"' in (tmp_path / "folder/README.md").read_text()


def test_the_pin_changes_with_the_record_with_a_file_and_with_the_card(copy: TrainedModel, tmp_path: Path) -> None:
    before = assemble(copy, HAND_BUILT, tmp_path / "before")
    alone = assemble(copy, replace(HAND_BUILT, counterpart=None), tmp_path / "alone")  # changes only the card
    (copy.run / "curves.png").write_bytes(b"other")
    redrawn = assemble(copy, HAND_BUILT, tmp_path / "redrawn")
    edit(copy.run / "training.json", seconds=1234.5)
    slower = assemble(TrainedModel(copy.run, copy.evaluation), HAND_BUILT, tmp_path / "slower")
    assert len({before, alone, redrawn, slower}) == 4


def test_the_same_run_gives_the_same_files_and_a_valid_card(plain: Trained, tmp_path: Path) -> None:
    trained = TrainedModel(plain.run, plain.evaluation)
    for variant in (NATIVE, HAND_BUILT):
        first, again = (tmp_path / name / variant.repository for name in ("first", "again"))
        for folder in (first, again):
            assemble(trained, variant, folder)
        contents = [{path: file.read_bytes() for path, file in listing(folder)} for folder in (first, again)]
        assert contents[0] == contents[1]
        card = ModelCard.load(first / "README.md")
        assert card.data.license == "mit"
        assert card.data.datasets in ("lab/cells", ["lab/cells"])
        assert variant.repository in card.text


def test_a_model_that_is_not_a_plain_vit_is_refused_as_one_with_advice(convolution: Trained, tmp_path: Path) -> None:
    trained = TrainedModel(convolution.run, convolution.evaluation)
    with pytest.raises(CelluScanError, match=r"lab/vit, which needs transformers alone .*patch_stem.*--handbuilt"):
        assemble(trained, NATIVE, tmp_path / "folder")
    assemble(trained, Variant("lab/vit-handbuilt", True, None, "lab/cells", None), tmp_path / "handbuilt")


def test_the_evaluation_of_another_model_is_refused(plain: Trained, convolution: Trained) -> None:
    with pytest.raises(CelluScanError, match=r"other weights .*calibrated or trained again.*celluscan evaluate on"):
        TrainedModel(plain.run, convolution.evaluation)


def test_an_evaluation_with_another_crop_is_refused(copy: TrainedModel) -> None:
    processor = copy.run / "preprocessor_config.json"
    edit(processor, size={"height": 64, "width": 64})
    with pytest.raises(CelluScanError, match=r"preprocessed images differently from .*celluscan evaluate on this run"):
        TrainedModel(copy.run, copy.evaluation)


def test_an_evaluation_of_validation_is_refused(copy: TrainedModel) -> None:
    edit(copy.evaluation / "metrics.json", data=copy.metrics["data"] | {"split": "validation"})
    with pytest.raises(CelluScanError, match="evaluates the validation split: cards report results on the test split"):
        TrainedModel(copy.run, copy.evaluation)


@pytest.mark.parametrize(("folder", "name"), [("run", "training.json"), ("evaluation", "metrics.json")])
def test_an_unfinished_folder_is_refused_by_the_file_it_lacks(copy: TrainedModel, folder: str, name: str) -> None:
    (getattr(copy, folder) / name).unlink()
    with pytest.raises(CelluScanError, match=f"has no {name}: expected a finished folder of celluscan "):
        TrainedModel(copy.run, copy.evaluation)


def test_no_path_of_the_machine_is_published(copy: TrainedModel, plain: Trained, tmp_path: Path) -> None:
    edit(copy.run / "settings.json", settings=copy.settings["settings"] | {"deepspeed": "/home/someone/zero.json"})
    assemble(TrainedModel(copy.run, copy.evaluation), HAND_BUILT, tmp_path / "folder")
    for path, file in listing(tmp_path / "folder"):
        if path.endswith((".json", ".md", ".yaml", ".py")):
            text = file.read_text()
            assert str(plain.run.parent) not in text, path
            assert "/home/someone" not in text, path


@pytest.mark.parametrize(
    ("name", "local", "dataset"), [("lab/cells", False, "lab/cells"), ("out/mine", True, None), ("cells", False, None)]
)
def test_the_dataset_is_that_of_the_run_if_it_came_from_the_hub(
    copy: TrainedModel, name: str, local: bool, dataset: str | None
) -> None:
    assert copy.settings["data"]["local"]
    assert copy.dataset is None
    edit(copy.run / "settings.json", data=copy.settings["data"] | {"name": name, "local": local})
    assert TrainedModel(copy.run, copy.evaluation).dataset == dataset


def test_a_folder_that_is_not_published_is_named_without_its_path(copy: TrainedModel) -> None:
    command = f"celluscan evaluate --dataset {copy.data}"
    assert (
        public(command, copy, replace(NATIVE, dataset=None)) == f"celluscan evaluate --dataset {Path(copy.data).name}"
    )


def test_records_name_the_hub_and_keep_what_is_no_path(copy: TrainedModel) -> None:
    record = {
        "data": copy.settings["data"]["name"],
        "command": f"celluscan evaluate --model {copy.run} --output /somewhere/else/evaluation",
        "url": "https://huggingface.co/lab/cells",
        "share": "1/2",
        "output_dir": "out/run",
    }
    assert public(record, copy, NATIVE) == {
        "data": "lab/cells",
        "command": "celluscan evaluate --model lab/vit --output evaluation",
        "url": "https://huggingface.co/lab/cells",
        "share": "1/2",
    }


def test_of_a_path_only_its_last_name_is_published(copy: TrainedModel) -> None:
    for text, published in (
        ("/home/alice/data/", "data"),
        ("/home/alice smith/weights", "weights"),
        ("~alice/runs/x", "x"),
        ("../../alice/x", "x"),
        ("file:///home/alice/w", "w"),
        (r"C:\Users\alice\w", "w"),
        ("imagefolder:mine=/home/alice/cells", "imagefolder:mine=cells"),
        ("--model '/home/alice smith/run/' --output /tmp/alice/eval/", "--model 'run' --output eval"),
        ("google/vit-base", "google/vit-base"),
        ("https://doi.org/10.1/x", "https://doi.org/10.1/x"),
        ("out/other 1/2", "out/other 1/2"),
    ):
        assert public({"start": text}, copy, NATIVE) == {"start": published}


def test_the_card_of_an_adapted_model_tells_what_it_was_adapted_to(
    convolution: Trained, data_set: Path, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number in range(8):
        write_image(tmp_path / "cells" / ("LY", "MO")[number % 2] / f"{number}.png", number)
    given = {"sources": (f"imagefolder={tmp_path / 'cells'}",), "method": "head"}
    adapt(AdaptationSettings(convolution.run, tmp_path / "mine", **given))
    evaluate(
        EvaluationSettings(str(tmp_path / "mine"), tmp_path / "evaluation", str(data_set), device="cpu", resamples=0)
    )
    variant = Variant("me/mine", True, None, None, None)
    assemble(TrainedModel(tmp_path / "mine", tmp_path / "evaluation"), variant, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert "### Adapted to another microscope" in card
    assert "the model looks at the middle 100" in card
    assert "to 8 labelled cells of 8 groups\n(Lymphocyte 4, Monocyte 4)" in card
    assert str(tmp_path) not in (tmp_path / "out" / "adaptation.json").read_text("utf-8")


def test_a_model_with_classes_of_its_own_has_its_card_already(
    convolution: Trained, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number in range(8):
        write_image(tmp_path / "cells" / ("Blast", "MO")[number % 2] / f"{number}.png", number)
    given = {"sources": (f"imagefolder={tmp_path / 'cells'}",), "method": "head", "classes": "own"}
    adapt(AdaptationSettings(convolution.run, tmp_path / "mine", **given))
    assert "| Blast |" in (tmp_path / "mine" / "README.md").read_text("utf-8")
    evaluation = shutil.copytree(convolution.evaluation, tmp_path / "evaluation")
    described = json.loads((evaluation / "metrics.json").read_text("utf-8"))
    described["model"]["sha256"] = hashlib.sha256((tmp_path / "mine" / "model.safetensors").read_bytes()).hexdigest()
    (evaluation / "metrics.json").write_text(json.dumps(described), "utf-8")
    with pytest.raises(CelluScanError, match=r"classes of its own.*hf upload OWNER/NAME"):
        TrainedModel(tmp_path / "mine", evaluation)
