"""Publish a trained model: `python scripts/push_model.py out/run celluscan/vit-b16-wbc --evaluation out/eval`."""

import sys

from celluscan_hf.hub.command import push_model

if __name__ == "__main__":
    sys.exit(push_model(sys.argv[1:]))
