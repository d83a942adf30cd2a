"""A recipe whose training takes a second."""

from pathlib import Path

import pytest
import yaml

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
