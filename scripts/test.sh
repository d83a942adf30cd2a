#!/usr/bin/env bash
# All checks and tests, in an environment of their own (.venv): scripts/test.sh [arguments for pytest]
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-python3}"
[ -x .venv/bin/python ] || "$python" -m venv .venv
# torch and torchvision together: torchvision's operators need a torch of the same build
.venv/bin/python -m pip install --quiet --disable-pip-version-check torch torchvision
.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"

if ! command -v chromium > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  # for the tests of the page; they say so and are skipped where there is none
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } > /dev/null 2>&1 || true
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
# tables of measured values in texts are those of results/, the classes of files that stand alone those of the taxonomy
.venv/bin/python scripts/tables.py
if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
  git diff --exit-code -- '*.md' 'celluscan_hf/training/recipes/*.yaml' '*/configuration_celluscan.py' '*/wbc_metrics.py'
fi
processes="$(nproc 2>/dev/null || echo 2)"     # before the next line, which nproc would heed
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"  # one test process per core: more threads would wait for each other
.venv/bin/python -m pytest -n "$processes" --dist worksteal "$@"
