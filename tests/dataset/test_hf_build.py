"""Builds from a Hugging Face dataset: the same bytes from Python and the command, and options per source."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from celluscan_hf.errors import CelluScanError
from celluscan_hf.sources import Selection

from .conftest import build_small, contents, run


@pytest.fixture
def parquet(tmp_path, write_image):
    """A parquet file with 12 cells of each of two classes, two image columns and a patient column."""
    images = [write_image(tmp_path / "drawn" / f"{n}.png", n).read_bytes() for n in range(48)]
    table = pa.table(
        {
            "image": [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(images[:24])],
            "other": [{"bytes": data, "path": f"{n}.png"} for n, data in enumerate(images[24:])],
            "label": ["Basophil", "smudge"] * 12,
            "patient": [f"p{n // 2}" for n in range(24)],
        }
    )
    pq.write_table(table, tmp_path / "cells.parquet")
    return tmp_path / "cells.parquet"


MAPPED = Selection(group="patient", labels=(("smudge", "Monocyte"),))


@pytest.mark.slow
def test_the_command_and_two_processes_give_the_same_bytes(parquet, tmp_path):
    options = {"target_per_class": 0, "selections": (("hf_dataset", MAPPED),)}
    statistics = build_small(tmp_path / "one", f"hf_dataset={parquet}", **options)
    assert statistics["source_groups"]["hf_dataset"]["groups"] == 12
    arguments = ["--target-per-class=0", "--group-column=patient", "--map-label=smudge=Monocyte"]
    done = run(tmp_path / "two", f"--source=hf_dataset={parquet}", *arguments, "--num-proc=2")
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_a_finished_build_from_another_column_is_refused(parquet, tmp_path):
    options = {"target_per_class": 0, "selections": (("hf_dataset", MAPPED),)}
    build_small(tmp_path / "wbc", f"hf_dataset={parquet}", **options)
    other = Selection("other", group="patient", labels=MAPPED.labels)
    with pytest.raises(CelluScanError, match="is a finished build from other sources"):
        build_small(tmp_path / "wbc", f"hf_dataset={parquet}", target_per_class=0, selections=(("hf_dataset", other),))


def test_options_that_name_a_source_apply_to_it_alone(parquet, tmp_path):
    sources = [f"--source=hf_dataset:{name}={parquet}" for name in ("a", "b")]
    options = ["--image-column=b=other", "--map-label=a=smudge=drop", "--map-label=b=smudge=EO"]
    fixed = ["--group-column=patient", "--target-per-class=0", "--num-proc=1"]
    done = run(tmp_path / "wbc", *sources, *options, *fixed)
    assert done.returncode == 0, done.stderr
    lines = [line.replace(" ", "") for line in done.stdout.splitlines()]
    assert any(line.startswith("|Eosinophil|") for line in lines) and "|no_class:smudge|12|" in lines
    assert "|a|12|12|0|thecolumnpatient|" in lines and "|b|12|24|0|thecolumnpatient|" in lines


def test_an_option_without_its_kind_of_source_is_one_line(tmp_path):
    done = run(tmp_path / "wbc", "--label-column=x")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode == 2 and len(lines) == 1 and "--label-column x: applies to a source hf_dataset" in lines[0]
