"""The example of a cluster file meets Ray's own schema."""

from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).resolve().parents[1] / "scripts" / "cluster.yaml"


def test_the_cluster_file_is_one_for_ray() -> None:
    util = pytest.importorskip("ray.autoscaler._private.util", reason='Ray is missing: pip install "celluscan_hf[ray]"')
    config = yaml.safe_load(FILE.read_text("utf-8"))
    assert config["max_workers"] == config["min_workers"] == len(config["provider"]["worker_ips"])
    util.validate_config(util.prepare_config(config) | {"cluster_synced_files": []})
