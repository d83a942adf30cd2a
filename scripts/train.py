"""Train a classifier by a recipe: `python scripts/train.py --recipe NAME --dataset DIR --output_dir DIR`."""

import sys

from celluscan_hf.training.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
