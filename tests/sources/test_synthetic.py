"""Synthetic cells as a source: the given number per class, the same bytes for the same seed."""

import io
import pickle
from collections import Counter

from PIL import Image

from celluscan_hf import taxonomy
from celluscan_hf.sources.synthetic import Synthetic


def synthetic(seed=0, count=1):
    source = Synthetic("synthetic", count, seed)
    return source, list(source.records())


def test_each_class_has_the_given_count_and_each_cell_its_own_group():
    _, records = synthetic(count=2)
    assert Counter(record.label for record in records) == dict.fromkeys(taxonomy.NAMES, 2)
    assert [record.source_label for record in records[::2]] == [cell.code for cell in taxonomy.CLASSES]
    assert len({record.group for record in records}) == len({record.image_id for record in records}) == 28
    assert not any(record.augmented for record in records)


def test_ids_do_not_depend_on_the_count():
    few, many = ({record.image_id for record in synthetic(count=count)[1]} for count in (1, 2))
    assert few < many


def test_bytes_are_those_of_the_seed_whatever_was_read_before():
    source, records = synthetic(seed=5)
    forwards = [source.read(record) for record in records[:3]]
    again, _ = synthetic(seed=5, count=9)
    backwards = [again.read(record) for record in reversed(records[:3])]
    assert forwards == backwards[::-1]


def test_cells_differ_by_seed_and_number_and_not_by_process():
    source, records = synthetic(seed=1, count=2)
    other, _ = synthetic(seed=2)
    first = source.read(records[0])
    assert pickle.loads(pickle.dumps(source)).read(records[0]) == first
    assert len({first, source.read(records[1]), other.read(records[0])}) == 3


def test_bytes_are_a_png_that_opens():
    source, records = synthetic()
    with Image.open(io.BytesIO(source.read(records[4]))) as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGB")
