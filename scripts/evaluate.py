"""Evaluate a classifier: `python scripts/evaluate.py --model out/run --dataset out/wbc --output out/eval`."""

import argparse
import sys
from importlib import import_module
from pathlib import Path


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
    from celluscan_hf.evaluation.command import add_arguments, run

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
elif __name__ == "evaluate":
    import_library()
