"""The rows of `celluscan predict`: their fields, both formats, bad images, files written atomically."""

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import LlavaImageProcessor, PreTrainedModel, pipeline

from celluscan_hf.errors import BadImage, CelluScanError
from celluscan_hf.inference import predict as module
from celluscan_hf.inference.loading import load_classifier, load_reliability
from celluscan_hf.inference.predict import predict, row
from celluscan_hf.inference.prediction import Output
from celluscan_hf.taxonomy import ID2LABEL, NAMES

Write = Callable[..., Path]
_SECOND_AND_THIRD = ["label_2", "score_2", "label_3", "score_3"]
_PLACE = module.FIELDS.index("top")
COLUMNS = [*module.FIELDS[:_PLACE], "label_1", "score_1", *_SECOND_AND_THIRD, *module.FIELDS[_PLACE + 1 :]]


@pytest.fixture
def cells(tmp_path: Path, write_image: Write) -> Path:
    """A folder of three cells, and a file cut short between them."""
    folder = tmp_path / "cells"
    for seed in range(3):
        write_image(folder / f"{seed}.jpg", seed)
    content = (folder / "1.jpg").read_bytes()
    (folder / "1b.jpg").write_bytes(content[: len(content) // 2])
    return folder


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def read_json(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def scores(**given: float) -> Output:
    """The output with the given probabilities, of names with `_` for a space."""
    values = {name.replace("_", " "): score for name, score in given.items()}
    probabilities = np.array([values.get(name, 0.0) for name in NAMES], np.float32)
    return Output(probabilities, probabilities, None)


def test_json_lines_agree_with_the_pipeline(cells: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    predict([cells], checkpoint, form="json", batch_size=2)
    rows = read_json(capsys.readouterr().out)
    assert [Path(written_row["image"]).name for written_row in rows] == ["0.jpg", "1.jpg", "1b.jpg", "2.jpg"]
    ask = pipeline("image-classification", model=str(checkpoint))
    for written_row in rows[:2] + rows[3:]:
        expected = ask(written_row["image"], top_k=3)
        assert [best["label"] for best in written_row["top"]] == [best["label"] for best in expected]
        assert [best["score"] for best in written_row["top"]] == pytest.approx(
            [best["score"] for best in expected], abs=1e-5
        )


def test_csv_and_json_lines_agree(cells: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    predict([cells], checkpoint)
    table = read_csv(capsys.readouterr().out)
    predict([cells], checkpoint, form="json")
    assert list(table[0]) == COLUMNS
    for line, fields in zip(table, read_json(capsys.readouterr().out), strict=True):
        spread = {f"{key}_{place}": best[key] for place, best in enumerate(fields.pop("top"), 1) for key in best}
        cell = {True: "true", False: "false", None: ""}
        flat = {
            key: cell[value] if value is None or value in (True, False) else str(value) for key, value in fields.items()
        }
        assert line == dict.fromkeys(COLUMNS, "") | flat | {k: str(v) for k, v in spread.items()}


def test_the_columns_are_as_documented(cells: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    predict([cells / "0.jpg"], checkpoint)
    header = "image,label,score,code,lineage,stage,parent,abnormal_in_blood,label_1,score_1,label_2,score_2,"
    header += "label_3,score_3,abnormal,set,abstain,reason,hint,ood_score,note,error"
    assert capsys.readouterr().out.splitlines()[0] == header


def test_a_calibrated_model_gives_set_and_abstention_in_both_formats(
    cells: Path, calibrated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    predict([cells / "0.jpg", cells / "1b.jpg"], calibrated, coverage=0.8)
    table = read_csv(capsys.readouterr().out)
    predict([cells / "0.jpg", cells / "1b.jpg"], calibrated, form="json", coverage=0.8)
    fields, bad = read_json(capsys.readouterr().out)
    answer = pipeline("wbc-classification", model=str(calibrated), device="cpu", coverage=0.8)(str(cells / "0.jpg"))
    assert {name for name in answer if name not in fields} == set()
    for name, expected in answer.items():
        value = [row["score"] for row in fields[name]] if name == "top" else fields[name]
        expected = [row["score"] for row in expected[:3]] if name == "top" else expected
        assert value == (pytest.approx(expected, abs=1e-4) if isinstance(expected, float | list) else expected), name
    assert table[0]["set"] == "; ".join(answer["set"])
    assert table[0]["abstain"] == str(answer["abstain"]).lower()
    assert [bad[name] for name in module.CALIBRATED_FIELDS] == [None] * 6
    assert table[1]["set"] == ""
    with pytest.raises(CelluScanError, match=r"--coverage 90: expected a share"):
        predict([cells / "0.jpg"], calibrated, coverage=90)


def test_if_children_compete_the_row_names_the_parent(calibrated: Path) -> None:
    reliability = load_reliability(load_classifier(calibrated)[0])
    assert reliability
    output = replace(
        scores(Band_Neutrophil=0.52, Segmented_Neutrophil=0.46, Monocyte=0.02),
        features=np.concatenate([part.centres[0] for part in reliability.scorers]).astype(np.float32),
    )
    written_row = row("a.png", output, ID2LABEL, 2, replace(reliability, confidence_threshold=0.9))
    assert (written_row["label"], written_row["score"], written_row["code"]) == (
        "Neutrophil",
        pytest.approx(0.98),
        "NEU",
    )
    assert written_row["abstain"] is True
    assert [best["label"] for best in written_row["top"]] == ["Band Neutrophil", "Segmented Neutrophil"]


def test_facts_of_the_taxonomy_stand_beside_the_label() -> None:
    written_row = row("a.png", scores(Myelocyte=0.7, Metamyelocyte=0.2, Promyelocyte=0.1), ID2LABEL, 2)
    assert written_row == {
        "image": "a.png",
        "label": "Myelocyte",
        "score": 0.7,
        "code": "MY",
        "lineage": "granulocytic",
        "stage": 3,
        "parent": "Immature Granulocyte",
        "abnormal_in_blood": True,
        "top": [{"label": "Myelocyte", "score": 0.7}, {"label": "Metamyelocyte", "score": 0.2}],
        "abnormal": None,
        "set": None,
        "abstain": None,
        "reason": None,
        "hint": None,
        "ood_score": None,
        "note": None,
        "error": None,
    }


def test_what_is_no_stained_cell_is_said_of_any_model(checkpoint: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")
    predict([tmp_path / "white.png"], checkpoint, tmp_path / "rows.jsonl")
    (fields,) = read_json((tmp_path / "rows.jsonl").read_text())
    assert (fields["abstain"], fields["reason"]) == (True, "not a stained cell")
    assert fields["hint"] == "nothing in it is stained, as nuclei and platelets are"
    assert fields["label"]


def test_a_model_with_other_labels_has_no_facts(
    tmp_path: Path, cells: Path, build_model: Callable[..., PreTrainedModel], processor: LlavaImageProcessor,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    model = build_model("native", num_labels=2)
    model.config.id2label = {0: "cat", 1: "dog"}
    model.save_pretrained(tmp_path / "pets")
    processor.save_pretrained(tmp_path / "pets")
    capsys.readouterr()
    predict([cells / "0.jpg"], tmp_path / "pets")
    (written_row,) = read_csv(capsys.readouterr().out)
    assert {written_row["label_1"], written_row["label_2"]} == {"cat", "dog"}
    assert "label_3" not in written_row
    assert not any(written_row[name] for name in module.FACT_NAMES)


def test_a_bad_image_has_its_reason_and_nothing_else(
    cells: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    done = predict([cells], checkpoint)
    table = read_csv(capsys.readouterr().out)
    assert (done.images, done.unusable) == (4, 1)
    assert {key for key, value in table[2].items() if value} == {"image", "error"}
    assert table[2]["error"].startswith("truncated (")
    assert all(line["label"] and not line["error"] for line in table[:2] + table[3:])


def test_skipped_files_are_in_the_closing_line(
    cells: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.heic", "b.avif", "c.avif"):
        (cells / name).write_bytes(b"x")
    done = str(predict([cells], checkpoint))
    assert done.startswith("4 images, 1 could not be used, ")
    assert done.endswith(" images/s; files skipped: 2 .avif, 1 .heic")


def test_a_depth_that_was_guessed_is_noted(
    cells: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grey = Image.open(cells / "0.jpg").convert("L")
    grey.convert("RGB").save(tmp_path / "a.png")
    Image.fromarray(np.asarray(grey, np.uint16) << 4).save(tmp_path / "b.tif")
    capsys.readouterr()
    predict([tmp_path / "a.png", tmp_path / "b.tif"], checkpoint)
    plain, deep = read_csv(capsys.readouterr().out)
    assert plain["note"] == ""
    assert deep["note"].startswith("taken for 12-bit samples")
    assert deep["score"] == plain["score"]


def test_the_reason_is_one_line() -> None:
    assert row("a.png", BadImage("undecodable", "broken\n  here"), ID2LABEL, 3)["error"] == "undecodable (broken here)"


def test_no_image_can_be_used(cells: Path, checkpoint: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.csv"
    with pytest.raises(CelluScanError, match=r"no image could be used, of 1; the first, .*1b\.jpg: truncated"):
        predict([cells / "1b.jpg"], checkpoint, output)
    assert read_csv(output.read_text())[0]["error"].startswith("truncated")


def test_more_labels_than_there_are(cells: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    predict([cells / "0.jpg"], checkpoint, top_k=99)
    (written_row,) = read_csv(capsys.readouterr().out)
    assert [name for name in written_row if name.startswith("label")][-1] == "label_14"
    assert {value for name, value in written_row.items() if name.startswith("label")} == set(NAMES)


def test_a_spreadsheet_runs_no_name(
    cells: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["=cmd|'/c calc'!A0.png", "+1.png", "-1.png", "@SUM.png", "\t=1.png", '=a,"b"\n.png']
    image = {"bytes": (cells / "0.jpg").read_bytes(), "path": None}
    table = pa.table({"image": [image] * len(names), "image_id": names})
    pq.write_table(table, tmp_path / "cells.parquet")
    capsys.readouterr()
    predict([tmp_path / "cells.parquet"], checkpoint)
    assert [row["image"] for row in read_csv(capsys.readouterr().out)] == [f"'{name}" for name in names]
    predict([tmp_path / "cells.parquet"], checkpoint, form="json")
    assert [row["image"] for row in read_json(capsys.readouterr().out)] == names


@pytest.mark.parametrize(
    ("name", "form", "read"),
    [
        ("rows.csv", None, read_csv),
        ("rows.CSV", "csv", read_csv),
        ("rows.jsonl", None, read_json),
        ("rows.txt", "json", read_json),
    ],
)
def test_a_file_is_written_in_the_format_of_its_ending(
    name: str, form: Any, read: Callable[[str], list], cells: Path, checkpoint: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "new" / name
    capsys.readouterr()
    predict([cells / "0.jpg"], checkpoint, output, form=form)
    assert capsys.readouterr().out == ""
    assert read(output.read_text())[0]["label"] in NAMES
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"output": "rows.csv", "form": "json"}, "has an ending for --csv, but --json was given"),
        ({"output": "rows.txt"}, r"expected a name that ends in \.csv"),
        ({"output": "cells"}, "exists already"),
        ({"top_k": 0}, "--top-k 0: expected 1 or more"),
        ({"batch_size": -1}, "--batch-size -1: expected 1 or more"),
        ({"device": "toaster"}, "--device toaster: .*toaster"),
    ],
)
def test_invalid_options_are_refused(
    options: dict[str, Any], match: str, cells: Path, checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    options = options | ({"output": Path(options["output"])} if "output" in options else {})
    with pytest.raises(CelluScanError, match=match) as info:
        predict([cells], checkpoint, **options)
    assert "\n" not in str(info.value)


def test_images_are_looked_for_before_the_model(tmp_path: Path) -> None:
    with pytest.raises(CelluScanError, match=r"gone\.png does not exist; expected image files"):
        predict(["gone.png"], tmp_path / "no model")


@pytest.mark.parametrize("reason", [KeyboardInterrupt(), RuntimeError("a bug")])
def test_an_interruption_leaves_no_partial_file(
    reason: BaseException, cells: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def stop(*arguments: Any) -> Any:
        written.append(arguments)
        if len(written) == 2:
            raise reason
        return row(*arguments)

    monkeypatch.setattr(module, "row", stop)
    with pytest.raises(type(reason)):
        predict([cells], checkpoint, tmp_path / "new" / "rows.csv")
    assert list((tmp_path / "new").iterdir()) == []


def test_the_model_goes_where_it_is_sent(cells: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    monkeypatch.setattr(module, "best_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(PreTrainedModel, "to", lambda model, device: sent.append(str(device)))
    predict([cells / "0.jpg"], checkpoint)
    predict([cells / "0.jpg"], checkpoint, device="cuda:1")
    assert sent == ["cpu", "cuda:1"]


@pytest.mark.parametrize(
    ("stderr", "stdout", "output", "shown"),
    [
        (True, False, None, True),
        (False, False, None, False),
        (True, True, None, False),
        (True, True, "rows.csv", True),
    ],
)
def test_progress_is_shown_on_a_terminal_that_shows_no_rows(
    stderr: bool, stdout: bool, output: str | None, shown: bool, cells: Path, checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stderr.isatty", lambda: stderr)
    monkeypatch.setattr("sys.stdout.isatty", lambda: stdout)
    hidden = []
    bar = module.tqdm

    def note(results: Any, **options: Any) -> Any:
        hidden.append(options["disable"])
        assert options["total"] == 4
        return bar(results, **options)

    monkeypatch.setattr(module, "tqdm", note)
    predict([cells], checkpoint, output and tmp_path / output)
    assert hidden == [not shown]
    assert "images" not in capsys.readouterr().out
