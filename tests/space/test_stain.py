from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from celluscan_hf.curation.decoding import decode
from celluscan_hf.sources.drawing import draw_cell
from celluscan_hf.space.stain import doubt
from celluscan_hf.taxonomy import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_synthetic_cells_pass(name: str) -> None:
    for seed in range(2):
        assert doubt(draw_cell(name, np.random.default_rng(seed), 128)) is None


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.new("RGB", (99, 99), "white"), "nothing in it is stained violet"),
        (Image.new("RGB", (99, 99), (120, 120, 120)), "light background"),
        (Image.new("RGB", (99, 99), (120, 60, 160)), "light background"),
        (Image.new("RGB", (99, 99), (90, 160, 70)), "colours that do not occur in stained smears"),
        (
            Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)),
            "colours that do not occur",
        ),
    ],
)
def test_anything_but_a_stained_cell_is_refused_with_the_reason(image: Image.Image, reason: str) -> None:
    assert reason in str(doubt(image))


@pytest.mark.real_data
def test_nearly_every_real_cell_passes(real_data: Path) -> None:
    files = sorted((real_data / "PBC_dataset_normal_DIB").glob("*/*_*.jpg"))[::30]
    doubted = [file for file in files if file.name != ".DS_169665.jpg" and doubt(decode(file.read_bytes()).image)]
    assert len(doubted) <= len(files) / 200


@pytest.mark.real_data
def test_red_cells_alone_are_no_white_cell(real_data: Path) -> None:
    field = decode((real_data / "BCCD" / "JPEGImages" / sorted_fields(real_data)[0]).read_bytes()).image
    corners = [field.crop((x, y, x + 90, y + 90)) for x in range(0, 540, 90) for y in range(0, 380, 90)]
    assert sum(doubt(corner) is not None for corner in corners) > len(corners) / 2


def sorted_fields(real_data: Path) -> list[str]:
    return sorted(file.name for file in (real_data / "BCCD" / "JPEGImages").iterdir())
