"""Where the model that comes with the package is: `models/wbc-small/`, trained by the recipe `bundled`.

Its README.md is its card. `scripts/bundle_model.py` writes the folder from a run and its evaluation.
"""

from pathlib import Path

WBC_SMALL = Path(__file__).parent / "models" / "wbc-small"
NAME = f"celluscan:{WBC_SMALL.name}"  # among the weights that a training may start from


def default_model() -> str:
    """Return the folder of `wbc-small`, for `pipeline(…, model=default_model())` and the Auto classes."""
    return str(WBC_SMALL)
