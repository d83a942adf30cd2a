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

from ..bundled_model import WBC_SMALL
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
{models}{datasets}tags:
- haematology
- white-blood-cells
short_description: Which blood cell is this? For education and research.
---

# CelluScan

Which blood cell is this? A page for {named}{trained_on}: the three most likely classes of a cell, its maturation stage,
an attention map, and facts about the class, each with its source; of several cells a differential.

For education and research. Not a medical device; not validated for diagnosis.

{pinned}`celluscan_hf/` is the source of the page.
"""
_APP = '''"""The demo page of {title}."""

from celluscan_hf.space.demo import page_of
from celluscan_hf.space.page import serve

page = page_of({arguments})

if __name__ == "__main__":
    serve(page, "0.0.0.0", 7860)
'''
_LEFT_OUT = ("__pycache__", "*.pyc", "benchmarks")


def assemble(folder: Path, model: str | None, revision: str | None, dataset: str | None) -> None:
    """Write the folder of the Space for a model on the Hub, pinned to the current commit of `revision` or main.

    Without a model, the page has the one that comes with this package. It names `dataset`, a Hub id, else the dataset
    in the model's card, if there is one.

    Raises:
        CelluScanError: The model cannot be read, `revision` is given without it, or Gradio, whose version the Space
            requires, is not installed.
    """
    try:
        gradio = version("gradio")
    except PackageNotFoundError as error:
        raise CelluScanError('gradio is not installed: pip install "celluscan_hf[demo]"') from error
    if model is None and revision is not None:
        raise CelluScanError(f"--model-revision {revision} needs --model: the model of the package has one version")
    info = _model_info(model, revision) if model else None
    dataset = dataset or (_dataset_of(info) if info else None)
    left_out = shutil.ignore_patterns(*_LEFT_OUT, *([WBC_SMALL.name] if model else []))
    shutil.copytree(Path(celluscan_hf.__file__).parent, folder / "celluscan_hf", ignore=left_out)
    (folder / "README.md").write_text(_card(model, dataset, gradio), "utf-8")
    pinned = f'"{model}", revision="{info.sha}", ' if info else ""
    app = _APP.format(title=model or WBC_SMALL.name, arguments=f"{pinned}dataset={dataset!r}")
    (folder / "app.py").write_text(app, "utf-8")
    (folder / "requirements.txt").write_text("\n".join(requirements()) + "\n", "utf-8")


def _card(model: str | None, dataset: str | None, gradio: str) -> str:
    return _CARD.format(
        models=f"models:\n- {model}\n" if model else "",
        datasets=f"datasets:\n- {dataset}\n" if dataset else "",
        named=f"[{model}](https://huggingface.co/{model})" if model else f"`{WBC_SMALL.name}`",
        trained_on=f", trained on [{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else "",
        pinned="`app.py` pins the model to a commit; " if model else "",
        gradio=gradio,
    )


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
