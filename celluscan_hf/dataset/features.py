"""The columns of the data set, and the files and configs they are spread over."""

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
    """The rows that share a name of files: originals or augmented, a split, and in train a tier."""

    kind: str
    split: str
    tier: str = ""

    @property
    def prefix(self) -> str:
        """Path and beginning of the name of its files, from the root of the data set."""
        return f"data/{self.kind}/{'-'.join(filter(None, (self.split, self.tier)))}"


HELD_OUT = tuple(Part("originals", split) for split in SPLITS[1:])
ORIGINAL_TRAIN = tuple(Part("originals", "train", tier) for tier in TIERS)
AUGMENTED_TRAIN = tuple(Part("augmented", "train", tier) for tier in TIERS)

# each config's train part; validation and test are the same in all
CONFIGS: dict[str, tuple[Part, ...]] = {
    "default": (*ORIGINAL_TRAIN, *AUGMENTED_TRAIN),
    "originals": ORIGINAL_TRAIN,
    "subset_5": (ORIGINAL_TRAIN[0], AUGMENTED_TRAIN[0]),
    "subset_20": (*ORIGINAL_TRAIN[:2], *AUGMENTED_TRAIN[:2]),
}
