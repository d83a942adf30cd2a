"""Run commands one after another in each process of a launcher: `driver.py FOLDER JOBS`, the latter as JSON.

A job has `arguments`, and perhaps a fault: `rank` of the process that cannot prepare its image number `image`, from 0,
and `error`, the name and arguments of what is raised then, or `kill`. Each process writes `FOLDER/<rank>.json`: for
each job but the last one the exit `status`, `out` and `err`. The last one ends the process, as in the command line.
"""

import builtins
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from itertools import count
from pathlib import Path
from typing import Any

from celluscan_hf.cli import main
from celluscan_hf.inference import prediction

RANK = os.environ["RANK"]
prepare = prediction.prepare


def faulty(job: dict[str, Any]) -> Callable[..., Any]:
    images = count()

    def prepare_or_fail(*arguments: Any) -> Any:
        if next(images) != job["image"]:
            return prepare(*arguments)
        if job["error"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        name, *details = job["error"]
        raise getattr(builtins, name)(*details)

    return prepare_or_fail


def run(job: dict[str, Any]) -> dict[str, Any]:
    prediction.prepare = faulty(job) if str(job.get("rank")) == RANK else prepare
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        try:
            status: Any = main(job["arguments"])
        except SystemExit as end:
            status = end.code
        except Exception as error:  # an unexpected one, which ends a process with a traceback
            status = repr(error)
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


*jobs, last = json.loads(sys.argv[2])
results = [run(job) for job in jobs]
Path(sys.argv[1], f"{RANK}.json").write_text(json.dumps(results))
prediction.prepare = faulty(last) if str(last.get("rank")) == RANK else prepare
sys.exit(main(last["arguments"]))
