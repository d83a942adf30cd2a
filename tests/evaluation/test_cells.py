"""What is evaluated: the originals of a split as they were built, and each usable cell of raw sources once."""

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.evaluation.cells import load_cells_of_sources, load_cells_of_split


@pytest.fixture
def folder(tmp_path, write_image):
    """A folder of one's own: three cells of two classes, a copy, a conflict, a text, an image without a label."""
    own = tmp_path / "own"
    write_image(own / "Basophil" / "1.png", 1)
    write_image(own / "Basophil" / "2.png", 2)
    write_image(own / "Monocyte" / "3.png", 3)
    shutil.copy(own / "Basophil" / "1.png", own / "Basophil" / "copy.png")
    write_image(own / "Basophil" / "both.png", 4)
    shutil.copy(own / "Basophil" / "both.png", own / "Monocyte" / "both.png")
    (own / "notes.txt").write_text("no cell")
    write_image(own / "field.png", 5)
    return own


def dropped(cells):
    return {item.path: item.reason for item in cells.dropped}


def test_a_split_gives_its_rows_in_order_with_their_images(built, tmp_path):
    rows = load_dataset(str(built), "originals", split="test", cache_dir=str(tmp_path))
    cells = load_cells_of_split(str(built), "test")
    assert [cell.image_id for cell in cells.kept] == rows["image_id"]
    assert [cell.label for cell in cells.kept] == rows["label"]
    assert [cell.group_id for cell in cells.kept] == rows["group_id"]
    assert [cell.license for cell in cells.kept] == rows["license"]
    assert np.array_equal(np.asarray(cells.kept[3].read()), np.asarray(rows[3]["image"]))


def test_a_split_says_what_it_is_and_what_to_mind(built):
    described = load_cells_of_split(str(built), "validation").described
    assert (described["dataset"], described["split"]) == (str(built), "validation")
    assert len(described["fingerprint"]) == 64
    assert set(described["sources"]["synthetic"]) == {"title", "license", "caution"}


def test_a_data_set_without_facts_on_its_sources_can_be_evaluated(built, tmp_path):
    bare = shutil.copytree(built, tmp_path / "bare", ignore=shutil.ignore_patterns("sources.json"))
    assert load_cells_of_split(str(bare), "test").described["sources"]["synthetic"]["caution"] == ""


def test_a_damaged_row_names_itself_and_what_to_do(built, tmp_path):
    damaged = shutil.copytree(built, tmp_path / "damaged")
    [path] = damaged.glob("data/originals/test-*.parquet")
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[0]["bytes"] = images[0]["bytes"][:100]
    pq.write_table(table.set_column(0, table.schema.field(0), pa.array(images, table.schema.field(0).type)), path)
    cell = load_cells_of_split(str(damaged), "test").kept[0]
    with pytest.raises(CelluScanError, match=rf"damaged.*{cell.image_id}.*build the dataset again"):
        cell.read()


def test_each_cell_of_a_source_is_counted_once(folder, tmp_path):
    cells = load_cells_of_sources([f"imagefolder={folder}"], tmp_path)
    assert [cell.image_id for cell in cells.kept] == [f"imagefolder/{name}" for name in (
        "Basophil/1.png", "Basophil/2.png", "Monocyte/3.png",
    )]  # fmt: skip
    assert dropped(cells)["imagefolder/Basophil/copy.png"] == "duplicate"


def test_cells_of_a_hugging_face_data_set_are_read(tmp_path, write_image):
    images = [write_image(tmp_path / f"{n}.png", n) for n in range(3)]
    rows = {"image": [{"bytes": image.read_bytes(), "path": image.name} for image in images], "label": ["BA"] * 3}
    pq.write_table(pa.table(rows), tmp_path / "cells.parquet")
    cells = load_cells_of_sources([f"hf_dataset:lab={tmp_path / 'cells.parquet'}"], tmp_path)
    assert [cell.image_id for cell in cells.kept] == [f"lab/train/{n}.png" for n in range(3)]
    assert np.array_equal(np.asarray(cells.kept[2].read()), np.asarray(Image.open(images[2])))
    assert cells.described["sources"]["lab"]["key"] == "hf_dataset:lab"


def test_equal_files_with_labels_that_cannot_both_be_true_are_left_out(folder, tmp_path):
    reasons = dropped(load_cells_of_sources([f"imagefolder={folder}"], tmp_path))
    assert reasons["imagefolder/Basophil/both.png"] == reasons["imagefolder/Monocyte/both.png"] == "label_conflict"


def test_what_is_no_cell_is_left_out_with_a_reason(folder, tmp_path):
    reasons = dropped(load_cells_of_sources([f"imagefolder={folder}"], tmp_path))
    assert reasons["imagefolder/notes.txt"] == "not_an_image"
    assert reasons["imagefolder/field.png"].startswith("unknown_label")


def test_the_finer_of_two_names_is_the_label(tmp_path, write_image):
    write_image(tmp_path / "own" / "Neutrophil" / "1.png", 1)
    write_image(tmp_path / "own" / "Segmented Neutrophil" / "1.png", 1)
    [cell] = load_cells_of_sources([f"imagefolder={tmp_path / 'own'}"], tmp_path).kept
    assert taxonomy.NAMES[cell.label] == "Segmented Neutrophil"


@pytest.fixture
def field(tmp_path, write_image, write_files):
    """A field of `bccd`, with the boxes of two platelets, one of them twice."""
    write_image(tmp_path / "bccd" / "JPEGImages" / "BloodImage_00001.jpg", Image.effect_noise((200, 100), 90))
    boxes = [(10, 20, 60, 70), (90, 20, 140, 75), (10, 20, 60, 70)]
    objects = "".join(
        f"<object><name>Platelets</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax>"
        "</bndbox></object>"
        for a, b, c, d in boxes
    )
    xml = f"<annotation><size><width>200</width><height>100</height></size>{objects}</annotation>"
    return write_files(tmp_path / "bccd", {"Annotations/BloodImage_00001.xml": xml})


def test_a_box_is_cut_out_of_its_field_and_counted_once(field, tmp_path):
    cells = load_cells_of_sources([f"bccd={field}"], tmp_path)
    assert {cell.license for cell in cells.kept} == {"MIT"}
    assert len({cell.sha256 for cell in cells.kept}) == 1
    sizes = [cell.read().size for cell in cells.kept]
    assert len(sizes) == 2
    assert all(max(size) < 200 for size in sizes)
    assert list(dropped(cells).values()) == ["duplicate"]


def test_copies_made_by_the_publisher_are_left_out(tmp_path, write_image):
    write_image(tmp_path / "data" / "images" / "TRAIN" / "EOSINOPHIL" / "_0_1.jpeg", 1)
    cells = load_cells_of_sources([f"bccd_augmented={tmp_path / 'data'}"], tmp_path)
    assert list(cells.kept) == []
    assert [item.reason for item in cells.dropped] == ["augmented_by_publisher"]


def test_an_image_that_cannot_be_decoded_says_so_when_it_is_read(tmp_path, write_files):
    own = write_files(tmp_path / "own", {"Basophil/1.png": b"\x89PNG\r\n\x1a\n and no more"})
    cells = load_cells_of_sources([f"imagefolder={own}"], tmp_path)
    for cell in cells.kept:
        with pytest.raises(BadImage):
            cell.read()
    assert len(cells.kept) + len(cells.dropped) == 1


def test_a_fingerprint_is_that_of_the_content(folder, tmp_path, write_image):
    shutil.copytree(folder, tmp_path / "moved")
    first, moved = (load_cells_of_sources([f"imagefolder={path}"], tmp_path) for path in (folder, tmp_path / "moved"))
    assert first.described["fingerprint"] == moved.described["fingerprint"]
    write_image(folder / "Basophil" / "2.png", 9)
    changed = load_cells_of_sources([f"imagefolder={folder}"], tmp_path)
    assert changed.described["fingerprint"] != first.described["fingerprint"]
