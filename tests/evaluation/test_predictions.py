"""Predictions: the model's classes in our order, bad images told apart, and a file that gives back what was written."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, ViTConfig, ViTForImageClassification

from celluscan_hf import taxonomy
from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.evaluation.cells import Cell, Cells
from celluscan_hf.evaluation.predictions import FACTS, Predictions, columns_of, predict
from celluscan_hf.modeling.reliability_celluscan import COLOURS, MahalanobisScorer, Reliability

from .conftest import save_checkpoint


def cells(*reads):
    kept = [Cell(f"drawn/{n}", "drawn", "EOS", "MIT", f"slide {n}", "0" * 64, 2, read) for n, read in enumerate(reads)]
    return Cells(kept, [], {})


def classifier(folder):
    return AutoModelForImageClassification.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)


def truncated() -> Image.Image:
    raise BadImage("truncated", "at byte 7")


def test_probabilities_are_those_of_the_model_in_the_order_of_the_cells(checkpoint, cell_image):
    model, processor = classifier(checkpoint)
    images = [cell_image(seed, (40, 50)) for seed in range(5)]
    predictions, bad = predict(cells(*(lambda image=image: image for image in images)), model, processor, batch_size=2)
    with torch.no_grad():
        expected = model(**processor(images=images, return_tensors="pt")).logits.softmax(-1).numpy()
    assert np.allclose(predictions.probabilities, expected, atol=1e-5)
    assert (predictions.image_ids, bad) == ([f"drawn/{number}" for number in range(5)], [])


@pytest.mark.parametrize(("limit", "temperature"), [(1e-9, 3.0), (1e9, 1.0)])
def test_with_its_reliability_an_image_unlike_the_training_gets_the_lower_probabilities_of_its_answer(
    limit, temperature, checkpoint, cell_image
):
    model, processor = classifier(checkpoint)
    scorers = tuple(MahalanobisScorer(np.zeros((1, n)), np.eye(n)) for n in (model.config.hidden_size, COLOURS))
    known = Reliability(taxonomy.CLASSES, np.zeros(1), np.zeros(1, int), scorers, limit, 0.7, other_temperature=3.0)
    reads = cells(lambda: cell_image(0), lambda: cell_image(1))
    plain, answered = (predict(reads, model, processor, reliability=given)[0] for given in (None, known))
    cooled = plain.probabilities ** (1 / temperature)
    assert np.allclose(answered.probabilities, cooled / cooled.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_bad_image_is_left_out_and_the_others_keep_their_place(checkpoint, cell_image):
    model, processor = classifier(checkpoint)
    images = [cell_image(seed) for seed in range(3)]
    reads = [lambda image=image: image for image in images]
    predictions, bad = predict(cells(reads[0], truncated, reads[1], reads[2]), model, processor, batch_size=2)
    alone, _ = predict(cells(reads[2]), model, processor)
    assert predictions.image_ids == ["drawn/0", "drawn/2", "drawn/3"]
    assert np.allclose(predictions.probabilities[2], alone.probabilities[0], atol=1e-5)
    assert [(item.path, item.reason, item.detail) for item in bad] == [("drawn/1", "truncated", "at byte 7")]


def test_classes_in_another_order_are_mapped_by_name(checkpoint, tmp_path, cell_image):
    turned = dict(enumerate(reversed(taxonomy.NAMES)))
    other, processor = classifier(save_checkpoint(tmp_path / "turned", id2label=turned))
    model, _ = classifier(checkpoint)
    single_cell = cells(lambda: cell_image(0))
    ours, theirs = (predict(single_cell, model, processor)[0].probabilities for model in (model, other))
    assert np.allclose(theirs[0], ours[0][::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["Basophil", "Blast"], r"lacks Band Neutrophil, Eosinophil, .* and 9 more and has Blast in addition"),
        ([*taxonomy.NAMES[:13], "SNE"], "lacks Segmented Neutrophil and has SNE in addition"),
        ([*taxonomy.NAMES, "Artefact"], "lacks none and has Artefact in addition"),
    ],
)
def test_a_model_with_other_classes_is_refused_with_what_differs(labels, message, tmp_path):
    model, _ = classifier(save_checkpoint(tmp_path / "other", id2label=dict(enumerate(labels))))
    with pytest.raises(CelluScanError, match=message):
        columns_of(model)


def test_scores_that_are_no_probabilities_are_refused(checkpoint, cell_image):
    sizes = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=32)
    config = ViTConfig(**sizes, patch_size=8, id2label=taxonomy.ID2LABEL, problem_type="multi_label_classification")
    with pytest.raises(CelluScanError, match="scores each class independently"):
        predict(cells(lambda: cell_image(0)), ViTForImageClassification(config).eval(), classifier(checkpoint)[1])


def test_where_no_cell_is_left_the_reasons_are_told(checkpoint):
    with pytest.raises(CelluScanError, match=r"no cell is left.*all 2 were dropped: truncated 2"):
        predict(cells(truncated, truncated), *classifier(checkpoint))


def test_each_cell_is_told_of(checkpoint, cell_image):
    steps: list[int] = []
    model, processor = classifier(checkpoint)
    predict(cells(lambda: cell_image(0), truncated), model, processor, advance=steps.append)
    assert steps == [1, 1]


def test_a_file_gives_back_what_was_written(everything, tmp_path):
    everything.write(tmp_path / "predictions.parquet")
    back = Predictions.read(tmp_path / "predictions.parquet")
    assert back.facts == dict(everything.facts)
    assert np.array_equal(back.labels, everything.labels)
    assert np.array_equal(back.probabilities, everything.probabilities)


def test_a_file_opens_with_the_names_of_the_classes(everything, tmp_path):
    everything.write(tmp_path / "predictions.parquet")
    rows = load_dataset("parquet", data_files=str(tmp_path / "predictions.parquet"), cache_dir=str(tmp_path))["train"]
    assert rows.features["label"].names == rows.features["predicted"].names == list(taxonomy.NAMES)
    assert rows.column_names == [*FACTS, "label", "predicted", "probabilities"]
    assert rows["predicted"] == everything.predicted.tolist()


def test_a_file_that_holds_something_else_is_refused(tmp_path, everything):
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(CelluScanError, match="cannot be read as predictions"):
        Predictions.read(tmp_path / "text.parquet")
    everything.write(tmp_path / "predictions.parquet")
    pq.write_table(pq.read_table(tmp_path / "predictions.parquet").drop(["label"]), tmp_path / "less.parquet")
    with pytest.raises(CelluScanError, match="has the columns"):
        Predictions.read(tmp_path / "less.parquet")
