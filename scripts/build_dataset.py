"""Build the data set folder from sources: `python scripts/build_dataset.py --source pbc=DIR --output out/wbc`."""

import argparse
import sys

from celluscan_hf.dataset.command import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
