"""Ray clusters of several nodes on this machine, for tests."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_timeout_ms": 3000}


class TwoNodes:
    """A cluster of a head and one other node, with one core each. `other` may be killed and comes back."""

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self.address: str = cluster.address
        self.other: Any = None

    def complete(self) -> "TwoNodes":
        if self.other is None:
            self.other = self.cluster.add_node(num_cpus=1)
        return self

    def kill(self) -> None:
        """Kill the other node and all that runs on it, without notice."""
        node, self.other = self.other, None
        self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def two_nodes() -> Iterator[TwoNodes]:
    """Start a cluster in a folder of its own, so that it is not taken for another one of this machine."""
    from ray.cluster_utils import Cluster

    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # paths of sockets may have 107 characters
    # Ray gives its workers a low priority, with which they barely run on a machine that is busy
    settings = {"RAY_TMPDIR": folder, "RAY_worker_niceness": "0"}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": QUICK}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield TwoNodes(cluster).complete()
    finally:
        cluster.shutdown()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        shutil.rmtree(folder, ignore_errors=True)
