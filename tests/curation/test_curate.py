"""From scanned records to clean rows: what is dropped and listed, what stays together, what may be tested on."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celluscan_hf.curation.curate import QUALITIES, Curated, curate, exclude
from celluscan_hf.curation.scan import Chunk, PixelReader, load_tables, scan
from celluscan_hf.curation.splits import SPLITS, TIERS
from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import Record, Source, SourceInfo

SIZE = 32


class InMemory(Source):
    """Records whose bytes are held in a dict."""

    info = SourceInfo("Drawn for a test", "CC0-1.0", "none", "https://example.org")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.files: dict[str, bytes] = {}
        self.listed: list[Record] = []

    def add(self, member: str, data: bytes, label: str | None = "Basophil", **more: Any) -> "InMemory":
        image_id = f"{self.name}/{member}"
        facts = {"image_id": image_id, "source_label": str(label), "group": image_id, **more}
        self.files[member] = data
        self.listed.append(Record(member=member, label=label, **facts))
        return self

    def records(self) -> Iterator[Record]:
        yield from self.listed

    def read(self, record: Record) -> bytes:
        return self.files[record.member]


def blobs(seed: int) -> Image.Image:
    """A smooth random picture that resembles no other."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(coarse).resize((48, 40), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def filled(name: str, count: int, first_seed: int = 1_000, **more: Any) -> InMemory:
    source = InMemory(name)
    for number in range(count):
        source.add(f"{number:03d}.png", encoded(blobs(first_seed + number)), **more)
    return source


def curated(folder: Path, *sources: InMemory, train_only: Sequence[str] = (), seed: int = 42) -> Curated:
    for number, source in enumerate(sources):
        scan(Chunk(number, source, tuple(source.records()), SIZE, folder))
    return curate(load_tables(folder), PixelReader(folder, SIZE), seed, set(train_only), lambda done: None)


def column(result: Curated, name: str) -> dict[str, Any]:
    return dict(zip(result.rows["image_id"].to_pylist(), result.rows[name].to_pylist(), strict=True))


def reasons(result: Curated) -> dict[str, str]:
    return {dropped.path: dropped.reason for dropped in result.dropped}


def test_a_copy_in_another_coding_is_dropped_and_listed(tmp_path: Path) -> None:
    source = InMemory("a").add("1.png", encoded(blobs(0))).add("2.bmp", encoded(blobs(0), "BMP"))
    result = curated(tmp_path, source.add("3.png", encoded(blobs(1))))
    assert list(column(result, "split")) == ["a/1.png", "a/3.png"]
    assert reasons(result) == {"a/2.bmp": "duplicate"}
    (listed,) = result.duplicates
    assert (listed.image_id, listed.duplicate_of, listed.kind) == ("a/2.bmp", "a/1.png", "exact")


def test_the_copy_with_the_finer_label_is_kept(tmp_path: Path) -> None:
    source = InMemory("a").add("1.png", encoded(blobs(0)), "Neutrophil")
    result = curated(tmp_path, source.add("2.png", encoded(blobs(0)), "Band Neutrophil"))
    assert column(result, "label") == {"a/2.png": "Band Neutrophil"}


def test_an_original_is_kept_before_its_augmented_copy(tmp_path: Path) -> None:
    source = InMemory("a").add("1.png", encoded(blobs(0)), augmented=True).add("2.png", encoded(blobs(0)))
    assert reasons(curated(tmp_path, source)) == {"a/1.png": "duplicate"}


def test_all_copies_with_labels_that_disagree_are_dropped_and_listed(tmp_path: Path) -> None:
    source = InMemory("a").add("1.png", encoded(blobs(0)), "Eosinophil").add("2.png", encoded(blobs(1)))
    result = curated(tmp_path, source.add("3.png", encoded(blobs(0)), "Band Neutrophil"))
    assert list(column(result, "split")) == ["a/2.png"]
    assert reasons(result) == {"a/1.png": "label_conflict", "a/3.png": "label_conflict"}
    assert result.conflicts == [[("a/1.png", "Eosinophil"), ("a/3.png", "Band Neutrophil")]]


def test_a_bad_image_is_dropped_with_its_reason(tmp_path: Path) -> None:
    source = InMemory("a").add("1.png", b"").add("2.png", b"no image").add("3.png", encoded(blobs(0)))
    assert reasons(curated(tmp_path, source)) == {"a/1.png": "empty_file", "a/2.png": "not_an_image"}


@pytest.mark.parametrize(
    ("data", "more", "reason"),
    [
        (encoded(Image.new("RGB", (900, 20))), {}, "too_elongated"),
        (encoded(blobs(0)), {"label": None, "source_label": "KSC"}, "unknown_label:KSC"),
        (encoded(blobs(0)), {"box": (10, 10, 49, 30)}, "box_outside_image"),
        (encoded(blobs(0)), {"box": (20, 10, 20, 30)}, "box_outside_image"),
    ],
)
def test_a_record_that_cannot_be_used_is_dropped(
    tmp_path: Path, data: bytes, more: dict[str, Any], reason: str
) -> None:
    assert reasons(curated(tmp_path, filled("a", 1).add("bad.png", data, **more))) == {"a/bad.png": reason}


def test_the_boxes_of_a_field_become_rows_of_their_own_size(tmp_path: Path) -> None:
    field = Image.new("RGB", (96, 40))
    field.paste(blobs(0), (0, 0))
    field.paste(blobs(1), (48, 0))
    source = InMemory("a").add("field.png", encoded(field), image_id="a/field.png#0", box=(0, 0, 40, 40))
    source.add("field.png", encoded(field), image_id="a/field.png#1", box=(48, 0, 96, 40))
    result = curated(tmp_path, source)
    assert column(result, "width") == {"a/field.png#0": 40, "a/field.png#1": 48}
    assert all(capture.startswith("96x32/png/") for capture in column(result, "acquisition").values())


def test_the_acquisition_ends_with_the_tone_of_the_background(tmp_path: Path) -> None:
    cream = Image.new("RGB", (48, 40), (251, 225, 200))
    cream.paste(blobs(0).crop((0, 0, 28, 20)), (10, 10))
    result = curated(tmp_path, InMemory("a").add("1.png", encoded(cream)))
    assert column(result, "acquisition") == {"a/1.png": "32x32/png/warm"}


def test_every_record_becomes_a_row_or_is_dropped(tmp_path: Path) -> None:
    source = filled("a", 10).add("bad.png", b"").add("same.png", encoded(blobs(1_000)))
    result = curated(tmp_path, source.add("other.png", encoded(blobs(1_001)), "Eosinophil"))
    paths = [*column(result, "split"), *reasons(result)]
    assert sorted(paths) == sorted(record.image_id for record in source.records())
    assert len(result.dropped) == len(reasons(result))


def test_near_duplicates_share_a_group_and_a_split(tmp_path: Path) -> None:
    source = filled("a", 30)
    for number in range(12):
        source.add(f"near-{number:03d}.jpg", encoded(blobs(1_000 + number), "JPEG", quality=85))
    result = curated(tmp_path, source)
    group, split = column(result, "group_id"), column(result, "split")
    for number in range(12):
        first, second = f"a/{number:03d}.png", f"a/near-{number:03d}.jpg"
        assert group[first] == group[second]
        assert split[first] == split[second]


def test_near_duplicates_are_kept_and_listed(tmp_path: Path) -> None:
    source = InMemory("a").add("1.png", encoded(blobs(0)))
    result = curated(tmp_path, source.add("2.jpg", encoded(blobs(0), "JPEG", quality=85)))
    assert result.rows.num_rows == 2
    (listed,) = result.duplicates
    assert (listed.image_id, listed.duplicate_of, listed.kind) == ("a/2.jpg", "a/1.png", "near")


def test_turned_copies_share_a_group_and_say_how_they_are_turned(tmp_path: Path) -> None:
    source = InMemory("a")
    for number, turn in enumerate(Image.Transpose):
        source.add(f"{number}.png", encoded(blobs(number)))
        source.add(f"{number}-copy.jpg", encoded(blobs(number).transpose(turn), "JPEG", quality=85))
    result = curated(tmp_path, source)
    group = column(result, "group_id")
    assert all(group[f"a/{number}.png"] == group[f"a/{number}-copy.jpg"] for number in range(7))
    turned = {(listed.duplicate_of, listed.image_id): listed.orientation for listed in result.duplicates}
    # the copy's name sorts first: what is listed is how the copy is turned back
    back = {"rotate_90": "rotate_270", "rotate_270": "rotate_90"}
    names = [back.get(turn.name.lower(), turn.name.lower()) for turn in Image.Transpose]
    assert turned == {(f"a/{number}-copy.jpg", f"a/{number}.png"): name for number, name in enumerate(names)}


def test_groups_linked_by_a_dropped_copy_stay_together(tmp_path: Path) -> None:
    source = InMemory("a")
    for number in range(40):
        source.add(f"{number:02d}-first.png", encoded(blobs(number)), group=f"smear {number:02d}")
        source.add(f"{number:02d}-copy.png", encoded(blobs(number)), group=f"slide {number:02d}")
        source.add(f"{number:02d}-mate.png", encoded(blobs(500 + number)), group=f"slide {number:02d}")
    result = curated(tmp_path, source)
    group = column(result, "group_id")
    assert result.rows.num_rows == 80
    assert len(set(group.values())) == 40


def test_no_group_crosses_a_split_or_tier(tmp_path: Path) -> None:
    source = InMemory("a")
    for number in range(60):
        source.add(f"{number:02d}.png", encoded(blobs(number)), group=f"smear {number % 20}")
    result = curated(tmp_path, source)
    group, split, tier = (column(result, name) for name in ("group_id", "split", "tier"))
    assert len({(group[row], split[row], tier[row]) for row in group}) == len(set(group.values())) == 20


def test_augmented_groups_are_in_train_only(tmp_path: Path) -> None:
    source = filled("a", 30)
    for number in range(30):
        group = f"cell {number % 15}"
        source.add(f"aug-{number}.png", encoded(blobs(number)), group=group, augmented=number >= 15)
    split = column(curated(tmp_path, source), "split")
    assert {split[row] for row in split if "aug-" in row} == {"train"}
    assert set(split.values()) == set(SPLITS)


def test_sources_that_may_not_be_tested_on_are_in_train_only(tmp_path: Path) -> None:
    result = curated(tmp_path, filled("a", 30), filled("b", 30, first_seed=2_000), train_only=["b"])
    split = column(result, "split")
    assert {split[row] for row in split if row.startswith("b/")} == {"train"}
    assert {split[row] for row in split if row.startswith("a/")} == set(SPLITS)


def test_a_cell_that_reappears_in_a_train_only_source_is_in_train(tmp_path: Path) -> None:
    copies = InMemory("b")
    for number in range(30):
        copies.add(f"{number}.jpg", encoded(blobs(1_000 + number), "JPEG", quality=85))
    split = column(curated(tmp_path, filled("a", 30), copies, train_only=["b"]), "split")
    assert set(split.values()) == {"train"}


def test_a_cell_whose_dropped_copy_was_augmented_is_in_train(tmp_path: Path) -> None:
    source = filled("a", 30)
    for number in range(30):
        source.add(f"copy-{number}.png", encoded(blobs(1_000 + number)), augmented=True)
    result = curated(tmp_path, source)
    assert result.rows.num_rows == 30
    assert set(column(result, "split").values()) == {"train"}


def test_exactly_the_rows_of_train_have_a_tier(tmp_path: Path) -> None:
    result = curated(tmp_path, filled("a", 120))
    split, tier = column(result, "split"), column(result, "tier")
    assert all((tier[row] in TIERS) == (split[row] == "train") for row in split)
    assert {tier[row] for row in split if split[row] != "train"} == {""}
    assert set(tier.values()) == {*TIERS, ""}


@pytest.mark.parametrize("name", QUALITIES)
def test_every_quality_has_an_outlier_flag(tmp_path: Path, name: str) -> None:
    flags = column(curated(tmp_path, filled("a", 5)), f"{name}_outlier")
    assert set(flags.values()) <= {True, False}


def test_a_dark_image_among_bright_ones_is_flagged_and_kept(tmp_path: Path) -> None:
    source = InMemory("a")
    for number in range(40):
        bright = Image.fromarray(200 + np.asarray(blobs(number)) // 6)
        source.add(f"{number:02d}.png", encoded(bright))
    dark = Image.fromarray(np.asarray(blobs(99)) // 6)
    flags = column(curated(tmp_path, source.add("dark.png", encoded(dark))), "brightness_outlier")
    assert flags["a/dark.png"]


def test_rows_are_sorted_by_image_id(tmp_path: Path) -> None:
    result = curated(tmp_path, filled("b", 5), filled("a", 5, first_seed=2_000))
    ids = result.rows["image_id"].to_pylist()
    assert ids == sorted(ids)


def test_the_order_of_records_does_not_matter(tmp_path: Path) -> None:
    source = filled("a", 40).add("near.jpg", encoded(blobs(1_003), "JPEG", quality=85))
    source.add("same.png", encoded(blobs(1_004))).add("other.png", encoded(blobs(1_005)), "Eosinophil")
    forth = curated(tmp_path / "forth", source)
    source.listed.reverse()
    back = curated(tmp_path / "back", source)
    places = ["chunk", "position"]
    assert back.rows.drop_columns(places).equals(forth.rows.drop_columns(places))
    assert (back.duplicates, back.conflicts) == (forth.duplicates, forth.conflicts)
    assert reasons(back) == reasons(forth)


def test_another_seed_splits_otherwise(tmp_path: Path) -> None:
    source = filled("a", 60)
    one, other = curated(tmp_path / "one", source, seed=1), curated(tmp_path / "other", source, seed=2)
    assert column(one, "split") != column(other, "split")


def test_no_usable_image_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CelluScanError, match="no usable image"):
        curated(tmp_path, InMemory("a").add("1.png", b""))


def test_an_excluded_acquisition_is_dropped_and_named(tmp_path: Path) -> None:
    source = filled("here", 12)
    for number in range(6):
        source.add(f"other-{number}.jpg", encoded(blobs(number), "JPEG"))
    scan(Chunk(0, source, tuple(source.records()), SIZE, tmp_path))
    scanned = load_tables(tmp_path)
    jpeg = sorted({name for name in scanned["acquisition"].to_pylist() if "jpeg" in name})
    assert jpeg
    result = curate(exclude(scanned, jpeg), PixelReader(tmp_path, SIZE), 42, set(), lambda done: None)
    assert result.rows.num_rows == 12
    assert {(item.reason, item.detail) for item in result.dropped} == {("excluded_acquisition", name) for name in jpeg}
    assert len(result.dropped) == 6


def test_an_acquisition_that_no_image_has_is_refused_with_those_there_are(tmp_path: Path) -> None:
    scan(Chunk(0, filled("here", 3), tuple(filled("here", 3).records()), SIZE, tmp_path))
    with pytest.raises(
        CelluScanError, match=r"no usable image has the acquisition nothing; the most frequent are: \S+ \("
    ):
        exclude(load_tables(tmp_path), ["nothing"])
