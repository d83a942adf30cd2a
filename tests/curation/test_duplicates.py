"""Equal images, nearly equal images, and the groups they join."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageChops

from celluscan_hf.curation import duplicates
from celluscan_hf.curation.decoding import decode
from celluscan_hf.curation.fingerprints import perceptual_hashes
from celluscan_hf.curation.hash_search import SearchTask
from celluscan_hf.curation.orientation import ORIENTATIONS
from celluscan_hf.sources.drawing import draw_cell

CAPTURED_TWICE = [("eosinophil/EO_246684", "eosinophil/EO_409717"), ("ig/IG_466905", "ig/IG_855229")]


def digests(*names: str) -> NDArray[np.bytes_]:
    return np.array([name.encode().ljust(16, b"_") for name in names], "S16")


def originals(count: int) -> list[bool]:
    return [False] * count


def cell(seed: int) -> Image.Image:
    return draw_cell("Lymphocyte", np.random.default_rng(seed), 128)


def blobs(seed: int) -> Image.Image:
    """A smooth random image whose hash is like that of no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=60)
    return decode(buffer.getvalue()).image


def hashes_of(images: Sequence[Image.Image]) -> NDArray[np.uint64]:
    return np.array([perceptual_hashes(image.convert("L")) for image in images], np.uint64)


def upright_hashes(*values: int) -> NDArray[np.uint64]:
    """Hashes that are near as images stand, if at all: those of other orientations are far from all."""
    turned = np.random.default_rng(0).integers(0, 2**64, (len(values), 7), np.uint64)
    return np.concatenate([np.array(values, np.uint64)[:, None], turned], axis=1)


def near(images: Sequence[Image.Image]) -> list[tuple[int, int]]:
    return [(pair.first, pair.second) for pair in duplicates.near_duplicates(hashes_of(images), images.__getitem__)]


def flipped(value: int, bits: Sequence[int]) -> int:
    return value ^ sum(1 << int(bit) for bit in bits)


def test_equal_runs_are_the_positions_of_repeated_values() -> None:
    assert duplicates.equal_runs(digests("b", "a", "c", "b", "a", "b")) == [[0, 3, 5], [1, 4]]
    assert duplicates.equal_runs(np.array([7, 2**63, 7, 2**63], np.uint64)) == [[0, 2], [1, 3]]
    assert duplicates.equal_runs(digests("a", "b", "c")) == duplicates.equal_runs(digests()) == []


def test_the_first_of_equal_images_is_kept() -> None:
    groups = duplicates.exact_duplicates(digests("x", "a", "x", "x"), ["Basophil"] * 4, originals(4))
    assert groups.kept == {0: [2, 3]}
    assert groups.conflicts == []


@pytest.mark.parametrize(
    ("labels", "augmented"),
    [
        (["Basophil", "Basophil"], [True, False]),
        (["Neutrophil", "Band Neutrophil"], [False, False]),
        (["Neutrophil", "Band Neutrophil"], [False, True]),
    ],
    ids=["an_original", "the_finer_label", "the_finer_label_before_an_original"],
)
def test_of_two_equal_images_is_kept(labels: list[str], augmented: list[bool]) -> None:
    groups = duplicates.exact_duplicates(digests("x", "x"), labels, augmented)
    assert (groups.kept, groups.conflicts) == ({1: [0]}, [])


@pytest.mark.parametrize(
    "labels",
    [
        ("Eosinophil", "Band Neutrophil"),
        ("Neutrophil", "Band Neutrophil", "Segmented Neutrophil"),
        ("Eosinophil", "Eosinophil", "Basophil"),
    ],
    ids=["two_classes", "two_children", "a_majority"],
)
def test_labels_that_disagree_are_a_conflict_of_the_whole_group(labels: tuple[str, ...]) -> None:
    groups = duplicates.exact_duplicates(digests(*"x" * len(labels)), labels, originals(len(labels)))
    assert groups.kept == {}
    assert groups.conflicts == [list(range(len(labels)))]


def test_reencoded_shifted_and_resized_copies_are_near_duplicates() -> None:
    small = blobs(5).resize((64, 64), Image.Resampling.BICUBIC)
    images = [blobs(0), blobs(1), as_jpeg(blobs(1)), blobs(3), ImageChops.offset(blobs(3), 1, 1), blobs(5), small]
    assert near(images) == [(1, 2), (3, 4), (5, 6)]


def test_rotated_and_flipped_copies_of_another_size_and_coding_are_near_duplicates() -> None:
    images = [blobs(number) for number in range(8)]
    for image, orientation in zip(images[1:], ORIENTATIONS[1:], strict=True):
        turned = image.transpose(Image.Transpose[orientation.name.upper()])
        images.append(as_jpeg(turned.resize((64, 64), Image.Resampling.BICUBIC)))
    pairs = duplicates.near_duplicates(hashes_of(images), images.__getitem__)
    assert [(pair.first, pair.second, pair.orientation.name) for pair in pairs] == [
        (number, number + 7, ORIENTATIONS[number].name) for number in range(1, 8)
    ]


def test_a_rotated_copy_that_comes_first_is_rotated_back() -> None:
    images = [blobs(1).transpose(Image.Transpose.ROTATE_90), blobs(1)]
    (pair,) = duplicates.near_duplicates(hashes_of(images), images.__getitem__)
    assert pair.orientation.name == "rotate_270"


def test_a_mirrored_copy_with_the_same_hashes_is_a_near_duplicate() -> None:
    images = [blobs(1), blobs(1).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    (pair,) = duplicates.near_duplicates(np.full((2, 8), 99, np.uint64), images.__getitem__)
    assert pair.orientation.name == "flip_left_right"


def test_the_orientation_that_agrees_best_is_named() -> None:
    half = np.asarray(blobs(1))[:, :48]
    symmetric = Image.fromarray(np.concatenate([half, half[:, ::-1]], axis=1))
    nearly = Image.blend(symmetric, blobs(2), 0.2)  # agrees with itself better than with its mirror image
    assert duplicates.correlation(duplicates.thumbnail(nearly), duplicates.thumbnail(nearly)[:, ::-1]) > 0.93
    for turned in (nearly, nearly.transpose(Image.Transpose.FLIP_LEFT_RIGHT)):
        (pair,) = duplicates.near_duplicates(np.full((2, 8), 99, np.uint64), [nearly, turned].__getitem__)
        assert pair.orientation.name == ("upright" if turned is nearly else "flip_left_right")


@pytest.mark.parametrize(("share", "upright", "rotated"), [(0.32, True, False), (0.36, False, False)])
def test_how_alike_images_must_be_upright_and_rotated(share: float, upright: bool, rotated: bool) -> None:
    other = Image.blend(blobs(1), blobs(2), share)
    hashes = np.full((2, 8), 99, np.uint64)
    assert bool(duplicates.near_duplicates(hashes, [blobs(1), other].__getitem__)) == upright
    turned = other.transpose(Image.Transpose.ROTATE_90)
    assert bool(duplicates.near_duplicates(hashes, [blobs(1), turned].__getitem__)) == rotated


@pytest.mark.parametrize("apart", [0, 8])
def test_different_cells_with_near_hashes_are_no_duplicates(apart: int) -> None:
    hashes = upright_hashes(12_345, flipped(12_345, range(apart)))
    assert duplicates.near_duplicates(hashes, [cell(0), cell(1)].__getitem__) == []


def test_like_images_with_far_hashes_are_not_compared() -> None:
    hashes = upright_hashes(0, flipped(0, range(9)))
    assert duplicates.near_duplicates(hashes, [cell(0), cell(0)].__getitem__) == []


def test_a_near_pair_says_how_near_it_is() -> None:
    hashes = upright_hashes(0, flipped(0, [3, 40]))
    (pair,) = duplicates.near_duplicates(hashes, [cell(0), as_jpeg(cell(0))].__getitem__)
    assert pair.distance == 2
    assert duplicates.MIN_CORRELATION <= pair.correlation <= 1


def test_two_kinds_of_image_under_one_hash_stay_apart() -> None:
    images = [cell(0), cell(1), cell(0), cell(1)]
    pairs = duplicates.near_duplicates(np.repeat(upright_hashes(0), 4, axis=0), images.__getitem__)
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2), (1, 3)]


def test_images_are_asked_for_only_where_hashes_are_near() -> None:
    def image_of(row: int) -> Image.Image:
        pytest.fail(f"row {row} was opened")

    assert duplicates.near_duplicates(upright_hashes(0, flipped(0, range(30))), image_of) == []


def test_many_equal_images_are_linked_without_comparing_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    correlation = duplicates.correlation
    monkeypatch.setattr(duplicates, "correlation", lambda a, b: compared.append(1) or correlation(a, b))
    image = cell(0)
    pairs = duplicates.near_duplicates(np.full((300, 8), 99, np.uint64), lambda row: image)
    joined = duplicates.join_groups(np.arange(300), [(pair.first, pair.second) for pair in pairs])
    assert set(joined.tolist()) == {0}
    assert len(compared) < 400


@pytest.mark.parametrize("values", [1, 2, 3])
def test_rows_with_equal_hashes_share_a_bucket(values: int) -> None:
    hashes = np.random.default_rng(values).integers(0, values, (300, 8), np.uint64)
    expected, numbers = np.unique(hashes, axis=0, return_inverse=True)
    distinct, bucket_of = duplicates._distinct(hashes)
    np.testing.assert_array_equal(distinct, expected)
    np.testing.assert_array_equal(bucket_of, numbers)


def test_the_hash_search_runs_where_and_how_it_is_told(tmp_path: Path) -> None:
    images = [blobs(0), as_jpeg(blobs(0))]
    run: list[SearchTask] = []

    def recorded(function: Callable[[SearchTask], int], tasks: Iterable[SearchTask]) -> Iterator[int]:
        return map(function, (run.append(task) or task for task in tasks))

    hashes = hashes_of(images)
    hashes[1] ^= np.uint64(1)
    assert duplicates.near_duplicates(hashes, images.__getitem__, run=recorded, folder=tmp_path)
    assert [task.path.is_relative_to(tmp_path) and task.path.exists() for task in run] == [True]


def test_equal_flat_images_are_near_duplicates() -> None:
    flat = Image.new("RGB", (64, 64), (240, 230, 220))
    assert near([flat, flat.copy()]) == [(0, 1)]


def test_the_correlation_ignores_brightness_and_sees_a_negative() -> None:
    image = duplicates.thumbnail(cell(0))
    darker = duplicates.thumbnail(cell(0).point(lambda level: level // 2 + 20))
    negative = duplicates.thumbnail(cell(0).point(lambda level: 255 - level))
    assert duplicates.correlation(image, image.copy()) == pytest.approx(1)
    assert duplicates.correlation(image, darker) > 0.999
    assert duplicates.correlation(image, negative) < -0.999


def joined(groups: list[int], pairs: Sequence[tuple[int, int]]) -> list[int]:
    return duplicates.join_groups(np.array(groups), pairs).tolist()


def test_groups_join_through_a_chain_of_pairs() -> None:
    assert joined([4, 3, 2, 9], [(0, 1), (1, 2)]) == [2, 2, 2, 9]


def test_a_joined_pair_takes_the_rest_of_its_groups_with_it() -> None:
    assert joined([7, 7, 5, 5, 8], [(1, 2)]) == [5, 5, 5, 5, 8]


def test_groups_without_pairs_keep_their_numbers() -> None:
    assert joined([1, 0, 1], []) == [1, 0, 1]


def test_joined_groups_do_not_depend_on_the_order_of_pairs() -> None:
    groups, pairs = [4, 3, 2, 1, 0], [(0, 1), (3, 4), (1, 3)]
    assert joined(groups, pairs) == joined(groups, [(b, a) for a, b in pairs[::-1]])


@pytest.mark.real_data
def test_the_cells_of_pbc_that_were_captured_twice_are_near_duplicates(real_data: Path) -> None:
    twice = {name for pair in CAPTURED_TWICE for name in pair}
    pbc = real_data / "PBC_dataset_normal_DIB"
    others = {f"{path.parent.name}/{path.stem}" for folder in ("eosinophil", "ig") for path in some_of(pbc / folder)}
    names = sorted(twice | others)
    images = [decode((pbc / f"{name}.jpg").read_bytes()).image for name in names]
    assert {(names[first], names[second]) for first, second in near(images)} == set(CAPTURED_TWICE)


def some_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("[A-Z]*.jpg"))[::6]
