"""Ask whether a figure can be trusted: `python scripts/audit.py leak --source pbc=DIR --output out/leak`."""

import sys

from celluscan_hf.audits.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
