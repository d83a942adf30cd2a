"""The card of an adapted model: what it was adapted to, what to expect, how to use it, what to beware of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

_TAGS = ["biology", "medical", "haematology", "white-blood-cells", "microscopy", "vit"]
_METHODS = {
    "none": "Only the batch-norm statistics of its patch stem and its out-of-distribution score were estimated anew, "
    "from images without labels.",
    "calibration": "Only the temperature and a bias of each class were fitted.",
    "head": "The head was fitted to the frozen features.",
    "lora": "The head and low-rank adapters, which were merged into the weights, were fitted.",
    "full": "All layers were fitted.",
}


def render(record: Mapping[str, Any], folder: Path) -> str:
    """Write the card of `adaptation.json`; `folder` is that of the model, as the user named it."""
    name = folder.name
    parts = [_BEGINNING.format(name=name, source=record["from"], how=_METHODS[record["method"]])]
    parts += [_cells(record), _expected(record)] if "cells" in record else [_UNKNOWN]
    parts.append(_END.format(folder=folder.as_posix(), unchecked=_unchecked(record)))
    data = ModelCardData(
        license="mit", library_name="transformers", pipeline_tag="image-classification", tags=_TAGS, model_name=name
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _cells(record: Mapping[str, Any]) -> str:
    cells = record["cells"]
    titles = ", ".join(f"{facts['title']} (licence: {facts['license']})" for facts in cells["sources"].values())
    counts = ", ".join(f"{name} {count}" for name, count in cells["counts"].items())
    more = f", and {record['unlabelled']:,} images without labels" if record["unlabelled"] else ""
    return f"{cells['n']:,} labelled cells of {cells['groups']:,} groups from {titles}: {counts}{more}."


def _unchecked(record: Mapping[str, Any]) -> str:
    """A line on the classes of which there was no cell."""
    names = record.get("cells", {}).get("unchecked", [])
    if not names:
        return ""
    return (
        f"\n- No cell of {', '.join(names)} was given: these classes are as they were, and how often such a cell is "
        "recognised on this microscope is not known. It may get another class, also without a doubt."
    )


def _expected(record: Mapping[str, Any]) -> str:
    before, after = record["before"], record["expected"]
    if not after["n"]:
        return "What to expect is not known: no cell could be held out."
    low, high = after["ci95"]["balanced_accuracy"]
    rows = [
        f"| {name} | {before['recall'].get(name, 0):.2f} | {recall:.2f} |" for name, recall in after["recall"].items()
    ]
    return "\n".join(
        [
            "On held-out cells (cross-validation over groups) its balanced accuracy is "
            f"**{after['balanced_accuracy']:.2f}** (95 % interval {low:.2f}–{high:.2f}; before "
            f"{before['balanced_accuracy']:.2f}), its calibration error {after['ece']:.2f}. The choice between methods "
            "was made on the same cells, so expect a little less.",
            "",
            "| class | recall before | recall |",
            "| --- | ---: | ---: |",
            *rows,
        ]
    )


_BEGINNING = """# {name}: an adapted model for single blood cells

The model `{source}` of [CelluScan](https://huggingface.co/celluscan), adapted to another microscope. {how}

> **Not a medical device.** For education and research; no decision on a patient may rest on it."""
_UNKNOWN = (
    "No labelled cell was given, so what to expect is not known. It may be worse than before: look at some answers."
)
_END = """## How to use it

```python
import celluscan_hf  # registers the model
from transformers import pipeline

print(pipeline("wbc-classification", model="{folder}")("cell.jpg"))
```

## Limits

- It was adapted to one laboratory, maybe to one patient. On another microscope or stain it may be wrong.
- It always names one of its classes, unless it abstains.{unchecked}

`adaptation.json` holds the command, and what was tried and measured."""
