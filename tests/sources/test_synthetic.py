"""Drawn cells as a source: as many of each class as asked, the same bytes for the same seed."""

import io
import pickle
from collections import Counter

import pytest
from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.sources.synthetic import Synthetic


def drawn(seed=0, count=1):
    source = Synthetic("synthetic", count, seed)
    return source, list(source.records())


def test_each_class_has_the_count_asked():
    _, records = drawn(count=3)
    assert Counter(record.label for record in records) == dict.fromkeys(taxonomy.NAMES, 3)


def test_source_label_is_the_code():
    _, records = drawn()
    assert [record.source_label for record in records] == [cell.code for cell in taxonomy.CLASSES]


def test_each_cell_is_its_own_group_and_no_copy():
    _, records = drawn(count=2)
    assert len({record.group for record in records}) == len({record.image_id for record in records}) == 28
    assert not any(record.augmented for record in records)


def test_ids_do_not_depend_on_the_count():
    few, many = ({record.image_id for record in drawn(count=count)[1]} for count in (1, 2))
    assert few < many


def test_bytes_are_those_of_the_seed_whatever_was_read_before():
    source, records = drawn(seed=5)
    forwards = [source.read(record) for record in records[:3]]
    again, _ = drawn(seed=5, count=9)
    backwards = [again.read(record) for record in reversed(records[:3])]
    assert forwards == backwards[::-1]


def test_another_process_draws_the_same():
    source, records = drawn()
    assert pickle.loads(pickle.dumps(source)).read(records[0]) == source.read(records[0])


@pytest.mark.parametrize("label", [0, 13])
def test_another_seed_draws_another_cell(label):
    first, second = (source.read(records[label]) for source, records in (drawn(seed=1), drawn(seed=2)))
    assert first != second


def test_cells_of_one_class_differ():
    source, records = drawn(count=2)
    assert source.read(records[0]) != source.read(records[1])


def test_bytes_are_a_png_that_opens():
    source, records = drawn()
    with Image.open(io.BytesIO(source.read(records[4]))) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGB")
