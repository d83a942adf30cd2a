"""Assemble the folder of the metric's repository, a Space, which is where `evaluate.load` looks."""

import html
import shutil
from pathlib import Path

from ..evaluation.wbc_metrics import wbc_metrics

_CARD = """---
title: White blood cell metrics
emoji: 🔬
colorFrom: indigo
colorTo: pink
sdk: static
pinned: false
license: mit
tags:
- evaluate
- metric
- haematology
description: Accuracy, macro-F1, likelihood and calibration of a blood cell classifier, with intervals.
---

# White blood cell metrics

{description}

```python
import evaluate

metric = evaluate.load("{repository}")
metric.compute(predictions=[0, 1, 1], references=[0, 1, 2], label_names=["a", "b", "c"])
```

```
{inputs}
```

Results from one laboratory do not predict those in another, and none of these metrics validates a model for diagnosis.
"""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{repository}</title>
<style>body {{ font: 1rem/1.5 sans-serif; max-width: 45rem; margin: 2rem auto; padding: 0 1rem }}</style>
<h1>White blood cell metrics</h1><p>A metric for the library <code>evaluate</code>:</p>
<pre>evaluate.load("{repository}")</pre><pre>{text}</pre></html>
"""


def assemble(repository: str, folder: Path) -> None:
    """Write the folder; `evaluate` requires the file, and a local folder, to be named like the repository."""
    name = repository.rpartition("/")[2]
    text, inputs = (wbc_metrics.__doc__ or "").strip(), wbc_metrics.INPUTS.strip()
    card = _CARD.format(repository=repository, description=_description(text), inputs=inputs)
    folder.mkdir(parents=True)
    shutil.copyfile(wbc_metrics.__file__, folder / f"{name}.py")
    (folder / "README.md").write_text(card, "utf-8")
    page = _PAGE.format(repository=repository, text=html.escape(f"{_description(text)}\n\n{inputs}"))
    (folder / "index.html").write_text(page, "utf-8")
    (folder / "requirements.txt").write_text("evaluate\nnumpy\n", "utf-8")


def _description(text: str) -> str:
    """Return the description in the module's docstring, without the paragraph about the file."""
    return "\n\n".join(paragraph for paragraph in text.split("\n\n") if not paragraph.startswith("This file"))
