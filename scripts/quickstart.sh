#!/usr/bin/env bash
# From nothing to a data set one can load: environment, install, drawn cells -> data set -> a look at it.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
output="out/quickstart/celluscan/wbc"
echo "== 1/3 environment (.venv) and install: a few minutes and 6 GB the first time"
[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch and torchvision together: torchvision's operators need a torch of the same build
.venv/bin/python -m pip install --quiet --disable-pip-version-check torch torchvision
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable .

echo "== 2/3 the data set: 40 drawn cells per class, train filled up to 60 per class"
.venv/bin/python scripts/build_dataset.py --source synthetic=40 --target-per-class 60 --output "$output" --resume

echo "== 3/3 loading it, with the line that works against the Hub"
cd out/quickstart
../../.venv/bin/python - <<'PYTHON'
from datasets import load_dataset

cells = load_dataset("celluscan/wbc")
print(cells)
row = cells["test"][0]
print("first test cell:", row["image_id"], "=", cells["test"].features["label"].int2str(row["label"]))
PYTHON
echo "== done. The folder is $output; open README.md and assets/classes.jpg in it."
