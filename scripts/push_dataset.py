"""Publish a built data set: `python scripts/push_dataset.py out/wbc celluscan/wbc --revision v1.0`."""

import sys

from celluscan_hf.hub.command import push_dataset

if __name__ == "__main__":
    sys.exit(push_dataset(sys.argv[1:]))
