"""Publish the metric: `python scripts/push_metric.py celluscan/wbc_metrics`."""

import sys

from celluscan_hf.hub.command import push_metric

if __name__ == "__main__":
    sys.exit(push_metric(sys.argv[1:]))
