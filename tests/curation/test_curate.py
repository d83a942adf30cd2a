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
    """A smooth random image that resembles no other."""
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


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[InMemory, Curated]:
    """Copies, conflicts, files that cannot be used, near duplicates and the boxes of a field, curated together."""
    source = InMemory("a").add("copy-1.png", encoded(blobs(0))).add("copy-2.bmp", encoded(blobs(0), "BMP"))
    source.add("finer-1.png", encoded(blobs(1)), "Neutrophil").add("finer-2.png", encoded(blobs(1)), "Band Neutrophil")
    source.add("original-1.png", encoded(blobs(2)), augmented=True).add("original-2.png", encoded(blobs(2)))
    source.add("conflict-1.png", encoded(blobs(3)), "Eosinophil")
    source.add("conflict-2.png", encoded(blobs(3)), "Band Neutrophil")
    source.add("near-1.png", encoded(blobs(4))).add("near-2.jpg", encoded(blobs(4), "JPEG", quality=85))
    source.add("bad-1.png", b"").add("bad-2.png", b"no image").add("bad-3.png", encoded(Image.new("RGB", (900, 20))))
    source.add("bad-4.png", encoded(blobs(5)), None, source_label="KSC")
    source.add("bad-5.png", encoded(blobs(6)), box=(10, 10, 49, 30))
    source.add("bad-6.png", encoded(blobs(6)), box=(20, 10, 20, 30))
    field = Image.new("RGB", (96, 40))
    field.paste(blobs(7), (0, 0))
    field.paste(blobs(8), (48, 0))
    source.add("field.png", encoded(field), image_id="a/field.png#0", box=(0, 0, 40, 40))
    source.add("field.png", encoded(field), image_id="a/field.png#1", box=(48, 0, 96, 40))
    return source, curated(tmp_path_factory.mktemp("mixed"), source)


def test_every_record_becomes_a_row_or_is_dropped_with_its_reason(mixed: tuple[InMemory, Curated]) -> None:
    source, result = mixed
    assert reasons(result) == {
        "a/copy-2.bmp": "duplicate",
        "a/finer-1.png": "duplicate",
        "a/original-1.png": "duplicate",
        "a/conflict-1.png": "label_conflict",
        "a/conflict-2.png": "label_conflict",
        "a/bad-1.png": "empty_file",
        "a/bad-2.png": "not_an_image",
        "a/bad-3.png": "too_elongated",
        "a/bad-4.png": "unknown_label:KSC",
        "a/bad-5.png": "box_outside_image",
        "a/bad-6.png": "box_outside_image",
    }
    kept = list(column(result, "split"))
    assert kept == sorted(kept)
    assert sorted([*kept, *reasons(result)]) == sorted(record.image_id for record in source.records())
    assert len(result.dropped) == len(reasons(result))


def test_duplicates_and_conflicts_are_listed(mixed: tuple[InMemory, Curated]) -> None:
    _, result = mixed
    assert {(pair.image_id, pair.duplicate_of, pair.kind) for pair in result.duplicates} == {
        ("a/copy-2.bmp", "a/copy-1.png", "exact"),
        ("a/finer-1.png", "a/finer-2.png", "exact"),
        ("a/original-1.png", "a/original-2.png", "exact"),
        ("a/near-2.jpg", "a/near-1.png", "near"),
        ("a/conflict-2.png", "a/conflict-1.png", "near"),
    }
    assert result.conflicts == [[("a/conflict-1.png", "Eosinophil"), ("a/conflict-2.png", "Band Neutrophil")]]


def test_the_boxes_of_a_field_become_rows_of_their_own_size(mixed: tuple[InMemory, Curated]) -> None:
    _, result = mixed
    width, acquisition = column(result, "width"), column(result, "acquisition")
    assert (width["a/field.png#0"], width["a/field.png#1"]) == (40, 48)
    assert all(acquisition[f"a/field.png#{box}"].startswith("96x32/png/") for box in (0, 1))


def test_the_acquisition_ends_with_the_tone_of_the_background(tmp_path: Path) -> None:
    cream = Image.new("RGB", (48, 40), (251, 225, 200))
    cream.paste(blobs(0).crop((0, 0, 28, 20)), (10, 10))
    result = curated(tmp_path, InMemory("a").add("1.png", encoded(cream)))
    assert column(result, "acquisition") == {"a/1.png": "32x32/png/warm"}


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


def test_no_group_crosses_a_split_or_tier_and_train_alone_has_tiers(tmp_path: Path) -> None:
    source = InMemory("a")
    for number in range(120):
        source.add(f"{number:03d}.png", encoded(blobs(number)), group=f"smear {number % 40}")
    result = curated(tmp_path, source)
    group, split, tier = (column(result, name) for name in ("group_id", "split", "tier"))
    assert len({(group[row], split[row], tier[row]) for row in group}) == len(set(group.values())) == 40
    assert all((tier[row] in TIERS) == (split[row] == "train") for row in split)
    assert set(tier.values()) == {*TIERS, ""}


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


def test_a_dark_image_among_bright_ones_is_flagged_and_kept(tmp_path: Path) -> None:
    source = InMemory("a")
    for number in range(40):
        bright = Image.fromarray(200 + np.asarray(blobs(number)) // 6)
        source.add(f"{number:02d}.png", encoded(bright))
    dark = Image.fromarray(np.asarray(blobs(99)) // 6)
    result = curated(tmp_path, source.add("dark.png", encoded(dark)))
    flags = {name: column(result, f"{name}_outlier") for name in QUALITIES}
    assert flags["brightness"]["a/dark.png"]
    assert all(len(flag) == 41 for flag in flags.values())


def test_the_order_of_records_does_not_matter(tmp_path: Path) -> None:
    source = filled("a", 40).add("near.jpg", encoded(blobs(1_003), "JPEG", quality=85))
    source.add("same.png", encoded(blobs(1_004))).add("other.png", encoded(blobs(1_005)), "Eosinophil")
    forth = curated(tmp_path / "forth", source)
    assert column(forth, "split") != column(curated(tmp_path / "forth", source, seed=7), "split")
    source.listed.reverse()
    back = curated(tmp_path / "back", source)
    columns = [name for name in forth.rows.column_names if name not in ("chunk", "position")]
    assert back.rows.select(columns).equals(forth.rows.select(columns))
    assert (back.duplicates, back.conflicts) == (forth.duplicates, forth.conflicts)
    assert reasons(back) == reasons(forth)


def test_no_usable_image_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(CelluScanError, match="no usable image"):
        curated(tmp_path, InMemory("a").add("1.png", b""))


def test_an_excluded_acquisition_is_dropped_and_named_and_one_that_no_image_has_is_refused(tmp_path: Path) -> None:
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
    with pytest.raises(CelluScanError, match=r"has the acquisition nothing; the most frequent are: \S+ \("):
        exclude(scanned, ["nothing"])
