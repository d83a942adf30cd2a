"""Publish the demo page: `python scripts/push_space.py celluscan/celluscan --model celluscan/vit-b16-wbc`."""

import sys

from celluscan_hf.hub.command import push_space

if __name__ == "__main__":
    sys.exit(push_space(sys.argv[1:]))
