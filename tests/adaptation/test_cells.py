"""Cells to adapt to: our classes or one's own, groups from folders, the processor's pixels, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BaseImageProcessor, ViTImageProcessor

from celluscan_hf.adaptation import cells as module
from celluscan_hf.adaptation.adapt import Start
from celluscan_hf.adaptation.cells import LabelledCells, processors, read_cells, usable_pixels, view_of
from celluscan_hf.errors import CelluScanError
from celluscan_hf.modeling.processor import build_image_processor
from celluscan_hf.taxonomy import LABEL2ID

from .conftest import CLASSES, PER_CLASS

Read = Callable[..., LabelledCells]


def test_cells_of_our_classes_keep_our_numbers(drawn: Path, read: Read) -> None:
    cells = read(drawn)
    assert cells.counts == dict.fromkeys(CLASSES, PER_CLASS)
    assert set(cells.labels) == {LABEL2ID[name] for name in CLASSES}
    assert len(set(cells.groups)) == PER_CLASS // 2 * len(CLASSES)


@pytest.mark.parametrize("wrapped", ["", "my cells/lab"])
def test_classes_of_ones_own_have_the_names_of_their_folders(
    wrapped: str, read: Read, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number, place in enumerate(("Smudge cell/p1", "Smudge cell/p1", "Blast/p1", "LY/p2", "LY/p3")):
        write_image(tmp_path / "mine" / wrapped / place / f"{number}.png", number)
    cells = read(tmp_path / "mine", own=True)
    assert cells.names == ("Lymphocyte", "Blast", "Smudge cell")  # ours first, then by name
    assert cells.counts == {"Lymphocyte": 2, "Blast": 1, "Smudge cell": 2}
    assert len(set(cells.groups)) == 3  # a patient has cells of two classes


def test_a_class_that_the_model_does_not_have_needs_own(read: Read, tmp_path: Path, write_image: object) -> None:
    for number, name in enumerate(("Smudge cell", "LY")):
        write_image(tmp_path / "mine" / name / f"{number}.png", number)  # type: ignore[operator]
    with pytest.raises(CelluScanError, match="Smudge cell"):
        read(tmp_path / "mine")


def test_a_class_that_this_model_lacks_is_named(start: Start, drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(CelluScanError, match=r"the model has no class 'Eosinophil' or .*give --classes own"):
        read_cells([f"imagefolder={drawn}"], ("Basophil", "Blast"), False, start.processor, tmp_path)


def test_one_class_alone_is_refused(read: Read, tmp_path: Path, write_image: Callable[..., Path]) -> None:
    for number in range(3):
        write_image(tmp_path / "mine" / "LY" / f"{number}.png", number)
    with pytest.raises(CelluScanError, match=r"two classes or more, but all 3 are Lymphocyte.*--unlabelled"):
        read(tmp_path / "mine")


def test_the_same_image_under_two_labels_is_left_out(
    read: Read, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number, name in enumerate(("LY", "MO", "LY", "MO", "EO")):
        write_image(tmp_path / "mine" / name / f"{number}.png", 0 if number < 2 else number)
    cells = read(tmp_path / "mine")
    assert len(cells) == 3
    assert [item.reason for item in cells.dropped] == ["label_conflict", "label_conflict"]


def test_so_many_cells_are_for_a_training(drawn: Path, read: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CELLS", 10)
    with pytest.raises(CelluScanError, match=r"18 labelled cells: with more than 10 a training gets further.*--start"):
        read(drawn)


def test_a_damaged_image_is_told(drawn: Path, read: Read, tmp_path: Path) -> None:
    import shutil

    folder = shutil.copytree(drawn, tmp_path / "mine")
    (folder / "Lymphocyte" / "broken.png").write_bytes(b"no image")
    cells = read(folder)
    assert len(cells) == PER_CLASS * len(CLASSES)
    assert [item.path for item in cells.dropped] == ["imagefolder/Lymphocyte/broken.png"]


@pytest.mark.parametrize("resized", [32, 50])
def test_pixels_and_view_give_what_the_processor_gives(resized: int, cell_image: Callable[..., Image.Image]) -> None:
    processor = build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15), resized)
    images = [cell_image(seed, size) for seed, size in enumerate(((64, 64), (80, 60)))]
    pixels = usable_pixels([image.copy for image in images], processor)
    assert pixels.dtype == torch.uint8
    expected = processor(images, return_tensors="pt")["pixel_values"]
    assert torch.allclose(view_of(processor)(pixels), expected, atol=2 / 255 / 0.15)


@pytest.mark.parametrize(
    "processor",
    [
        build_image_processor(32, (0.8, 0.7, 0.75), (0.2, 0.25, 0.15), 50),
        ViTImageProcessor(size={"height": 32, "width": 32}),
    ],
    ids=["ours", "of a plain ViT"],
)
def test_other_processors_show_more_or_less_of_the_picture(
    processor: BaseImageProcessor, cell_image: Callable[..., Image.Image]
) -> None:
    made = processors(processor)
    assert sorted(round(view_of(processor).crop_pct, 2) for processor in made) == [0.64, 0.8, 1.0]
    for processor in made:
        image = cell_image(3)
        expected = processor([image], return_tensors="pt")["pixel_values"]
        assert expected.shape == (1, 3, 32, 32)
        assert torch.allclose(view_of(processor)(usable_pixels([image.copy], processor)), expected, atol=0.06)


def test_of_many_images_without_labels_some_are_read(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_UNLABELLED", 5)
    assert len(module.unlabelled_reads([str(drawn)])) == 5
    assert module.unlabelled_reads([]) == []


def test_counts_are_in_the_order_of_the_model(drawn: Path, read: Read) -> None:
    cells = read(drawn)
    assert list(replace(cells, labels=np.sort(cells.labels)[::-1]).counts) == sorted(CLASSES)


@pytest.fixture
def marrow(tmp_path: Path, write_image: Callable[..., Path]) -> str:
    """Cells of two classes of ours, of a code that is none of them, and of one that the publisher does not have."""
    for number, code in enumerate(("LYT", "EOS", "BLA", "XYZ")):
        write_image(tmp_path / "marrow" / code / f"{code}_{number}.jpg", number)
    return f"bone_marrow={tmp_path / 'marrow'}"


def test_cells_of_no_class_of_ours_are_left_out_and_told(start: Start, tmp_path: Path, marrow: str) -> None:
    cells = read_cells([marrow], start.names, False, start.processor, tmp_path)
    assert cells.names == start.names
    assert cells.counts == {"Eosinophil": 1, "Lymphocyte": 1}
    assert [item.reason for item in cells.dropped] == ["no_class:BLA", "unknown_label:XYZ"]


def test_with_own_classes_a_published_set_keeps_all_its_labels(start: Start, tmp_path: Path, marrow: str) -> None:
    cells = read_cells([marrow], start.names, True, start.processor, tmp_path)
    assert cells.counts == {"Eosinophil": 1, "Lymphocyte": 1, "BLA": 1, "XYZ": 1}
    assert not cells.dropped


def test_a_class_without_a_usable_cell_is_no_class(
    read: Read, tmp_path: Path, write_image: Callable[..., Path]
) -> None:
    for number, place in enumerate(("Lymphocyte", "Monocyte", "Smudge")):
        write_image(tmp_path / "mine" / place / f"{number}.png", number)
    (tmp_path / "mine" / "Smudge" / "2.png").write_bytes(b"no image")
    assert read(tmp_path / "mine", own=True).names == ("Lymphocyte", "Monocyte")
