"""A Hugging Face dataset as a source: parquet, `save_to_disk`, the Hub; its labels, groups, names and bytes."""

import io
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.sources import Dropped, Record, Selection, hf_tables, open_source, open_sources

NAMES = ["basophils", "MO", "Eosinophil"]


@pytest.fixture(scope="session")
def png(cell_image):
    """The PNG file of a drawn cell."""

    def draw(seed):
        buffer = io.BytesIO()
        cell_image(seed).save(buffer, "PNG")
        return buffer.getvalue()

    return draw


@pytest.fixture(scope="session")
def rows(png):
    """A dataset of `count` cells with labels, patients, and the names that its images were stored under."""

    def make(count=6, first=0, names=NAMES, paths=True):
        numbers = range(first, first + count)
        features = Features(image=Image(), label=ClassLabel(names=names), patient=Value("string"))
        images = [{"bytes": png(n), "path": f"{n}.png" if paths else None} for n in numbers]
        return Dataset.from_dict(
            {"image": images, "label": [n % len(names) for n in numbers], "patient": [f"p{n // 2}" for n in numbers]},
            features=features,
        )

    return make


def source_of(path, tmp_path, name="hf_dataset", **selection):
    key = "hf_dataset" if name == "hf_dataset" else f"hf_dataset:{name}"
    return open_source(f"{key}={path}", tmp_path / "scratch", 0, selections={name: Selection(**selection)})


def records(source):
    return [item for item in source.records() if isinstance(item, Record)]


def refused(path, tmp_path, **selection):
    with pytest.raises(CelluScanError) as error:
        list(source_of(path, tmp_path, **selection).records())
    assert "\n" not in str(error.value)
    return str(error.value)


def parquet(folder, **splits):
    """A folder as a repository of the Hub has it."""
    for split, data in splits.items():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        data.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def saved(folder, data):
    data.save_to_disk(folder)
    return folder


LAYOUTS = {
    "parquet": lambda folder, data: parquet(folder, train=data),
    "save_to_disk": saved,
    "save_to_disk of splits": lambda folder, data: saved(folder, DatasetDict(train=data)),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_bytes_and_names_are_the_same_in_every_layout(layout, tmp_path, rows, png):
    source = source_of(LAYOUTS[layout](tmp_path / "cells", rows()), tmp_path)
    cells = records(source)
    assert [record.label for record in cells] == ["Basophil", "Monocyte", "Eosinophil"] * 2
    assert [record.source_label for record in cells] == NAMES * 2
    assert [record.image_id for record in cells] == [f"hf_dataset/train/{n}.png" for n in range(6)]
    assert [source.read(record) for record in cells] == [png(n) for n in range(6)]
    again = pickle.loads(pickle.dumps(source))  # as for a worker process
    assert [again.read(record) for record in reversed(cells)] == [png(n) for n in reversed(range(6))]


def test_one_parquet_file_is_a_data_set(tmp_path, rows):
    rows().to_parquet(tmp_path / "mine.parquet")
    assert len(records(source_of(tmp_path / "mine.parquet", tmp_path))) == 6


def test_splits_are_read_together_or_as_chosen(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows(), test=rows(3, first=10))
    assert len(records(source_of(folder, tmp_path))) == 9
    assert len(records(source_of(folder, tmp_path, splits=("test",)))) == 3
    assert "has no split dev; there are: test, train" in refused(folder, tmp_path, splits=("dev",))


def test_rows_are_numbered_where_their_names_are_not_unique(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows(3, paths=False), test=rows(2, first=10))
    ids = [record.image_id for record in records(source_of(folder, tmp_path))]
    assert ids == ["hf_dataset/test/10.png", "hf_dataset/test/11.png", *(f"hf_dataset/train/{n}" for n in range(3))]


@pytest.mark.parametrize("name", ["../1.png", "/data/1.png", "C:\\1.png", "https://x/1.png"])
def test_names_that_are_no_clean_path_are_not_taken(name, tmp_path, png):
    images = pa.array([{"bytes": png(1), "path": name}])
    pq.write_table(pa.table({"image": images, "label": ["BA"]}), tmp_path / "x.parquet")
    assert [record.image_id for record in records(source_of(tmp_path / "x.parquet", tmp_path))] == [
        "hf_dataset/train/0"
    ]


def test_configs_of_the_card_are_followed(tmp_path, rows):
    folder = parquet(tmp_path / "cells", a=rows(2), b=rows(4, first=10))
    declared = "".join(
        f"- config_name: {name}\n  data_files: data/{file}-*.parquet\n" for name, file in (("one", "a"), ("two", "b"))
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{declared}---\n# Cells\n")
    assert "has the configs one, two; choose one with --dataset-config" in refused(folder, tmp_path)
    assert len(records(source_of(folder, tmp_path, config="two"))) == 4
    (folder / "README.md").write_text(f"---\nconfigs:\n{declared}  default: true\n---\n# Cells\n")
    assert len(records(source_of(folder, tmp_path))) == 4


def test_a_card_names_no_file_outside(tmp_path, rows):
    rows().to_parquet(tmp_path / "outside.parquet")
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "README.md").write_text("---\nconfigs:\n- data_files: ../outside.parquet\n---\n")
    assert "outside" in refused(tmp_path / "cells", tmp_path)


def test_license_and_citation_come_from_the_card(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows())
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-4.0\npretty_name: Our cells\n---\n```\n@article{a,\n  title={Cells},\n}\n```\n"
    )
    source = source_of(folder, tmp_path)
    assert (source.license, source.info.title) == ("CC-BY-4.0", "Our cells")
    assert source.info.citation == "@article{a, title={Cells}, }"
    [given] = open_sources([f"hf_dataset={folder}"], tmp_path, 0, {"hf_dataset": "MIT"})
    assert given.license == "MIT"


def test_license_is_unknown_where_none_is_stated(tmp_path, rows):
    assert source_of(parquet(tmp_path / "cells", train=rows()), tmp_path).license == "unknown"


def test_columns_have_the_names_that_are_given(tmp_path, rows):
    data = rows().rename_columns({"image": "crop", "label": "diagnosis"})
    folder = parquet(tmp_path / "cells", train=data)
    message = refused(folder, tmp_path)
    assert "has no column image; it has crop, diagnosis, patient" in message and "--image-column" in message
    assert "--label-column" in refused(folder, tmp_path, image="crop")
    assert "--group-column" in refused(folder, tmp_path, image="crop", label="diagnosis", group="slide")
    assert len(records(source_of(folder, tmp_path, image="crop", label="diagnosis"))) == 6


def test_columns_of_another_kind_are_refused(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows().add_column("score", [0.5] * 6))
    assert "column score of data/train-00000-of-00001.parquet holds double" in refused(folder, tmp_path, label="score")
    assert "expected images as bytes or paths" in refused(folder, tmp_path, image="score")


def test_a_group_column_joins_cells(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows())
    source = source_of(folder, tmp_path, group="patient")
    assert [record.group for record in records(source)] == [f"hf_dataset/group:p{n // 2}" for n in range(6)]
    assert source.groups_from == "the column patient"


def test_without_a_group_column_likely_ones_are_named(tmp_path, rows):
    source = source_of(parquet(tmp_path / "cells", train=rows()), tmp_path)
    assert all(record.group == record.image_id for record in records(source))
    assert any("--group-column; patient may be one" in note for note in source.notes)


def test_groups_that_are_not_available_are_no_group(tmp_path, png):
    image = [{"bytes": png(n), "path": None} for n in range(4)]
    columns = {"image": image, "label": ["BA"] * 4, "s": ["NA", None, " 7 ", "7"]}
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    groups = [record.group for record in records(source_of(tmp_path / "x.parquet", tmp_path, group="s"))]
    assert groups == ["hf_dataset/train/0", "hf_dataset/train/1", "hf_dataset/group:7", "hf_dataset/group:7"]


def test_all_unknown_labels_stop_in_one_error(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows(names=["Basophil", "smudge", "neutrofil"]))
    message = refused(folder, tmp_path)
    assert "'neutrofil' (2), 'smudge' (2)" in message and '--map-label "neutrofil=CLASS"' in message


def test_unknown_labels_can_be_kept(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows(3, names=["Basophil", "smudge", "neutrofil"]))
    source = source_of(folder, tmp_path, labels=(("neutrofil", "drop"),))
    source.keeps_unmapped = True
    kept = [(record.source_label, record.label) for record in records(source)]
    assert kept == [("Basophil", "Basophil"), ("smudge", None)]


def test_labels_are_mapped_or_dropped_as_given(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows(names=["Basophil", "smudge", "neutrofil"]))
    items = list(source_of(folder, tmp_path, labels=(("smudge", "drop"), ("neutrofil", "NEU"))).records())
    assert [item.reason if isinstance(item, Dropped) else item.label for item in items] == [
        "Basophil", "no_class:smudge", "Neutrophil",
    ] * 2  # fmt: skip
    assert "names beach, which is not a label in it" in refused(folder, tmp_path, labels=(("beach", "drop"),))
    with pytest.raises(CelluScanError, match=r"--map-label smudge=Neutrofil: .*nearest: Neutrophil"):
        Selection(labels=(("smudge", "Neutrofil"),))


def test_numbers_without_names_are_refused_until_they_have_some(tmp_path, png):
    image = [{"bytes": png(n), "path": None} for n in range(2)]
    pq.write_table(pa.table({"image": image, "label": [0, 1]}), tmp_path / "x.parquet")
    assert "are numbers without names: '0' (1), '1' (1)" in refused(tmp_path / "x.parquet", tmp_path)
    source = source_of(tmp_path / "x.parquet", tmp_path, labels=(("0", "BA"), ("1", "EO")))
    assert [record.label for record in records(source)] == ["Basophil", "Eosinophil"]


def test_names_of_classes_are_also_taken_from_the_card(tmp_path, png):
    image = [{"bytes": png(n), "path": None} for n in range(2)]
    (tmp_path / "cells").mkdir()
    pq.write_table(pa.table({"image": image, "label": [0, 1]}), tmp_path / "cells" / "train.parquet")
    (tmp_path / "cells" / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        "          '0': basophil\n          '1': monocyte\n---\n"
    )
    assert [record.label for record in records(source_of(tmp_path / "cells", tmp_path))] == ["Basophil", "Monocyte"]


def test_rows_without_a_label_have_none(tmp_path, png):
    image = [{"bytes": png(n), "path": None} for n in range(2)]
    pq.write_table(pa.table({"image": image, "label": ["BA", None]}), tmp_path / "x.parquet")
    assert [record.label for record in records(source_of(tmp_path / "x.parquet", tmp_path))] == ["Basophil", None]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_images_may_be_plain_bytes(kind, tmp_path, png):
    pq.write_table(pa.table({"image": pa.array([png(1)], kind), "label": ["BA"]}), tmp_path / "x.parquet")
    source = source_of(tmp_path / "x.parquet", tmp_path)
    assert [source.read(record) for record in records(source)] == [png(1)]


def test_images_may_be_paths_inside_the_folder_only(tmp_path, png):
    folder = tmp_path / "cells"
    (folder / "images").mkdir(parents=True)
    for path in (folder / "images" / "1.png", tmp_path / "outside.png"):
        path.write_bytes(png(1))
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    paths = ["images/1.png", "images\\1.png", "../outside.png", str(tmp_path / "outside.png"), "link.png",
             "images/2.png", "https://example.org/1.png", None]  # fmt: skip
    pq.write_table(pa.table({"image": paths, "label": ["BA"] * len(paths)}), folder / "train.parquet")
    source = source_of(folder, tmp_path)
    outcomes = []
    for record in records(source):
        try:
            outcomes.append(source.read(record) == png(1))
        except BadImage as bad:
            outcomes.append(bad.reason)
    assert outcomes == [True, True, "unsafe_path", "unsafe_path", "unsafe_path", "missing_file", "not_embedded",
                        "missing_file"]  # fmt: skip


def test_large_row_groups_are_written_again_in_small_ones(tmp_path, png, monkeypatch):
    monkeypatch.setattr(hf_tables, "MAX_GROUP_BYTES", 10_000)
    monkeypatch.setattr(hf_tables, "_WRITTEN_BYTES", 10_000)
    image = [{"bytes": png(n), "path": f"{n}.png"} for n in range(100)]
    pq.write_table(pa.table({"image": image, "label": ["BA"] * 100}), tmp_path / "x.parquet")
    source = source_of(tmp_path / "x.parquet", tmp_path)
    [copy] = (tmp_path / "scratch").iterdir()
    assert pq.read_metadata(copy).num_row_groups > 2
    cells = records(source)
    assert [source.read(record) for record in cells] == [png(n) for n in range(100)]


def test_a_data_set_built_by_this_project_gives_its_originals(data_set, tmp_path):
    source = source_of(data_set, tmp_path, name="ours")
    cells = records(source)
    assert len(cells) == 14 * 20
    assert all(record.image_id.startswith("ours/synthetic/") for record in cells)
    assert source.license == "MIT"
    table = pa.concat_tables([pq.read_table(path) for path in data_set.glob("data/originals/*.parquet")])
    groups = dict(zip(table["image_id"].to_pylist(), table["group_id"].to_pylist(), strict=True))
    assert {r.image_id: r.group for r in cells} == {
        f"ours/{name}": f"ours/group:{group}" for name, group in groups.items()
    }


def test_augmented_rows_of_a_data_set_of_ours_are_dropped(data_set, tmp_path):
    items = list(source_of(data_set, tmp_path, config="subset_5").records())
    assert {item.reason for item in items if isinstance(item, Dropped)} == {"augmented"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"Basophil/1.png": b"x"}, "read a folder of images with --source imagefolder="),
        ({"data/train.csv": b"a,b"}, "holds no parquet files"),
        ({}, "holds no parquet files"),
        ({"train.parquet": b"PAR1 and no more"}, "is damaged or missing"),
        ({"train.parquet": b"version https://git-lfs.github.com/spec/v1"}, "is a Git LFS pointer"),
        ({"state.json": b"{}"}, "is not a complete dataset of save_to_disk"),
        ({"state.json": b'{"_data_files": [{"filename": "gone.arrow"}]}'}, "is damaged or missing"),
        ({"README.md": b"---\n: [\n---\n", "train.parquet": b""}, "YAML of"),
    ],
)
def test_what_is_no_data_set_is_one_line(files, message, tmp_path, write_files):
    assert message in refused(write_files(tmp_path / "cells", files), tmp_path)


@pytest.mark.parametrize("name", ["not a name", "a/b/c", "gone/"])
def test_a_value_that_is_neither_path_nor_name_is_one_line(name, tmp_path):
    assert "does not exist, and is not the name of a dataset on the Hub" in refused(name, tmp_path)


def test_a_name_that_cannot_be_fetched_is_one_line(tmp_path):
    assert "source hf_dataset: lab/none does not exist here and cannot be fetched" in refused("lab/none", tmp_path)


def test_the_stamp_tells_that_a_file_was_changed(tmp_path, rows):
    folder = parquet(tmp_path / "cells", train=rows())
    first, second = source_of(folder, tmp_path), source_of(folder, tmp_path)
    parquet(folder, train=rows(6, first=1))
    third = source_of(folder, tmp_path)
    records(third)
    changed = third.stamp
    records(first)
    assert changed and first.stamp == changed  # both see the file as it is now
    assert second.stamp == ""


def test_several_data_sets_have_names_of_their_own(tmp_path, rows):
    folders = [parquet(tmp_path / name, train=rows()) for name in ("a", "b")]
    specs = [f"hf_dataset:{folder.name}={folder}" for folder in folders]
    assert [source.name for source in open_sources(specs, tmp_path, 0, {})] == ["a", "b"]
    with pytest.raises(CelluScanError, match="hf_dataset:NAME=PATH"):
        open_sources([f"hf_dataset={folder}" for folder in folders], tmp_path, 0, {})


def test_location_is_the_folder(tmp_path, rows):
    assert source_of(parquet(tmp_path / "cells", train=rows()), tmp_path).location == Path(tmp_path / "cells")
