"""Columns on disk: what they hold, and text that repeats."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from celluscan_hf.curation import facts


def encoded(*texts: str | None) -> pa.DictionaryArray:
    return facts.encode(pa.array(texts, pa.large_string()))


def test_codes_number_the_sorted_values_and_null_is_minus_one() -> None:
    column = encoded("b", None, "a", "Ä", "b")
    assert facts.values(column) == ["a", "b", "Ä"]
    assert facts.codes(column).tolist() == [1, -1, 0, 2, 1]
    assert column.to_pylist() == ["b", None, "a", "Ä", "b"]


def test_parts_that_were_encoded_apart_get_common_codes() -> None:
    parts = pa.chunked_array([pa.array(["c", "a"]).dictionary_encode(), pa.array(["b", "c"]).dictionary_encode()])
    assert facts.codes(facts.encode(parts)).tolist() == [2, 0, 1, 2]


def test_stored_columns_are_read_again_and_one_in_memory_replaces_them(tmp_path: Path) -> None:
    lists = pa.array([[1, 2], [], None], pa.list_(pa.int64()))
    chunks = pa.chunked_array([["x", "y"], ["x"]], pa.large_string())
    table = facts.store([("name", facts.encode(chunks)), ("lists", lists)], tmp_path / "new")
    assert (table.column_names, table.num_rows) == (["name", "lists"], 3)
    assert table.select(["lists", "name"]).to_pydict() == {"lists": lists.to_pylist(), "name": ["x", "y", "x"]}
    assert table.with_columns({"name": pa.array([1, 2, 3])})["name"].to_pylist() == [1, 2, 3]
    assert table["name"].to_pylist() == ["x", "y", "x"]


def test_a_column_that_is_written_anew_leaves_the_one_that_is_open_as_it_was(tmp_path: Path) -> None:
    before = facts.store([("number", pa.array([1, 2, 3]))], tmp_path)["number"]
    after = facts.store([("number", pa.array([7, 8, 9]))], tmp_path)["number"]
    assert (before.to_pylist(), after.to_pylist()) == ([1, 2, 3], [7, 8, 9])


def test_rows_are_counted_by_each_combination_of_values() -> None:
    source, label = encoded("b", "a", "b", "b"), encoded("y", "x", "y", "x")
    assert facts.counts(source, label) == {("a", "x"): 1, ("b", "x"): 1, ("b", "y"): 2}
    assert facts.counts(source) == {("a",): 1, ("b",): 3}
    assert facts.equal_to(source, "b").tolist() == [True, False, True, True]
    assert not facts.equal_to(source, "c").any()


def test_picked_texts_come_in_batches_in_their_order(monkeypatch) -> None:
    monkeypatch.setattr(facts, "BATCH", 2)
    column = pa.array(["a", "b", "c", "d"], pa.large_string())
    picked = facts.picked(column, np.array([3, 0, 2, 3, 1]))
    assert list(facts.batches(picked)) == [["d", "a"], ["c", "d"], ["b"]]
    assert list(facts.batches(["x", "y", "z"])) == [["x", "y"], ["z"]]
    assert list(facts.batches(pa.chunked_array([["x"], ["y", "z"]]))) == [["x", "y"], ["z"]]
