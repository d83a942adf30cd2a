"""Assemble the folder of a Space with the demo page: an app, the source of this package, and its requirements."""

import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import HfApi, ModelInfo
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,  # of the library's HTTP client, which differs between its releases
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

import celluscan_hf

from ..errors import CelluScanError

_CARD = """---
title: CelluScan
emoji: 🔬
colorFrom: indigo
colorTo: pink
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
license: mit
models:
- {model}
{datasets}tags:
- haematology
- white-blood-cells
short_description: Which blood cell is this? For education and research.
---

# CelluScan

Which blood cell is this? A page for [{model}](https://huggingface.co/{model}){trained_on}: the three most likely
classes of a cell, its maturation stage, an attention map, and facts about the class, each with its source.

For education and research. Not a medical device; not validated for diagnosis.

`app.py` pins the model to a commit; `celluscan_hf/` is the source of the page.
"""
_APP = '''"""The demo page of {model}."""

from celluscan_hf.space.demo import page_of
from celluscan_hf.space.page import serve

page = page_of("{model}", revision="{revision}", dataset={dataset!r})

if __name__ == "__main__":
    serve(page, "0.0.0.0", 7860)
'''
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "benchmarks")


def assemble(folder: Path, model: str, revision: str | None, dataset: str | None) -> None:
    """Write the folder of the Space for a model on the Hub, pinned to the current commit of `revision` or main.

    It names `dataset`, a Hub id, else the dataset in the model's card, if there is one.

    Raises:
        CelluScanError: The model cannot be read, or Gradio, whose version the Space requires, is not installed.
    """
    try:
        gradio = version("gradio")
    except PackageNotFoundError as error:
        raise CelluScanError('gradio is not installed: pip install "celluscan_hf[demo]"') from error
    info = _model_info(model, revision)
    dataset = dataset or _dataset_of(info)
    shutil.copytree(Path(celluscan_hf.__file__).parent, folder / "celluscan_hf", ignore=_LEFT_OUT)
    datasets = f"datasets:\n- {dataset}\n" if dataset else ""
    trained_on = f", trained on [{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else ""
    card = _CARD.format(model=model, datasets=datasets, trained_on=trained_on, gradio=gradio)
    (folder / "README.md").write_text(card, "utf-8")
    (folder / "app.py").write_text(_APP.format(model=model, revision=info.sha, dataset=dataset), "utf-8")
    (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", "utf-8")


def _model_info(model: str, revision: str | None) -> ModelInfo:
    try:
        return HfApi().model_info(model, revision=revision)
    except HFValidationError as error:
        raise CelluScanError(f"--model {model} is not a valid Hub repository: expected owner/name") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CelluScanError(
            f"{model}{f' at {revision}' * bool(revision)} is not a model on the Hub that you can read: publish it "
            "first, with celluscan push model"
        ) from error
    except (HTTPError, OSError, RuntimeError, JSONDecodeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CelluScanError(
            f"the Hub could not be reached to look up the model {model} ({reason}); check the connection, then run the "
            "same command again"
        ) from error


def _dataset_of(info: ModelInfo) -> str | None:
    """Return the first dataset in a model's card."""
    datasets = info.card_data.datasets if info.card_data else None
    return datasets if isinstance(datasets, str) else next(iter(datasets or ()), None)


def requirements() -> list[str]:
    """Return the requirements of the package without extras; the Space provides Gradio."""
    return sorted(line for line in requires("celluscan_hf") or () if "extra ==" not in line)
