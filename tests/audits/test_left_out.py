import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celluscan_hf.audits import left_out
from celluscan_hf.cli import main
from celluscan_hf.dataset.build import build
from celluscan_hf.dataset.reading import CellDataset, open_dataset
from celluscan_hf.dataset.settings import BuildSettings
from celluscan_hf.sources.drawing import draw_cell
from tests.commands import audit as run_audit

ELSEWHERE = ("Basophil", "Lymphocyte", "Platelet")  # drawn in another laboratory, which has Platelets alone


@pytest.fixture(scope="module")
def two_sources(tmp_path_factory: pytest.TempPathFactory) -> CellDataset:
    """Two classes of two sources, and one class of each source alone."""
    folder = tmp_path_factory.mktemp("two_sources")
    chance = np.random.default_rng(0)
    for source, names in (("here", ("Basophil", "Lymphocyte", "Monocyte")), ("elsewhere", ELSEWHERE)):
        for name in names:
            (folder / source / name).mkdir(parents=True)
            for number in range(20):
                cell = draw_cell(name, chance, 48)
                cell.save(folder / source / name / f"{number}.png")
    given = tuple(f"imagefolder:{source}={folder / source}" for source in ("here", "elsewhere"))
    build(BuildSettings(given, folder / "wbc", image_size=48, target_per_class=0, num_proc=1))
    return open_dataset(folder / "wbc")


def test_nothing_of_what_is_left_out_is_learned_from(two_sources: CellDataset) -> None:
    source = max(set(two_sources.split("originals", "train")["source"]))
    kept, held = left_out.without(two_sources, "source", source)
    groups = set(held["group_id"].to_pylist())
    assert held.num_rows == 60
    assert set(held["source"].to_pylist()) == {source}
    for table in kept.values():
        assert source not in table["source"].to_pylist()
        assert not groups & set(table["group_id"].to_pylist())


def test_groups_of_left_out_cells_are_not_learned_from_either(two_sources: CellDataset, tmp_path: Path) -> None:
    """The dataset again, with one group that has cells of both sources."""
    shutil.copytree(two_sources.folder, tmp_path / "wbc")
    (file,) = (tmp_path / "wbc" / "data" / "originals").glob("train-tier100-*.parquet")
    table = pq.read_table(file)
    sources = table["source"].to_pylist()
    here, away = (sources.index(source) for source in sorted(set(sources)))
    groups = table["group_id"].to_pylist()
    groups[here] = groups[away]
    place = table.schema.get_field_index("group_id")
    pq.write_table(table.set_column(place, table.schema.field(place), pa.array(groups)), file)
    kept, _ = left_out.without(open_dataset(tmp_path / "wbc"), "source", sources[away])
    assert table["image_id"][here].as_py() not in kept["train"]["image_id"].to_pylist()


@pytest.mark.slow
def test_the_command_judges_both_parts_and_asks_for_no_class_that_was_not_learned(
    two_sources: CellDataset, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--dataset", str(two_sources.folder), "--output", str(tmp_path / "out"), "--recipe", tiny, "--steps", "2"]
    assert (
        run_audit(
            [
                "left-out",
                *given,
                "--only",
                "elsewhere",
                "--background-randomization",
                "0.5",
                "--json",
                str(tmp_path / "left.json"),
            ]
        )
        == 0
    )
    assert "| background_randomization |" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "left.json").read_text())["metrics"]
    assert list(metrics) == ["elsewhere"]
    for trainings in metrics.values():
        assert trainings["unseen"] == {"Platelet": 20}
        for training in ("plain", "background_randomization"):
            assert trainings[training]["left_out"]["n"] == 40
            assert trainings[training]["training_seconds"] > 0
            for part in ("same_classes", "left_out"):
                assert set(trainings[training][part]["per_class"]) == {"Basophil", "Lymphocyte"}
            assert len(trainings[training]["learned"]["per_class"]) == 3
            assert [row["cells"] for row in trainings[training]["recalibrated"]] == [16, 32]
    assert (tmp_path / "left.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_training_as_the_recipe_says_is_judged_on_the_five_classes_too(
    two_sources: CellDataset, tiny: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "two-steps.yaml"
    recipe.write_text(Path(tiny).read_text() + "max_steps: 2\n")
    given = ["--dataset", str(two_sources.folder), "--output", str(tmp_path / "out"), "--recipe", str(recipe)]
    result = tmp_path / "left.json"
    assert run_audit(["left-out", *given, "--as-recipe", "--only", "elsewhere", "--json", str(result)]) == 0
    (trainings,) = json.loads(result.read_text())["metrics"].values()
    assert "plain" not in trainings
    five = trainings["recipe"]["left_out"]["five_classes"]
    assert five["n"] == 40
    assert set(five["any_answer"]["ci95"]) >= {"macro_f1"}


def test_an_evaluation_may_leave_each_source_out(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr("celluscan_hf.audits.command.audit", lambda parser, words: calls.append(words))
    assert main(["evaluate", "--leave-one-source-out", "--dataset", "wbc", "--output", "out"]) == 0
    assert calls == [["left-out", "--by", "source", "--dataset", "wbc", "--output", "out"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "nowhere"], "source 'nowhere' cannot be left out: expected one with 10 cells or more of classes"),
        ([], "nothing can be left out: expected two values of source that share classes, with 10 cells or more of"),
    ],
)
def test_what_cannot_be_left_out_is_one_line(
    options: list[str], message: str, data_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_audit(["left-out", "--dataset", str(data_set), "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
