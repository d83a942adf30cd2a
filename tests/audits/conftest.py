"""A recipe whose training takes a second, and made-up predictions."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from celluscan_hf import taxonomy
from celluscan_hf.evaluation.predictions import FACTS, Predictions

TINY = {
    "start": "scratch",
    "model": {
        "image_size": 32,
        "patch_size": 8,
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    },
    "per_device_train_batch_size": 32,
    "background_randomization": 1.0,
    "use_cpu": True,
    "disable_tqdm": True,
    "dataloader_num_workers": 0,
}


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(TINY))
    return str(file)


@pytest.fixture
def predicted() -> Callable[[Sequence[tuple[str, str, float]]], Predictions]:
    """Predictions from (true code, predicted code, its probability), each cell a group."""

    def make(outcomes: Sequence[tuple[str, str, float]]) -> Predictions:
        true, codes, confidence = zip(*outcomes, strict=True)
        labels, best = ([taxonomy.LABEL2ID[taxonomy.lookup(code).name] for code in side] for side in (true, codes))
        probabilities = np.repeat(((1 - np.array(confidence)) / 13)[:, None], 14, axis=1)
        probabilities[np.arange(len(best)), best] = confidence
        facts = {name: [str(row) for row in range(len(labels))] for name in FACTS}
        return Predictions(facts, np.array(labels), probabilities.astype(np.float32))

    return make
