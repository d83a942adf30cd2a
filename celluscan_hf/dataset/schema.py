"""Columns, files and configs of the dataset, without the library `datasets`, whose import costs a worker seconds."""

import json
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from .. import taxonomy
from ..curation.splits import SPLITS, TIERS


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


# as `datasets` writes features into parquet files
_COLUMNS: dict[str, dict[str, Any]] = {
    "image": {"_type": "Image"},
    "label": {"names": list(taxonomy.NAMES), "_type": "ClassLabel"},
    "image_id": _value("string"),
    "source": _value("string"),
    "source_label": _value("string"),
    "license": _value("string"),
    "group_id": _value("string"),
    "acquisition": _value("string"),
    "sha256": _value("string"),
    "phash": _value("string"),
    "width": _value("int32"),
    "height": _value("int32"),
    "parent_id": _value("string"),
    "augmentation": _value("string"),
}
_TYPES = {"Image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "ClassLabel": pa.int64()}
SCHEMA: pa.Schema = pa.schema(
    {name: _TYPES.get(column["_type"]) or column["dtype"] for name, column in _COLUMNS.items()},
    metadata={"huggingface": json.dumps({"info": {"features": _COLUMNS}})},
)


@dataclass(frozen=True, order=True)
class Part:
    """A set of rows stored under one file prefix: originals or augmented, a split, and in train a tier."""

    kind: str
    split: str
    tier: str = ""

    @property
    def prefix(self) -> str:
        """Beginning of the path of its files, from the root of the dataset."""
        return f"data/{self.kind}/{'-'.join(filter(None, (self.split, self.tier)))}"


HELD_OUT = tuple(Part("originals", split) for split in SPLITS[1:])
ORIGINAL_TRAIN = tuple(Part("originals", "train", tier) for tier in TIERS)
AUGMENTED_TRAIN = tuple(Part("augmented", "train", tier) for tier in TIERS)

# train part of each config; validation and test are the same in all
CONFIGS: dict[str, tuple[Part, ...]] = {
    "default": (*ORIGINAL_TRAIN, *AUGMENTED_TRAIN),
    "originals": ORIGINAL_TRAIN,
    "subset_5": (ORIGINAL_TRAIN[0], AUGMENTED_TRAIN[0]),
    "subset_20": (*ORIGINAL_TRAIN[:2], *AUGMENTED_TRAIN[:2]),
}
