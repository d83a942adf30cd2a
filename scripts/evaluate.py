"""Evaluate a classifier: `python scripts/evaluate.py --model out/run --dataset out/wbc --output out/eval`."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

LEAVE_OUT = "--leave-one-source-out"


def import_library() -> None:
    """Import the library `evaluate` in place of this file, which hides it from the scripts of this folder."""
    folder, path = Path(__file__).resolve().parent, sys.path.copy()
    sys.path[:] = [entry for entry in path if Path(entry).resolve() != folder]
    del sys.modules[__name__]
    try:
        import_module(__name__)
    finally:
        sys.path[:] = path


if __name__ == "__main__":
    if LEAVE_OUT in sys.argv:
        from celluscan_hf.audits.command import main

        sys.exit(main(["left-out", "--by", "source", *(word for word in sys.argv[1:] if word != LEAVE_OUT)]))

    from celluscan_hf.evaluation.command import add_arguments, run

    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"{LEAVE_OUT} --dataset FOLDER --output FOLDER: train without each source in turn, and judge on it; "
        f"its other options are those of scripts/audit.py left-out ({LEAVE_OUT} --help)",
    )
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
elif __name__ == "evaluate":
    import_library()
