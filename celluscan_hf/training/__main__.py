"""`accelerate launch -m celluscan_hf.training …`: the command `celluscan train`."""

import sys

from ..cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
