"""Write the folder of the model that comes with the package, from a run and its evaluation on the test split.

`python scripts/bundle_model.py out/bundled --evaluation out/bundled-test` writes `celluscan_hf/models/wbc-small/`.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # scripts/ holds an evaluate.py, which would hide the library

from celluscan_hf.hub.model_folder import TrainedModel, Variant, assemble  # noqa: E402
from celluscan_hf.models import WBC_SMALL  # noqa: E402


def bundle(run: Path, evaluation: Path, folder: Path = WBC_SMALL) -> None:
    """Write weights, processor, calibration, records, plots and card into `folder`, in place of what it holds."""
    packaged = Variant(folder.name, hand_built=True, counterpart=None, dataset=None, revision=None, packaged=True)
    before = folder.with_name(f"{folder.name}-before")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        assemble(TrainedModel(run, evaluation), packaged, Path(scratch) / folder.name)
        if folder.exists():
            folder.rename(before)
        (Path(scratch) / folder.name).rename(folder)
    shutil.rmtree(before, ignore_errors=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished folder of celluscan train --recipe bundled")
    parser.add_argument("--evaluation", type=Path, required=True, help="its folder of celluscan evaluate, test split")
    given = parser.parse_args()
    bundle(given.run, given.evaluation)
