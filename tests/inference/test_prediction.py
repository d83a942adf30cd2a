"""Batch prediction agrees with the library's pipeline, keeps the order, reads ahead in bounds, survives bad images."""

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlavaImageProcessor, PreTrainedModel, pipeline

from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.inference import prediction
from celluscan_hf.inference.loading import load_classifier
from celluscan_hf.inference.prediction import ReadImage, best_device, probabilities

Build = Callable[..., PreTrainedModel]
Draw = Callable[..., Image.Image]
SIZES = [(64, 64), (48, 80), (200, 60), (16, 17), (64, 64)]


def bad(reason: str = "truncated") -> ReadImage:
    def read() -> Image.Image:
        raise BadImage(reason, "3 bytes missing")

    return read


@pytest.fixture
def model(build_model: Build) -> PreTrainedModel:
    return build_model("linear")


@pytest.fixture
def cells(cell_image: Draw) -> list[Image.Image]:
    return [cell_image(seed, size) for seed, size in enumerate(SIZES)]


def reads(images: list[Image.Image]) -> list[ReadImage]:
    return [lambda image=image: image for image in images]


@pytest.mark.parametrize("kind", ["linear", "mean", "native"])
def test_agrees_with_the_pipeline(
    kind: str, tmp_path: Path, build_model: Build, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    build_model(kind).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model, own = load_classifier(tmp_path)
    expected = pipeline("image-classification", model=model, image_processor=own)(cells, top_k=14)
    for image, result in zip(expected, probabilities(reads(cells), model, own, batch_size=2), strict=True):
        order = np.argsort(-result)
        assert [model.config.id2label[index] for index in order] == [best["label"] for best in image]
        np.testing.assert_allclose(result[order], [best["score"] for best in image], rtol=0, atol=1e-5)


@pytest.mark.parametrize("fields", [{"problem_type": "multi_label_classification"}, {"num_labels": 1}])
def test_classes_that_do_not_exclude_each_other_are_scored_as_the_pipeline_does(
    fields: dict[str, object], build_model: Build, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    model = build_model("native", **fields)
    expected = pipeline("image-classification", model=model, image_processor=processor)(cells[0], top_k=1)
    (result,) = probabilities(reads(cells[:1]), model, processor)
    assert result.max() == pytest.approx(expected[0]["score"], abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_batch_does_not_change_results_or_their_order(
    batch_size: int, model: PreTrainedModel, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    alone = np.stack([next(probabilities([read], model, processor)) for read in reads(cells)])
    together = np.stack([*probabilities(reads(cells), model, processor, batch_size=batch_size)])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-6)
    assert len(np.unique(together.round(6), axis=0)) == len(cells) > 1


def test_a_bad_image_is_the_result_in_its_place(
    model: PreTrainedModel, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    first, second, *_ = reads(cells)
    results = list(probabilities([bad(), first, bad("too_small"), bad(), second], model, processor, batch_size=2))
    assert [result.reason if isinstance(result, BadImage) else "" for result in results] == [
        "truncated", "", "too_small", "truncated", "",
    ]  # fmt: skip
    expected = list(probabilities([first, second], model, processor))
    np.testing.assert_allclose([results[1], results[4]], expected, rtol=0, atol=1e-6)


def test_a_bad_image_does_not_keep_its_file_in_memory(model: PreTrainedModel, processor: LlavaImageProcessor) -> None:
    (result,) = probabilities([bad()], model, processor)
    assert isinstance(result, BadImage)
    assert (result.__traceback__, result.__context__, result.__cause__) == (None, None, None)


def test_an_image_too_thin_to_be_padded_is_bad(model: PreTrainedModel, processor: LlavaImageProcessor) -> None:
    (result,) = probabilities([lambda: Image.new("RGB", (16, 200_000))], model, processor)
    assert isinstance(result, BadImage)
    assert str(result).startswith("too_elongated (16x200000")


def test_a_bug_is_not_taken_for_a_bad_image(model: PreTrainedModel, processor: LlavaImageProcessor) -> None:
    def read() -> Image.Image:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        list(probabilities([read], model, processor))


def test_no_images(model: PreTrainedModel, processor: LlavaImageProcessor) -> None:
    assert list(probabilities([], model, processor)) == []


def test_reads_ahead_but_not_far(model: PreTrainedModel, processor: LlavaImageProcessor, cells: list) -> None:
    taken = 0

    def endless() -> Iterator[ReadImage]:
        nonlocal taken
        for read in itertools.cycle(reads(cells)):
            taken += 1
            yield read

    results = probabilities(endless(), model, processor, batch_size=4)
    for count in range(1, 30):
        next(results)
        assert count + 4 <= taken <= count + 9
    results.close()


def test_images_are_read_in_other_threads_which_end_with_it(
    model: PreTrainedModel, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    threads = set()

    def read() -> Image.Image:
        threads.add(threading.current_thread())
        return cells[0]

    results = probabilities([read] * 20, model, processor, batch_size=2)
    next(results)
    results.close()
    assert threading.current_thread() not in threads
    assert not any(thread.is_alive() for thread in threads)


def test_leaves_training_mode_and_gradients_as_they_were(
    build_model: Build, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    model = build_model("native", hidden_dropout_prob=0.5)
    (expected,) = probabilities(reads(cells[:1]), model, processor)
    results = probabilities(reads(cells[:1] * 3), model.train(), processor, batch_size=1)
    np.testing.assert_allclose(next(results), expected, rtol=0, atol=1e-6)
    assert model.training
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_runs_as_precisely_as_the_model_was_placed(
    model: PreTrainedModel, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    (full,) = probabilities(reads(cells[:1]), model, processor)
    (half,) = probabilities(reads(cells[:1]), model.to(torch.bfloat16), processor)
    assert half.dtype == np.float32
    assert half.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(half, full, rtol=0, atol=0.02)
    assert not np.array_equal(half, full)


def test_readers_beside_a_gpu_keep_to_one_core_and_nobody_else_does() -> None:
    before = torch.get_num_threads()
    with prediction._readers(torch.device("cuda"), 2) as pool:
        assert pool.submit(torch.get_num_threads).result() == 1
    later: list[int] = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *later] == [before, before]


def test_non_finite_scores_are_refused(
    model: PreTrainedModel, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(CelluScanError, match="non-finite scores"):
        list(probabilities(reads(cells), model, processor))


def test_a_model_that_predicts_a_quantity(
    build_model: Build, processor: LlavaImageProcessor, cells: list[Image.Image]
) -> None:
    with pytest.raises(CelluScanError, match="expected one that predicts classes"):
        list(probabilities(reads(cells), build_model("native", problem_type="regression"), processor))


def test_a_batch_that_does_not_fit_says_what_to_do(
    model: PreTrainedModel, processor: LlavaImageProcessor, cells: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**inputs: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "forward", full)
    with pytest.raises(CelluScanError, match=r"2 images at once do not fit .* lower --batch-size"):
        list(probabilities(reads(cells), model, processor, batch_size=2))


@pytest.mark.parametrize(("accelerator", "best"), [(torch.device("cuda"), "cuda"), (None, "cpu")])
def test_the_best_device(accelerator: torch.device | None, best: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: accelerator)
    assert best_device() == torch.device(best)
