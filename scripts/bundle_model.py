"""Write the folder of the model that comes with the package, from a run and its evaluation on the test split.

`python scripts/bundle_model.py out/bundled --evaluation out/bundled-test` writes `celluscan_hf/models/wbc-small/`.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # scripts/ holds an evaluate.py, which would hide the library

from celluscan_hf.bundled_model import WBC_SMALL  # noqa: E402
from celluscan_hf.hub.model_folder import TrainedModel, Variant, assemble  # noqa: E402
from scripts.tables import PLACES, metrics  # noqa: E402


def bundle(run: Path, evaluation: Path, folder: Path = WBC_SMALL) -> None:
    """Write weights, processor, calibration, records, plots and card into `folder`, in place of what it holds."""
    packaged = Variant(folder.name, True, None, None, None, packaged=True, left_out=tuple(left_out()))
    before = folder.with_name(f"{folder.name}-before")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        assemble(TrainedModel(run, evaluation), packaged, Path(scratch) / folder.name)
        if folder.exists():
            folder.rename(before)
        (Path(scratch) / folder.name).rename(folder)
    shutil.rmtree(before, ignore_errors=True)


def left_out() -> Iterator[dict[str, Any]]:
    """Yield what trainings reached on laboratories that they left out, from `results/`."""
    two = metrics("two-laboratories", "external")
    places = [(key, "PBC, bone marrow (this recipe)", place) for key, place in two.items()]
    alone = metrics("left-out-robust", "bone_marrow", "recipe", "left_out")
    for key, trained_on, place in [*places, ("bone_marrow", "the four others (`cpu-robust`, shorter)", alone)]:
        five = place["five_classes"]
        scores = {name: five["any_answer"][name] for name in ("accuracy", "macro_f1")}
        yield {"title": PLACES[key], "n": five["n"], "trained_on": trained_on} | scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished folder of celluscan train --recipe bundled")
    parser.add_argument("--evaluation", type=Path, required=True, help="its folder of celluscan evaluate, test split")
    given = parser.parse_args()
    bundle(given.run, given.evaluation)
