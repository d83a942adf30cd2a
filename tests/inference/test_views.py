"""An answer averaged over mirrored copies: asked for in the config, by `--views`, and in a pipeline."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlavaImageProcessor, PreTrainedModel, pipeline

from celluscan_hf.cli import main
from celluscan_hf.errors import CelluScanError
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.modeling.looks_celluscan import symmetries

Build = Callable[..., PreTrainedModel]


@pytest.mark.parametrize("views", [2, 8])
def test_it_is_the_mean_over_the_views(checkpoint: Path, views: int) -> None:
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    one, several = load_classifier(checkpoint)[0], load_classifier(checkpoint, views=views)[0]
    with torch.no_grad():
        expected = one(symmetries(images, views)).logits.unflatten(0, (views, -1)).mean(dim=0)
        torch.testing.assert_close(several(images).logits, expected, rtol=1e-4, atol=1e-5)
        assert (several(images).logits - one(images).logits).abs().max() > 1e-3


def test_the_command_and_a_pipeline_give_the_same_answer(
    checkpoint: Path, write_image: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = write_image(tmp_path / "cell.png", 0)
    scores = {}
    for views in (1, 4):
        assert main(["predict", str(image), "--model", str(checkpoint), "--views", str(views)]) == 0
        scores[views] = capsys.readouterr().out.splitlines()[1].split(",")[2]
        classify = pipeline("image-classification", model=str(checkpoint), model_kwargs={"views": views})
        assert classify(str(image))[0]["score"] == pytest.approx(float(scores[views]), abs=1e-5)
    assert scores[1] != scores[4]


def test_a_vit_of_the_library_looks_once(tmp_path: Path, build_model: Build, processor: LlavaImageProcessor) -> None:
    build_model("native").save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(CelluScanError, match=r"--views 4: .* is a ViT, which looks once at an image"):
        load_classifier(tmp_path, views=4)
