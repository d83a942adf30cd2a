"""A model is adapted end to end: any method, classes of one's own, no labels at all; and what cannot be is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, pipeline

from celluscan_hf.adaptation import adapt as module
from celluscan_hf.adaptation.adapt import RECORD, Adapter, Start, adapt, load_start
from celluscan_hf.adaptation.calibration import facts_on, fitted_reliability
from celluscan_hf.adaptation.cells import LabelledCells
from celluscan_hf.adaptation.command import summary
from celluscan_hf.adaptation.expectation import expected, right, what_helps
from celluscan_hf.adaptation.layers import Schedule
from celluscan_hf.adaptation.settings import AdaptationSettings
from celluscan_hf.adaptation.trials import Trial, Way
from celluscan_hf.benchmarks.adaptation import subset
from celluscan_hf.cli import main
from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.loading import load_classifier, load_reliability
from celluscan_hf.modeling.exporting import export_hand_built, export_native
from celluscan_hf.modeling.reliability_celluscan import head_norm
from celluscan_hf.space.recogniser import Recogniser
from celluscan_hf.taxonomy import NAMES

from .conftest import CLASSES, PER_CLASS

Adapted = Callable[..., dict[str, Any]]
Read = Callable[..., LabelledCells]


@pytest.fixture
def adapted(calibrated: Path, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Adapted:
    """Adapt to the drawn cells, with few steps, into `tmp_path / "mine"`."""
    monkeypatch.setattr(module, "SCHEDULE", Schedule(steps=4, batch_size=6))

    def run(**changes: Any) -> dict[str, Any]:
        given = {"model": calibrated, "output": tmp_path / "mine", "sources": (f"imagefolder={drawn}",)} | changes
        return adapt(AdaptationSettings(**given))

    return run


@pytest.mark.parametrize("method", ["head", "full", "lora", "auto"])
def test_the_folder_is_a_model_like_any_other(
    method: str, adapted: Adapted, calibrated: Path, drawn: Path, tmp_path: Path
) -> None:
    before = {file.name: file.read_bytes() for file in calibrated.iterdir()}
    record = adapted(method=method)
    assert {file.name: file.read_bytes() for file in calibrated.iterdir()} == before
    folder = tmp_path / "mine"
    assert json.loads((folder / RECORD).read_text("utf-8")) == json.loads(json.dumps(record))
    assert record["method"] in (("head", "full", "lora", "none", "calibration") if method == "auto" else (method,))
    assert record["expected"]["n"] == PER_CLASS * len(CLASSES)
    assert record["cells"]["counts"] == dict.fromkeys(CLASSES, PER_CLASS)
    files = sorted(drawn.rglob("*.png"))
    plain = pipeline("image-classification", model=str(folder), trust_remote_code=True, device="cpu")
    rich = pipeline("wbc-classification", model=str(folder), device="cpu")
    for simple, answer in zip(plain([str(file) for file in files]), rich([str(file) for file in files]), strict=True):
        assert simple[0]["label"] == answer["top"][0]["label"]
        assert answer["top"][0]["label"] in answer["set"]
        assert answer["ood_score"] < 3


def test_it_is_right_more_often_and_says_how_often(adapted: Adapted, drawn: Path, tmp_path: Path) -> None:
    record = adapted(method="head")
    assert record["expected"]["balanced_accuracy"] > record["before"]["balanced_accuracy"] + 0.1
    low, high = record["expected"]["ci95"]["balanced_accuracy"]
    assert low <= record["expected"]["balanced_accuracy"] <= high
    classify = pipeline("image-classification", model=str(tmp_path / "mine"), trust_remote_code=True, device="cpu")
    files = sorted(drawn.rglob("*.png"))
    hits = [
        answer[0]["label"] == file.parts[-3]
        for file, answer in zip(files, classify(list(map(str, files))), strict=True)
    ]
    assert np.mean(hits) >= record["expected"]["accuracy"]


def test_the_same_seed_gives_the_same_weights(adapted: Adapted, tmp_path: Path) -> None:
    adapted(method="full", seed=3)
    adapted(method="full", seed=3, output=tmp_path / "again")
    first, again = (load_file(tmp_path / name / "model.safetensors") for name in ("mine", "again"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_classes_of_ones_own(
    adapted: Adapted, tmp_path: Path, write_image: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        name = ("Smudge cell", "Lymphocyte", "Blast")[number % 3]
        write_image(tmp_path / "cells" / name / f"{number}.png", number)
    record = adapted(sources=(f"imagefolder={tmp_path / 'cells'}",), classes="own", method="head")
    assert record["classes"] == ["Lymphocyte", "Blast", "Smudge cell"]
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "mine", trust_remote_code=True)
    assert model.config.id2label == dict(enumerate(record["classes"]))
    answer = pipeline("wbc-classification", model=str(tmp_path / "mine"), device="cpu")(
        str(tmp_path / "cells" / "Blast" / "2.png")
    )
    assert {best["label"] for best in answer["top"]} == set(record["classes"])
    assert main(["predict", str(tmp_path / "cells"), "--model", str(tmp_path / "mine"), "--csv"]) == 0
    assert capsys.readouterr().out.count("\n") == 13
    (result,) = Recogniser(str(tmp_path / "mine")).recognise([tmp_path / "cells" / "Blast" / "2.png"])
    assert result.answer is not None
    assert {cell.name for cell, _ in result.answer.ranking} == set(record["classes"])
    again = adapted(
        model=tmp_path / "mine",
        output=tmp_path / "further",
        sources=(f"imagefolder={tmp_path / 'cells'}",),
        classes="own",
        method="head",
    )
    assert again["before"]["accuracy"] == pytest.approx(1)  # it has seen them


def test_without_labels_only_statistics_change(
    convolution: Path, drawn: Path, tmp_path: Path, adapted: Adapted
) -> None:
    record = adapted(model=convolution, sources=(), unlabelled=(str(drawn),))
    assert (record["method"], record["statistics"], record["unlabelled"]) == ("none", True, 18)
    old, new = (load_file(folder / "model.safetensors") for folder in (convolution, tmp_path / "mine"))
    changed = {name for name, value in old.items() if not torch.equal(value, new[name])}
    assert changed
    assert all("running_" in name for name in changed)


def test_without_labels_too_the_cells_are_no_longer_unlike_the_known_ones(
    convolution: Path, drawn: Path, tmp_path: Path, adapted: Adapted, read: Callable[..., LabelledCells]
) -> None:
    adapted(model=convolution, sources=(), unlabelled=(str(drawn),))
    shares = []
    for start in (load_start(convolution), load_start(tmp_path / "mine")):
        _, features = Way(start.processor, start.model, False, read(drawn).pixels).run(start.model)
        shares.append((start.reliability.ood_score(features) > start.reliability.ood_threshold).mean())
    assert shares[0] > 0.5
    assert shares[1] < 0.2  # of 18, the farthest few


def test_with_one_cell_of_each_class_the_score_is_a_number(start: Start, drawn: Path, read: Read) -> None:
    cells = read(drawn)
    single = subset(cells, np.array([np.flatnonzero(cells.labels == label)[0] for label in np.unique(cells.labels)]))
    adapted = Adapter(start, single, method="head").adapted()
    assert adapted.reliability.ood_threshold > 0
    _, features = Way(start.processor, adapted.model, False, cells.pixels).run(adapted.model)
    scores = adapted.reliability.ood_score(features)
    assert np.isfinite(scores).all()


def test_a_model_without_batch_norm_needs_labels(adapted: Adapted, drawn: Path) -> None:
    with pytest.raises(CelluScanError, match="no batch norm"):
        adapted(sources=(), unlabelled=(str(drawn),))


@pytest.fixture(scope="module")
def convolution(calibrated: Path, data_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated model with a convolution stem."""
    from celluscan_hf.modeling.configuration_celluscan import CelluScanConfig
    from celluscan_hf.modeling.modeling_celluscan import CelluScanForImageClassification
    from celluscan_hf.reliability.calibrate import calibrate

    folder = tmp_path_factory.mktemp("convolution") / "run"
    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    config = CelluScanConfig(**sizes, image_size=32, patch_size=8, patch_stem="convolution")
    export_hand_built(CelluScanForImageClassification(config), folder, load_classifier(calibrated)[1])
    calibrate(folder, str(data_set))
    return folder


def test_with_batch_norm_its_statistics_are_tried(adapted: Adapted, convolution: Path) -> None:
    record = adapted(model=convolution, method="head")
    assert [trial["statistics"] for trial in record["tried"]] == [False, False, True]


def test_a_plain_vit_stays_one(adapted: Adapted, calibrated: Path, data_set: Path, tmp_path: Path) -> None:
    from celluscan_hf.reliability.calibrate import calibrate

    model, processor = load_classifier(calibrated)
    export_native(model, tmp_path / "native", processor)
    calibrate(tmp_path / "native", str(data_set))
    adapted(model=tmp_path / "native", method="head")
    assert json.loads((tmp_path / "mine" / "config.json").read_text("utf-8"))["model_type"] == "vit"


def test_one_cell_a_class_is_enough_and_nothing_is_promised(
    adapted: Adapted, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number, name in enumerate(("LY", "MO")):
        write_image(tmp_path / "cells" / name / "a.png", number)
    record = adapted(sources=(f"imagefolder={tmp_path / 'cells'}",))
    assert record["method"] == "head"
    assert record["expected"]["accuracy"] is None
    assert "layers were not trained" in record["notes"][0]
    reliability = load_reliability(load_classifier(tmp_path / "mine")[0])
    assert reliability is not None
    assert reliability.sets(np.full((1, 14), 1 / 14)).all()  # nothing is known of its mistakes


def test_what_does_not_fit_into_the_time_is_told(adapted: Adapted) -> None:
    record = adapted(minutes=1e-6)
    assert [trial["method"] for trial in record["tried"]] == ["none", "head", "calibration"]
    assert all("give more --minutes" in note for note in record["notes"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, "no cells given"),
        ({"sources": (), "unlabelled": ("x",), "classes": "own"}, "--classes own needs labelled cells"),
        ({"sources": (), "unlabelled": ("x",), "method": "full"}, "--method full needs labelled cells"),
        ({"classes": "own", "method": "calibration"}, "--method calibration changes no class"),
        ({"minutes": 0.0}, "--minutes 0: expected a number above 0"),
        ({"model": Path("nowhere")}, "nowhere is not a directory of a model"),
        ({"model": Path("model.onnx")}, "an ONNX file cannot be adapted"),
    ],
)
def test_what_cannot_be_done_is_refused(changes: dict[str, Any], message: str, adapted: Adapted) -> None:
    with pytest.raises(CelluScanError, match=message):
        adapted(**changes)


def test_an_existing_output_stays(adapted: Adapted, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(CelluScanError, match="already exists"):
        adapted()


def test_a_folder_of_an_onnx_file_is_refused(adapted: Adapted, calibrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "onnx")
    (folder / "model.safetensors").rename(folder / "model.onnx")
    with pytest.raises(CelluScanError, match="holds an ONNX file"):
        adapted(model=folder)


def test_a_model_that_was_not_calibrated_is_refused(adapted: Adapted, calibrated: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(calibrated, tmp_path / "raw")
    (folder / "reliability.json").unlink()
    with pytest.raises(CelluScanError, match=r"no reliability\.json: run celluscan calibrate"):
        adapted(model=folder)


def test_cells_that_the_model_was_trained_on_are_left_out(
    adapted: Adapted, calibrated: Path, data_set: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(calibrated, tmp_path / "run")
    data = {"name": str(data_set), "local": True, "sources": ["synthetic", "imagefolder"]}
    (run / "settings.json").write_text(json.dumps({"data": data}), "utf-8")
    with pytest.raises(CelluScanError, match="the model was trained on synthetic"):
        adapted(model=run, sources=("synthetic=2",))
    record = adapted(model=run, method="head")  # other cells of a folder are fine
    assert record["cells"]["n"] == PER_CLASS * len(CLASSES)
    assert (tmp_path / "mine" / "settings.json").is_file()


def test_a_finer_answer_than_the_label_is_right() -> None:
    names = NAMES
    answers = ["Band Neutrophil", "Neutrophil", "Lymphocyte", "Myelocyte"]
    labels = ["Neutrophil", "Band Neutrophil", "Lymphocyte", "Neutrophil"]
    logits = np.eye(14)[[names.index(answer) for answer in answers]]
    assert right(logits, np.array([names.index(label) for label in labels]), names).tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_of_ones_own_classes_the_taxonomy_says_nothing() -> None:
    known, own = facts_on(("Lymphocyte", "Smudge cell"))
    assert known.lineage == "lymphoid"
    assert (own.name, own.parent, own.lineage, own.stage, own.abnormal_in_blood) == (
        "Smudge cell",
        None,
        "",
        None,
        False,
    )


@pytest.fixture
def chosen(start: Start, drawn: Path, read: Callable[..., LabelledCells]) -> tuple[Adapter, Trial]:
    adapter = Adapter(start, read(drawn), method="head")
    return adapter, adapter.choose()[0]


def test_reliability_is_fitted_to_held_out_answers(chosen: tuple[Adapter, Trial], start: Start) -> None:
    adapter, trial = chosen
    reliability = fitted_reliability(trial, start.reliability, adapter.cells.names, trial.features)
    within = reliability.sets(
        np.exp(trial.logits / trial.temperature) / np.exp(trial.logits / trial.temperature).sum(axis=1, keepdims=True)
    )
    covered = within[np.arange(len(trial.labels)), trial.labels]
    assert covered.mean() >= 0.9
    assert (reliability.ood_score(trial.features) <= reliability.ood_threshold).mean() > 0.9
    assert (reliability.ood_score(trial.features + 10) > reliability.ood_threshold).all()


def test_what_helps_is_what_is_missed_most(chosen: tuple[Adapter, Trial]) -> None:
    adapter, trial = chosen
    helping = what_helps(adapter.trials, trial)
    assert all(item["class"] in CLASSES and item["cells"] == PER_CLASS for item in helping)
    assert [item["lost_with_half"] for item in helping] == sorted(
        (item["lost_with_half"] for item in helping), reverse=True
    )
    assert expected(replace(trial, fold=np.full(len(trial.fold), -1)), adapter.cells)["n"] == 0


def test_the_head_on_disk_is_the_one_that_was_calibrated(adapted: Adapted, tmp_path: Path) -> None:
    adapted(method="head")
    model, _ = load_classifier(tmp_path / "mine")
    assert load_reliability(model).record["head_norm"] == pytest.approx(head_norm(model), rel=1e-5)  # type: ignore[union-attr]


def test_the_command_says_what_to_expect(
    calibrated: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["adapt", str(calibrated), "--source", f"imagefolder={drawn}", "--method", "head"]
    assert main([*words, "--output", str(tmp_path / "mine")]) == 0
    said = capsys.readouterr().out
    assert "18 cells of 9 groups: Eosinophil 6, Lymphocyte 6, Monocyte 6" in said
    assert "adapted: the head" in said
    assert "balanced accuracy" in said
    assert f"{tmp_path / 'mine'}: the adapted model" in said


def test_the_start_is_hand_built_with_its_classes(start: Start, calibrated: Path) -> None:
    assert load_start(calibrated).names == start.names == NAMES


def test_classes_without_cells_are_named_and_keep_the_model_careful(
    adapted: Adapted, calibrated: Path, tmp_path: Path
) -> None:
    record = adapted(method="head")
    unchecked = record["cells"]["unchecked"]
    assert set(unchecked) == set(NAMES) - set(CLASSES)
    card = (tmp_path / "mine" / "README.md").read_text("utf-8")
    assert f"No cell of {', '.join(unchecked)} was given" in card
    assert f'model="{(tmp_path / "mine").as_posix()}"' in card
    before, after = (load_reliability(load_classifier(folder)[0]) for folder in (calibrated, tmp_path / "mine"))
    assert before is not None and after is not None
    assert after.confidence_threshold >= before.confidence_threshold
    text = summary(record, AdaptationSettings(calibrated, tmp_path / "mine", sources=("imagefolder=cells",)))
    assert f"no cell of {unchecked[0]}" in text
    assert "each cell is a group of its own" not in text
    record["cells"]["groups"] = record["cells"]["n"]
    assert "each cell is a group of its own" in summary(record, AdaptationSettings(calibrated, tmp_path, ("a=b",)))
