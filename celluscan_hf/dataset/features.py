"""Columns, files and configs of the dataset."""

from dataclasses import dataclass

import pyarrow as pa
from datasets import ClassLabel, Features, Image, Value

from .. import taxonomy
from ..curation.splits import SPLITS, TIERS

FEATURES = Features(
    {
        "image": Image(),
        "label": ClassLabel(names=list(taxonomy.NAMES)),
        "image_id": Value("string"),
        "source": Value("string"),
        "source_label": Value("string"),
        "license": Value("string"),
        "group_id": Value("string"),
        "acquisition": Value("string"),
        "sha256": Value("string"),
        "phash": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        "parent_id": Value("string"),
        "augmentation": Value("string"),
    }
)
SCHEMA: pa.Schema = FEATURES.arrow_schema


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
