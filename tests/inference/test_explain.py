"""The figure of one cell: complete, from safely opened images, with the model's prediction."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from transformers import LlavaImageProcessor, PreTrainedModel

from celluscan_hf.bundled_model import default_model
from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.attention import AttentionRecord
from celluscan_hf.inference.explain import answer_text, displayed, draw, explain, predict_row, read_image, smooth
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.inference.predict import predict

Build = Callable[..., PreTrainedModel]
Write = Callable[..., Path]


def record(heads: int = 4, layers: int = 2, peak: float = 0.0) -> AttentionRecord:
    """Even attention over 2 x 2 patches; the class token sees the last patch by `peak` more."""
    layer = torch.full((1, heads, 5, 5), 0.2)
    layer[:, :, 0, 4] += peak
    return AttentionRecord(torch.zeros(1, 3), (layer,) * layers, (2, 2), "cls")


def grey_cell(side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), 0.9, np.float32)


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


@pytest.mark.parametrize("kind", ["linear", "mean", "native"])
def test_draws_a_png_for_a_model(
    kind: str, tmp_path: Path, build_model: Build, processor: LlavaImageProcessor, write_image: Write
) -> None:
    cell = write_image(tmp_path / "cell.png", 1)
    model = build_model(kind, attn_implementation="eager")
    output = explain(cell, model, tmp_path / "new" / "drawn.png", processor=processor)
    with Image.open(output) as drawn:
        assert drawn.format == "PNG"
        assert 800 < drawn.width < 3000
        assert 300 < drawn.height < 3000
        assert len(drawn.convert("RGB").getcolors(10**7)) > 1000


def test_draws_a_png_for_a_checkpoint_folder(checkpoint: Path, tmp_path: Path, write_image: Write) -> None:
    cell = write_image(tmp_path / "wide $x_1$.jpg", Image.effect_noise((90, 40), 60).convert("CMYK"))
    assert explain(cell, checkpoint, tmp_path / "drawn.PNG", layer=1).stat().st_size > 10_000


def test_a_panel_for_the_cell_rollout_and_each_head() -> None:
    figure = draw(grey_cell(), record(heads=3, peak=0.4), -1, "title")
    assert titles(figure)[0] == "as the model sees it"
    assert [title.partition(",")[0] for title in titles(figure)[1:]] == ["rollout", "head 1", "head 2", "head 3"]


def test_titles_say_how_high_attention_goes() -> None:
    figure = draw(grey_cell(), record(heads=1, peak=0.4), -1, "title")
    assert titles(figure)[2] == "head 1, up to 2.4 ×"  # 0.6 on one of 4 patches


@pytest.mark.parametrize(("layer", "shown"), [(-1, 3), (1, 1), (-3, 1)])
def test_the_title_names_the_layer(layer: int, shown: int) -> None:
    title = draw(grey_cell(), record(layers=3), layer, "title").get_suptitle()
    assert title == f"title\nRollout through all 3 layers; heads of layer {shown}."


def test_even_attention_is_not_shown_at_full_strength() -> None:
    figure = draw(grey_cell(), record(heads=1), -1, "title")
    tints = [axes.images[1] for axes in figure.axes if len(axes.images) == 2]
    assert [tint.get_clim() for tint in tints] == [(0.0, 2.0), (0.0, 2.0)]


@pytest.mark.parametrize("heads", [1, 6, 16])
def test_no_text_is_cut_off_or_lies_on_another(heads: int) -> None:
    long = ", ".join(["A Class With A Rather Long Name 99.9 %"] * 3)
    figure = draw(grey_cell(), record(heads=heads, peak=99.0), -1, f"{'very_long_name' * 6}.jpg\n{long}")
    figure.draw_without_rendering()
    *panels, legend = figure.axes
    texts = [*figure.texts, *(panel.title for panel in panels), *legend.findobj(Text)]
    texts = [text for text in texts if text.get_text() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    assert len(boxes) == 1 + (2 + heads) + 3
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[index + 1 :]), texts[index].get_text()


def test_the_cell_is_shown_as_it_was_before_normalising(processor: LlavaImageProcessor, cell_image: Callable) -> None:
    image = cell_image(3, (32, 32))
    pixels = processor(images=image, return_tensors="pt")["pixel_values"][0]
    np.testing.assert_allclose(displayed(pixels, processor), np.asarray(image) / 255, atol=1e-4)


def test_maps_are_enlarged_without_edges_or_negative_values() -> None:
    grid = torch.zeros(4, 4)
    grid[1, 2] = 1.0
    values = smooth(grid, (64, 64))
    assert values.shape == (64, 64)
    assert values.min() == 0.0
    assert np.unravel_index(values.argmax(), values.shape) in {(y, x) for y in (23, 24) for x in (39, 40)}
    assert np.abs(np.diff(values, axis=0)).max() < 0.15


def test_the_likeliest_labels_are_named_and_why_there_is_no_answer() -> None:
    top = [
        {"label": "Basophil", "score": 0.5},
        {"label": "Monocyte", "score": 0.25},
        {"label": "Platelet", "score": 0.2},
    ]
    fields = {"top": top, "abstain": None, "reason": None, "hint": None}
    text = answer_text(fields).replace("\N{NO-BREAK SPACE}", " ")
    assert text == "Basophil 50.0 %, then Monocyte 25.0 %, Platelet 20.0 %"
    assert answer_text(fields | {"top": top[:1]}) == "Basophil 50.0\N{NO-BREAK SPACE}%"
    unsure = answer_text(fields | {"abstain": True, "reason": "low confidence", "hint": "unlike the training cells"})
    assert unsure.splitlines()[1:] == ["abstains: low confidence", "unlike the training cells"]


def test_the_title_has_the_probabilities_that_predict_writes(write_image: Write, tmp_path: Path) -> None:
    noise = Image.effect_noise((96, 96), 90).convert("RGB")
    cell, model = write_image(tmp_path / "noise.png", noise), default_model()
    predict([cell], model, tmp_path / "rows.jsonl")
    written = json.loads((tmp_path / "rows.jsonl").read_text("utf-8"))
    fields = predict_row(read_image(cell), *load_classifier(model, attn_implementation="eager"))
    assert fields["ood_score"] > 1  # so that its probabilities are lowered
    assert answer_text(fields) == answer_text(written)


def test_what_cannot_be_drawn_is_refused_and_nothing_written(
    checkpoint: Path, tmp_path: Path, write_image: Write, build_model: Build
) -> None:
    cell, drawn = write_image(tmp_path / "cell.png", 1), tmp_path / "drawn.png"
    cases = [
        ((tmp_path / "missing.jpg", checkpoint, drawn), r"missing\.jpg: there is no such image"),
        ((tmp_path, checkpoint, drawn), "is a folder; expected one image file"),
        ((checkpoint / "config.json", checkpoint, drawn), "cannot be used: not_an_image"),
        ((cell, tmp_path / "missing", drawn), "does not exist; expected a checkpoint"),
        ((cell, build_model("linear"), drawn), "needs its image processor"),
        ((cell, checkpoint, tmp_path / "drawn.jpg"), r"expected a file name that ends in \.png"),
        ((cell, checkpoint, drawn, 9), "layer 9 does not exist"),
    ]
    for arguments, message in cases:
        with pytest.raises(CelluScanError, match=message):
            explain(*arguments)
    assert not drawn.exists()


@pytest.mark.real_data
def test_draws_a_real_cell(real_data: Path, checkpoint: Path, tmp_path: Path) -> None:
    cell = next((real_data / "PBC_dataset_normal_DIB").rglob("*.jpg"))
    assert explain(cell, checkpoint, tmp_path / "drawn.png").is_file()
